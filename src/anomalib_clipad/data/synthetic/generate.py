# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Writes procedural categories to disk in the folder layout of MVTec AD."""

import json
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from anomalib_clipad.data.synthetic.render import DEFECT_KINDS, LARGEST_SMALL_AREA, photograph

MANIFEST = "manifest.json"
GENERATOR_VERSION = 1  # raised whenever the same recipe draws other images


@dataclass(frozen=True)
class Recipe:
    """What determines the images of a category; refuses numbers out of range."""

    seed: int = 0
    size: int = 240  # side in pixels
    n_train: int = 40
    n_test_good: int = 40
    n_test_per_defect: int = 5
    version: int = GENERATOR_VERSION
    defect_area: tuple[float, float] | None = None  # least and largest share of the image, for small defects

    def __post_init__(self) -> None:
        if self.defect_area is not None and not 0 < self.defect_area[0] < self.defect_area[1] <= LARGEST_SMALL_AREA:
            msg = (
                f"Expected defect_area to be two rising shares of the image of at most {LARGEST_SMALL_AREA}, but got "
                f"{self.defect_area}."
            )
            raise ValueError(msg)
        for name, least in (("seed", 0), ("size", 32), ("n_train", 1), ("n_test_good", 1), ("n_test_per_defect", 1)):
            if getattr(self, name) < least:
                msg = f"Expected {name} to be at least {least}, but got {getattr(self, name)}."
                raise ValueError(msg)

    def manifest(self) -> dict[str, Any]:
        """Plain data that tells which recipe has drawn a folder."""
        return {name: value for name, value in json.loads(json.dumps(asdict(self))).items() if value is not None}


def generate(root: Path, categories: Sequence[str], recipe: Recipe) -> None:
    """Write the categories that are not there yet; each appears at once, complete.

    Raises ``ValueError`` if one is there already, but drawn by another recipe.
    """
    missing = [category for category in categories if not _is_there(root / category, recipe)]
    counts = {("train", "good"): recipe.n_train, ("test", "good"): recipe.n_test_good}
    counts |= {("test", defect): recipe.n_test_per_defect for defect in DEFECT_KINDS}
    pictures = [(split, label, number) for (split, label), count in counts.items() for number in range(count)]
    with tqdm(total=len(missing) * len(pictures), desc="Drawing synthetic defects", unit="image", delay=2) as progress:
        for category in missing:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root, prefix=f".{category}-") as staging:
                folder = Path(staging) / category
                for picture in pictures:
                    _write(folder, *picture, recipe)
                    progress.update()
                (folder / MANIFEST).write_text(json.dumps(recipe.manifest()))
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
    if found != recipe.manifest():
        msg = (
            f"Expected {folder} to be drawn by {recipe.manifest()}, but got {found}. "
            "Pass another root, or delete the folder to draw it anew."
        )
        raise ValueError(msg)
    return True


def _write(folder: Path, split: str, label: str, number: int, recipe: Recipe) -> None:
    # One generator an image, so that no image depends on how many others are drawn.
    rng = np.random.default_rng((recipe.seed, zlib.crc32(f"{folder.name}/{split}/{label}".encode()), number))
    image, mask = photograph(rng, folder.name, None if label == "good" else label, recipe.size, recipe.defect_area)
    _write_png(folder / split / label / f"{number:03d}.png", image[..., ::-1])
    if label != "good":
        _write_png(folder / "ground_truth" / label / f"{number:03d}_mask.png", mask.astype(np.uint8) * 255)


def _write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), pixels):
        msg = f"Expected {path} to be writable, but got an error from the image encoder. Check space and permissions."
        raise OSError(msg)
