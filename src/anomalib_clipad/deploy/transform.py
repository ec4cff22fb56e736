# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Transforms for exported models that do to an image what the engine's do, antialiasing included.

The host exports a resize without antialiasing, whose scores differ on every photograph larger than the input.
"""

import torch
from anomalib.pre_processing.utils.transform import get_exportable_transform
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2 import Compose, InterpolationMode, Pad, Resize, Transform

from anomalib_clipad.data.fitting import FitResize
from anomalib_clipad.scoring.resizing import resize


class ExportableResize(nn.Module):
    """Antialiased resize to a fixed height and width that survives export to ONNX and OpenVINO."""

    def __init__(self, size: tuple[int, int], mode: InterpolationMode) -> None:
        super().__init__()
        self.size = size
        self.mode = mode

    def forward(self, image: Tensor) -> Tensor:
        """Resize images ``(B, 3, H, W)`` of floating-point numbers."""
        return resize(image, self.size, self.mode)


class ExportablePad(nn.Module):
    """Padding by the colour of each channel; ``padding`` is left, top, right and bottom."""

    fill: Tensor

    def __init__(self, padding: list[int], fill: list[float]) -> None:
        super().__init__()
        left, top, right, bottom = padding
        self.padding = [left, right, top, bottom]
        self.register_buffer("fill", torch.tensor(fill)[:, None, None])

    def forward(self, image: Tensor) -> Tensor:
        """Pad images ``(B, 3, H, W)``."""
        return functional.pad(image - self.fill, self.padding) + self.fill


def exportable_transform(transform: Transform | None, input_size: tuple[int, int] | None = None) -> nn.Module | None:
    """Return a transform that can be exported and yields what ``transform``, which is not altered, yields.

    Antialiased bicubic and bilinear resizing to a given height and width is done by ``ExportableResize``, all else by
    the host. What keeps an aspect ratio needs the size of the raw images.

    Raises:
        ValueError: If a resize would not survive, or needs ``input_size``.
    """
    if isinstance(transform, Compose):
        parts = (exportable_transform(part, input_size) for part in transform.transforms)
        return nn.Sequential(*(part for part in parts if part is not None))
    if isinstance(transform, FitResize):
        return _fitted(transform, input_size)
    if isinstance(transform, Resize):
        return _exportable_resize(transform)
    return get_exportable_transform(transform)


def _fitted(transform: FitResize, input_size: tuple[int, int] | None) -> nn.Module | None:
    if input_size is None:
        msg = (
            f"Expected input_size for a model that does not squash its images (resize={transform.fit}), but got none. "
            "Pass the height and width of raw images (--input_size)."
        )
        raise ValueError(msg)
    if transform.fit == "own":
        transform.target(input_size)  # refuses what is too small
        return None
    parts: list[nn.Module] = [ExportableResize(transform.target(input_size), transform.interpolation)]
    parts += [ExportablePad(pad.padding, transform.fill) for pad in transform.steps(input_size) if isinstance(pad, Pad)]
    return nn.Sequential(*parts)


def _exportable_resize(transform: Resize) -> nn.Module:
    size = transform.size
    antialiased = transform.antialias and transform.interpolation in {
        InterpolationMode.BICUBIC,
        InterpolationMode.BILINEAR,
    }
    if antialiased and size is not None and len(size) == 2:
        return ExportableResize((size[0], size[1]), transform.interpolation)
    if not antialiased and transform.interpolation is not InterpolationMode.NEAREST_EXACT and len(size or ()) == 2:
        return transform
    msg = (
        "Expected the Resize of pre_processor to have a height and a width and to be bicubic or bilinear for export, "
        f"but got {transform}. Leave pre_processor at its default, and choose the size with image_size."
    )
    raise ValueError(msg)
