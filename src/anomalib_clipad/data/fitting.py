# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""How an image comes to the size of the input: squashed, with its aspect ratio kept, or as it is."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from torchvision.transforms.v2 import Compose, InterpolationMode, Pad, Resize, Transform, query_size
from torchvision.tv_tensors import Mask

Fit = Literal["squash", "keep", "pad", "own"]
"""``squash`` as in the paper, whatever the aspect ratio; ``keep`` it, to multiples of the patch; ``pad`` it to the
whole input; an image's ``own`` size, which is for tiles."""


class UnfitImageError(ValueError):
    """An image cannot be brought to the input as the user asks; the message says why."""


class FitResize(Resize):
    """Antialiased bicubic resize that keeps the aspect ratio, or leaves an image as it is.

    A subclass of ``Resize``, because the host resizes by that, and by nothing else, before it puts images into batches.
    What is fitted already is not changed.

    Args:
        size: Height and width: of the input, in which ``"keep"`` and ``"pad"`` make the image as large as it can be;
            for ``"own"`` of the smallest image that is taken.
        fit: Which of these three.
        patch: Height and width of a patch; with ``"keep"`` both sides become multiples of it.
        fill: Colour of what ``"pad"`` adds at both sides, of each channel; masks are 0 there.
    """

    size: list[int]

    def __init__(
        self, size: tuple[int, int], fit: Fit, patch: tuple[int, int], fill: Sequence[float] = (0.0, 0.0, 0.0)
    ) -> None:
        super().__init__(size, interpolation=InterpolationMode.BICUBIC, antialias=True)
        self.fit: Fit = fit
        self.patch = patch
        self.fill = list(fill)

    def forward(self, *inputs: Any) -> Any:
        """Fit an image, and the mask and boxes beside it.

        Raises:
            UnfitImageError: If the image is too narrow, or smaller than a tile.
        """
        given = [each for each in inputs if each is not None]
        fitted = iter(_listed(Compose(self.steps(query_size(given)))(*given)))
        outputs = [None if each is None else next(fitted) for each in inputs]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def steps(self, size: tuple[int, int]) -> list[Transform]:
        """Transforms for an image of this height and width."""
        target = self.target(size)
        steps: list[Transform] = [Resize(target, interpolation=self.interpolation, antialias=True)]
        if self.fit == "pad":
            spare = [side - given for side, given in zip(self.size, target, strict=True)]
            top, left = (side // 2 for side in spare)
            fill: Any = {Mask: 0, "others": self.fill}
            steps.append(Pad([left, top, spare[1] - left, spare[0] - top], fill=fill))
        return steps

    def target(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width that an image of this size is resized to.

        Raises:
            UnfitImageError: If it is too narrow, or smaller than a tile.
        """
        height, width = size
        if self.fit == "own":
            if height < self.size[0] or width < self.size[1]:
                msg = (
                    f"Expected images of at least {self.size[0]}x{self.size[1]} pixels, the size of a tile, but got "
                    f"one of {height}x{width}. Choose smaller tiles (tiles.size), or an image_size."
                )
                raise UnfitImageError(msg)
            return size
        scale = min(self.size[0] / height, self.size[1] / width)
        unit = self.patch if self.fit == "keep" else (1, 1)
        sides = [round(side * scale / step) * step for side, step in zip(size, unit, strict=True)]
        if min(sides) == 0:
            msg = (
                f"Expected both sides of an image to be at least half a patch at {self.size[0]}x{self.size[1]}, but "
                f"got one of {height}x{width}, which is too narrow. Cut it up, or use resize=squash."
            )
            raise UnfitImageError(msg)
        return sides[0], sides[1]


def sizes_differ(transform: Any) -> bool:
    """Whether images of different sizes may still have different ones after a transform."""
    return isinstance(transform, FitResize) and transform.fit in {"keep", "own"}


def check_fit(given: str) -> Fit:
    """Return a way to fit images; ValueError if there is no such."""
    for fit in get_args(Fit):
        if given == fit:
            return fit
    msg = f"Expected resize to be one of {', '.join(get_args(Fit))}, but got {given!r}."
    raise ValueError(msg)


def _listed(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, tuple | list) else [outputs]
