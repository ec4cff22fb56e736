# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Which images are known to be good: a user's own, or some of a datamodule's normal training images."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import center_crop, horizontal_flip, rotate

from anomalib_clipad.data.image_list import list_images
from anomalib_clipad.data.image_loader import ListedImage
from anomalib_clipad.host.command_line import plain_errors

TURNS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Keeping:
    """What is kept of images known to be good; further arguments of :class:`References`.

    Raises:
        ValueError: If an argument is not valid.
    """

    turns: int = 1
    flips: bool = False
    max_patches: int = 50_000

    @plain_errors()
    def __post_init__(self) -> None:
        if self.turns not in TURNS:
            msg = f"Expected references.turns to be one of {', '.join(map(str, TURNS))}, but got {self.turns}."
            raise ValueError(msg)
        if self.max_patches < 1:
            msg = f"Expected references.max_patches to be at least 1, but got {self.max_patches}."
            raise ValueError(msg)

    @property
    def copies(self) -> int:
        """Copies of each image that are remembered."""
        return self.turns * (1 + self.flips)

    def turned(self, image: Tensor) -> list[Tensor]:
        """Make the copies of an image (3, H, W), itself first; what turning brings in from outside is reflected."""
        turned = [_rotated(image, 360 * number / self.turns) for number in range(self.turns)]
        return turned + [horizontal_flip(each) for each in turned] if self.flips else turned


@dataclass(frozen=True)
class References:
    """Images known to be good, with which others are compared: few-shot detection.

    Args:
        path: Folder of images, CSV file of paths and class names, or a folder for each class.
        k_shot: Instead of ``path``: so many normal images of each category's own training split.
        seed: Seed of that choice; ``None`` for the one given to ``seed_everything``, or else 0.
        turns: Copies of each image, turned by equal angles, itself included: 2 by 180°, 4 by 90°, 8 by 45°.
        flips: Whether mirrored copies are added, which doubles their number.
        max_patches: Patches kept of each class and layer; more are thinned by the host's coreset.

    Raises:
        ValueError: If an argument is not valid.
    """

    path: str | dict[str, str] | None = None
    k_shot: int = 0
    seed: int | None = None
    turns: int = Keeping.turns
    flips: bool = Keeping.flips
    max_patches: int = Keeping.max_patches

    @plain_errors()
    def __post_init__(self) -> None:
        if (self.path is None) == (self.k_shot == 0) or self.k_shot < 0:
            msg = (
                f"Expected references to name either a path or a positive k_shot, but got path={self.path!r} and "
                f"k_shot={self.k_shot}. Give --model.references FOLDER, or --model.references.k_shot 4."
            )
            raise ValueError(msg)
        Keeping(self.turns, self.flips, self.max_patches)  # refuses what is not valid

    @classmethod
    def of(cls, given: "References | str | Path | Mapping[str, Any] | None") -> "References | None":
        """References of what a user gave: a path, a folder for each class, or arguments by name.

        Raises:
            ValueError: If they are not valid.
        """
        if given is None or isinstance(given, References):
            return given
        if isinstance(given, str | Path):
            return cls(path=str(given))
        arguments = set(cls.__dataclass_fields__)
        by_name = {"path", "k_shot"} & set(given) and set(given) <= arguments
        return cls(**given) if by_name else cls(path=dict(given))

    @property
    def keeping(self) -> Keeping:
        """What is kept of the images."""
        return Keeping(self.turns, self.flips, self.max_patches)

    def listed(self) -> list[ListedImage]:
        """List the images at ``path``, those of a plain folder without a class name.

        Raises:
            FileNotFoundError: If there is no such file or folder.
            ValueError: If there are no images.
        """
        if not isinstance(self.path, dict):
            return list_images(str(self.path))
        found = [image._replace(class_name=name) for name, folder in self.path.items() for image in list_images(folder)]
        return [image._replace(position=position) for position, image in enumerate(found)]


def draw_shots(
    datamodule: Any, k_shot: int, seed: int | None, category_of: Callable[[Sequence[str]], Sequence[str]]
) -> list[ListedImage]:
    """Draw ``k_shot`` normal training images of each category of a datamodule, the same for equal seeds.

    ``category_of`` names the category of each of some image files.

    Raises:
        ValueError: If there is no datamodule, or a category has fewer normal training images.
    """
    if datamodule is None:
        msg = (
            "Expected a datamodule to draw references.k_shot images from, but got none. Name a folder of good images "
            "(--model.references FOLDER)."
        )
        raise ValueError(msg)
    given = int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed
    data = getattr(datamodule, "target_train_data", None) or datamodule.train_data
    paths = sorted(str(path) for path in data.samples.loc[data.samples["label_index"] == 0, "image_path"])
    by_category: dict[str, list[str]] = {}
    for path, category in zip(paths, category_of(paths), strict=True):
        by_category.setdefault(category, []).append(path)
    drawn = []
    for category, files in by_category.items():
        if len(files) < k_shot:
            msg = (
                f"Expected at least {k_shot} normal training images of {category} for references.k_shot={k_shot}, "
                f"but got {len(files)}."
            )
            raise ValueError(msg)
        chosen = np.random.default_rng(given).choice(len(files), k_shot, replace=False)
        drawn += [ListedImage(files[number], category) for number in sorted(chosen.tolist())]
    return [image._replace(position=position) for position, image in enumerate(drawn)]


def _rotated(image: Tensor, degrees: float) -> Tensor:
    if degrees % 90 == 0:
        return torch.rot90(image, int(degrees // 90), dims=(-2, -1))
    height, width = image.shape[-2:]
    # As far out as the corners of a turned image reach, if there is as much to reflect.
    margins = [min(side - 1, -(-side // 2)) for side in (width, height)]
    padded = functional.pad(image[None], (margins[0], margins[0], margins[1], margins[1]), mode="reflect")[0]
    return center_crop(rotate(padded, degrees, InterpolationMode.BILINEAR), [height, width])
