# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""From the user's arguments of geometry to the pre-processor and to the looks at an image."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Compose, InterpolationMode, Normalize, Resize

from anomalib_clipad.clip.backbone import Backbone
from anomalib_clipad.clip.vision_tower import patch_grid
from anomalib_clipad.data.fitting import Fit, FitResize, check_fit
from anomalib_clipad.scoring.looks import Looks, Tiles

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Geometry(NamedTuple):
    """How images come to the input, and how they are looked at there.

    ``image_size`` (height, width) is that of the input; of images of their own size the least that is taken.
    """

    image_size: tuple[int, int]
    fit: Fit
    looks: Looks

    @property
    def seen(self) -> tuple[int, int]:
        """Height and width of what the tower sees first."""
        return self.looks.scales[0] if self.looks.scales else self.image_size

    def pre_processor(
        self, patch: tuple[int, int], mean: Sequence[float] = _CLIP_MEAN, std: Sequence[float] = _CLIP_STD
    ) -> PreProcessor:
        """Bicubic resize and normalisation."""
        resize = Resize(self.image_size, interpolation=InterpolationMode.BICUBIC, antialias=True)
        if self.fit != "squash":
            resize = FitResize(self.image_size, self.fit, patch, mean)
        return PreProcessor(transform=Compose([resize, Normalize(mean=list(mean), std=list(std))]))

    @classmethod
    def of(cls, image_size: Any, resize: str | None, scales: Any, tiles: Any, backbone: Backbone) -> "Geometry":
        """Geometry by the user's arguments, with their defaults.

        Raises:
            ValueError: If one is not valid, or they do not go together.
        """
        given = Tiles.of(tiles)
        if given is not None:
            given = replace(given, size=given.size or min(backbone.image_size))
            patch_grid(backbone.patch_size, (given.side, given.side), "tiles.size")
        fit = check_fit(resize or ("own" if given is not None and image_size is None else "squash"))
        listed = scales if isinstance(scales, Sequence) and not isinstance(scales, str) else [scales]
        sizes = () if scales is None else tuple(resolve_size(scale, backbone, "scales") for scale in listed)
        if given is None and fit == "own":
            msg = "Expected tiles for images of their own size (resize=own), but got none. Add --model.tiles true."
            raise ValueError(msg)
        if given is not None:
            size = (given.side, given.side) if fit == "own" else _size_for_tiles(image_size, given.side)
            holds_native = fit == "own" or all(side >= own for side, own in zip(size, backbone.image_size, strict=True))
            sizes = sizes or (backbone.image_size if holds_native else (given.side, given.side),)
            if fit == "own" and image_size is not None:
                msg = f"Expected no image_size for images of their own size (resize=own), but got {image_size}."
                raise ValueError(msg)
        elif image_size is None and sizes:
            size = max(sizes, key=lambda each: each[0] * each[1])
        else:
            size = resolve_size(image_size, backbone)
        if fit != "own" and any(scale[0] > size[0] or scale[1] > size[1] for scale in sizes):
            msg = (
                f"Expected scales up to the image_size {size[0]}x{size[1]}, but got {_listed(sizes)}. "
                "Raise image_size, or leave it out."
            )
            raise ValueError(msg)
        box = size if fit == "keep" else None
        return cls(size, fit, Looks(sizes, given, padded=fit == "pad", box=box, patch=backbone.patch_size))


def make_pre_processor(
    size: tuple[int, int], mean: Sequence[float] = _CLIP_MEAN, std: Sequence[float] = _CLIP_STD
) -> PreProcessor:
    """Bicubic resize to ``size`` (height, width), whatever the aspect ratio, and normalisation."""
    return Geometry(size, "squash", Looks()).pre_processor((1, 1), mean, std)


def resolve_size(given: Any, backbone: Backbone, name: str = "image_size") -> tuple[int, int]:
    """Height and width in pixels from what the user gave; ``None`` stands for the backbone's own.

    Raises:
        ValueError: If it is no size, or the patch does not divide it.
    """
    if given is None:
        return backbone.image_size
    height, width = _sides(given, name)
    patch_grid(backbone.patch_size, (height, width), name)
    return height, width


def _size_for_tiles(given: Any, side: int) -> tuple[int, int]:
    """Height and width that images are resized to before they are cut up; patches need not divide it."""
    if given is None:
        msg = "Expected image_size for tiles of resized images, but got none. Leave out resize for their own size."
        raise ValueError(msg)
    height, width = _sides(given, "image_size")
    if min(height, width) < side:
        msg = f"Expected image_size to be at least that of a tile ({side}), but got {height}x{width}."
        raise ValueError(msg)
    return height, width


def _sides(given: Any, name: str) -> tuple[int, int]:
    sides = [given] * 2 if isinstance(given, int) else list(given) if isinstance(given, Sequence) else []
    if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        msg = f"Expected {name} to be one number of pixels, or a height and a width, but got {given!r}."
        raise ValueError(msg)
    return sides[0], sides[1]


def _listed(sizes: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{height}x{width}" for height, width in sizes)
