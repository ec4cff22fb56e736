# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Looks at an image: the whole at several sizes, overlapping tiles at its own, and one map of them all.

The host's ``Tiler`` averages overlapping tiles with equal weights, which shows their borders, and holds all at once.
Several sizes are those of FADE (https://arxiv.org/abs/2409.00556).
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from anomalib_clipad.host.command_line import plain_errors
from anomalib_clipad.scoring.anomaly_map import resample
from anomalib_clipad.scoring.resizing import resize

_LARGEST_OVERLAP = 0.9


@dataclass(frozen=True)
class Tiles:
    """Scores overlapping tiles of each image at its own resolution, besides the whole.

    Args:
        size: Height and width of a tile in pixels; ``None`` for the size that the backbone was made for.
        overlap: Share of a tile that its neighbour covers too, from 0 to 0.9; more where tiles would not end with the
            image.
        whole: Whether the whole image is scored too.
        batch_size: Tiles that the tower sees at once, of one image or several; ``None`` for 2 on a CPU, where more are
            no faster, and 16 elsewhere.

    Raises:
        ValueError: If an argument is not valid.
    """

    size: int | None = None
    overlap: float = 0.25
    whole: bool = True
    batch_size: int | None = None

    @plain_errors()
    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= _LARGEST_OVERLAP:
            msg = f"Expected tiles.overlap to be from 0 to {_LARGEST_OVERLAP}, but got {self.overlap}."
            raise ValueError(msg)
        for name in ("size", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                msg = f"Expected tiles.{name} to be at least 1, but got {value}."
                raise ValueError(msg)

    @property
    def side(self) -> int:
        """The size, 0 as long as it is the backbone's, which is not known here."""
        return self.size or 0

    @classmethod
    def of(cls, given: "Tiles | Mapping[str, Any] | bool | None") -> "Tiles | None":
        """Tiles of what a user gave: whether to use them, or arguments by name."""
        if given is None or isinstance(given, bool):
            return cls() if given else None
        return given if isinstance(given, Tiles) else cls(**given)


class Looks(NamedTuple):
    """At which sizes (height, width) the whole image is looked at, none for its own, and in which tiles besides.

    ``padded`` says that images may have a border of zeros, which no anomaly lies in. Where they keep their aspect ratio
    in a ``box`` (height, width), sizes are those of the box; patches divide what is seen.
    """

    scales: tuple[tuple[int, int], ...] = ()
    tiles: Tiles | None = None
    padded: bool = False
    box: tuple[int, int] | None = None
    patch: tuple[int, int] = (1, 1)

    def first(self, image: Tensor) -> Tensor:
        """The whole image at the first size."""
        return resize(image, self.first_size(image))

    def first_size(self, image: Tensor) -> tuple[int, int]:
        """Height and width at which the whole image is looked at first."""
        return self._size(image, self.scales[0]) if self.scales else (image.shape[-2], image.shape[-1])

    def wholes(self, image: Tensor) -> Iterator[Tensor]:
        """The whole image at each size."""
        if self.tiles is None or self.tiles.whole:
            yield from (resize(image, self._size(image, scale)) for scale in self.scales) if self.scales else (image,)

    def _size(self, image: Tensor, scale: tuple[int, int]) -> tuple[int, int]:
        if self.box is None:
            return scale
        sides = zip(image.shape[-2:], scale, self.box, self.patch, strict=True)
        height, width = (max(1, round(side * to / of / step)) * step for side, to, of, step in sides)
        return height, width


class Look(NamedTuple):
    """What one look at B images says: K maps (K, B, H, W) in [0, 1], and S scores of each image (S, B)."""

    maps: Tensor
    scores: Tensor


def tile_starts(side: int, size: int, overlap: float) -> list[int]:
    """First pixels of the fewest tiles that cover a side with at least this overlap, evenly spread.

    Raises:
        ValueError: If the side is shorter than a tile.

    Example:
        >>> tile_starts(960, 240, 0.25)
        [0, 180, 360, 540, 720]
    """
    if side < size:
        msg = f"Expected images of at least {size} pixels a side for tiles of {size} pixels, but got one of {side}."
        raise ValueError(msg)
    number = 1 + math.ceil((side - size) / (size * (1 - overlap)) - 1e-9)
    return [round(index * (side - size) / max(1, number - 1)) for index in range(number)]


def tile_batches(image: Tensor, options: Tiles) -> Iterator[tuple[list[tuple[int, int]], Tensor]]:
    """Pixels (P * B, 3, size, size) of images (B, 3, H, W) at some places, tops and lefts, after the other.

    Raises:
        ValueError: If an image is smaller than a tile.
    """
    size = options.side
    tops, lefts = (tile_starts(side, size, options.overlap) for side in image.shape[-2:])
    places = list(itertools.product(tops, lefts))
    # A graph of any number of images sees all places at once.
    in_flight = options.batch_size or (2 if image.device.type == "cpu" else 16)
    at_once = len(places) if torch.compiler.is_compiling() else max(1, in_flight // len(image))
    for start in range(0, len(places), at_once):
        part = places[start : start + at_once]
        yield part, torch.cat([image[..., top : top + size, left : left + size] for top, left in part])


def look_at_tiles(
    image: Tensor,
    options: Tiles,
    look: Callable[[Any, int], Look],
    batches: Iterable[tuple[list[tuple[int, int]], Any]] | None = None,
) -> Look:
    """Look at the tiles of images (B, 3, H, W), some at a time; a score is the highest of a tile of the image.

    ``look`` takes (P * B, 3, size, size) pixels of P places, and P. Memory grows with the maps alone. Where ``batches``
    are given, places and what was made of the tiles there, it takes that instead of pixels.

    Raises:
        ValueError: If an image is smaller than a tile.
    """
    n_images, size = image.shape[0], options.side
    fading = _fading(size).to(image.device)
    sums: Any = None
    scores: Any = None
    for places, tiles in tile_batches(image, options) if batches is None else batches:
        maps, found = (each.unflatten(1, (len(places), -1)) for each in look(tiles, len(places)))
        sums = maps.new_zeros(len(maps), n_images, *image.shape[-2:]) if sums is None else sums
        for (top, left), of_place in zip(places, maps.unbind(1), strict=True):
            sums = _added(sums, of_place * fading[:, None] * fading, top, left)
        highest = found.amax(dim=1)
        scores = highest if scores is None else torch.maximum(scores, highest)
    rows, columns = (_weights(side, fading, options.overlap) for side in image.shape[-2:])
    return Look(sums.div_(rows[:, None]).div_(columns), scores)  # in place, since maps may be large


def _added(canvas: Tensor, part: Tensor, top: int, left: int) -> Tensor:
    """Add a part (..., h, w) to a canvas (..., H, W); in place, but for exporters, which are slow at that."""
    (height, width), (rows, columns) = canvas.shape[-2:], part.shape[-2:]
    if torch.compiler.is_compiling():
        return canvas + functional.pad(part, [left, width - left - columns, top, height - top - rows])
    canvas[..., top : top + rows, left : left + columns] += part
    return canvas


def _weights(side: int, fading: Tensor, overlap: float) -> Tensor:
    """Sums (side,) of the weights of all tiles along one side; those of a map are products of two."""
    sums = fading.new_zeros(side)
    for start in tile_starts(side, len(fading), overlap):
        sums[start : start + len(fading)] += fading
    return sums


def _fading(size: int) -> Tensor:
    """Weights (size,) of a tile's rows or columns, which fall off linearly towards its border and do not reach zero."""
    places = torch.arange(size)
    return torch.minimum(places + 0.5, size - places - 0.5) / (size / 2)


def combine(wholes: Sequence[Look], tiled: Look | None, size: tuple[int, int]) -> Look:
    """One look of several: the mean of their maps, at one size, and what their scores say together.

    The first score, the class token's probability, is that of the first whole; with tiles the mean of it and of the
    highest of a tile. All others are means.
    """
    looks = [*wholes, *([] if tiled is None else [tiled])]
    if len(looks) == 1 and looks[0].maps.shape[-2:] == size:
        return looks[0]
    total: Any = None
    for each in looks:
        maps = each.maps if each.maps.shape[-2:] == size else resample(each.maps, size)
        total = maps if total is None else total.add_(maps)  # in place, since maps may be large
    first = [*wholes[:1], *([] if tiled is None else [tiled])]
    probability = torch.stack([each.scores[0] for each in first]).mean(dim=0)
    others = torch.stack([each.scores[1:] for each in looks]).mean(dim=0)
    return Look(total.div_(len(looks)), torch.cat([probability[None], others]))


def without_padding(maps: Tensor, image: Tensor) -> Tensor:
    """Maps (B, H, W) that have their lowest value where the rows or columns of an image (B, 3, H, W) are all zero."""
    shown = (image != 0).any(dim=1)
    shown = shown.any(dim=-1, keepdim=True) & shown.any(dim=-2, keepdim=True)
    lowest = maps.masked_fill(~shown, 1.0).amin(dim=(-2, -1), keepdim=True)
    return torch.where(shown, maps, lowest)
