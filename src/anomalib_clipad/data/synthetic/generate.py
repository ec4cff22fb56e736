# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Writes procedural categories to disk in the folder layout of MVTec AD."""

import json
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from anomalib_clipad.data.synthetic.render import DEFECT_KINDS, photograph

MANIFEST = "manifest.json"
GENERATOR_VERSION = 1
"""Raised whenever the same recipe draws other images."""


@dataclass(frozen=True)
class Recipe:
    """What determines the images of a category.

    Args:
        seed: Seed; any other gives other images of the same kind.
        size: Side of the square images in pixels.
        n_train: Good images of the training split.
        n_test_good: Good images of the test split.
        n_test_per_defect: Test images of each kind of defect.
        version: Version of the generator.

    Raises:
        ValueError: If a number is out of range.
    """

    seed: int = 0
    size: int = 240
    n_train: int = 40
    n_test_good: int = 40
    n_test_per_defect: int = 5
    version: int = GENERATOR_VERSION

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, least in (("seed", 0), ("size", 32), ("n_train", 1), ("n_test_good", 1), ("n_test_per_defect", 1)):
            if getattr(self, name) < least:
                msg = f"Expected {name} to be at least {least}, but got {getattr(self, name)}."
                raise ValueError(msg)


class _Picture(NamedTuple):
    split: str
    label: str
    number: int
    defect: str | None


def generate(root: Path, categories: Sequence[str], recipe: Recipe) -> None:
    """Write the categories that are not there yet; each appears at once, complete.

    Args:
        root: Dataset folder, ``<root>/<category>/{train,test,ground_truth}/<label>/<image>.png``.
        categories: Names from ``CATEGORIES``.
        recipe: Seed, size and numbers of images.

    Raises:
        ValueError: If a category is there already, but drawn by another recipe.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     generate(Path(folder), ["nut"], Recipe(size=32, n_train=1, n_test_good=1, n_test_per_defect=1))
        ...     len(list(Path(folder).glob("nut/test/*/*.png")))
        15
    """
    missing = [category for category in categories if not _is_there(root / category, recipe)]
    pictures = list(_pictures(recipe))
    with tqdm(total=len(missing) * len(pictures), desc="Drawing synthetic defects", unit="image", delay=2) as progress:
        for category in missing:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root, prefix=f".{category}-") as staging:
                folder = Path(staging) / category
                for picture in pictures:
                    _write(folder, category, picture, recipe)
                    progress.update()
                (folder / MANIFEST).write_text(json.dumps(asdict(recipe)))
                _publish(folder, root / category)


def _publish(folder: Path, destination: Path) -> None:
    """Move a complete folder into place; a process that has done so in the meantime has drawn the same."""
    try:
        folder.rename(destination)
    except OSError:
        if not (destination / MANIFEST).is_file():
            raise
        shutil.rmtree(folder)


def _is_there(folder: Path, recipe: Recipe) -> bool:
    if not folder.exists():
        return False
    try:
        found = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        found = "a folder without a readable manifest"
    if found != asdict(recipe):
        msg = (
            f"Expected {folder} to be drawn by {asdict(recipe)}, but got {found}. "
            "Pass another root, or delete the folder to draw it anew."
        )
        raise ValueError(msg)
    return True


def _pictures(recipe: Recipe) -> Iterator[_Picture]:
    yield from (_Picture("train", "good", number, None) for number in range(recipe.n_train))
    yield from (_Picture("test", "good", number, None) for number in range(recipe.n_test_good))
    for defect in DEFECT_KINDS:
        yield from (_Picture("test", defect, number, defect) for number in range(recipe.n_test_per_defect))


def _write(folder: Path, category: str, picture: _Picture, recipe: Recipe) -> None:
    # One generator an image, so that no image depends on how many others are drawn.
    key = zlib.crc32(f"{category}/{picture.split}/{picture.label}".encode())
    rng = np.random.default_rng((recipe.seed, key, picture.number))
    image, mask = photograph(rng, category, picture.defect, recipe.size)
    _write_png(folder / picture.split / picture.label / f"{picture.number:03d}.png", image[..., ::-1])
    if picture.defect is not None:
        _write_png(
            folder / "ground_truth" / picture.label / f"{picture.number:03d}_mask.png", mask.astype(np.uint8) * 255
        )


def _write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), pixels):
        msg = f"Expected {path} to be writable, but got an error from the image encoder. Check space and permissions."
        raise OSError(msg)
