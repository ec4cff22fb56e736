# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Transforms for exported models that do to an image what the engine's do, antialiasing included.

ONNX has no operator that all runtimes agree on for torchvision's antialiased bicubic resize, and the host exports a
resize without antialiasing, whose scores differ on every photograph larger than the input. Resizing is linear and
separable: a small matrix applied to the rows and another one applied to the columns, as everywhere.
"""

import torch
from anomalib.pre_processing.utils.transform import get_exportable_transform
from torch import Tensor, nn
from torchvision.transforms.v2 import Compose, InterpolationMode, Resize, Transform

_CUBIC_COEFFICIENT = -0.5
"""Keys' coefficient of antialiased bicubic interpolation, in PyTorch as in Pillow."""


def antialiasing_weights(source: Tensor, target: int, mode: InterpolationMode) -> Tensor:
    """Weights (target, N) of antialiased interpolation along one axis, as ``torch.nn.functional.interpolate`` has them.

    ``source`` holds the centres of the N source pixels, 0.5, 1.5, …: a tensor, so that N may be known
    only when the exported graph runs.

    Example:
        >>> antialiasing_weights(torch.arange(4) + 0.5, 2, InterpolationMode.BILINEAR)
        tensor([[0.4286, 0.4286, 0.1429, 0.0000],
                [0.0000, 0.1429, 0.4286, 0.4286]])
    """
    scale = (source[-1] + 0.5) / target  # source pixels for each target pixel
    centres = (torch.arange(target, device=source.device) + 0.5) * scale
    distance = ((source - centres.unsqueeze(1)) / scale.clamp_min(1)).abs()  # in pixels of the coarser grid
    weights = _cubic(distance) if mode is InterpolationMode.BICUBIC else (1 - distance).clamp_min(0)
    return weights / weights.sum(dim=1, keepdim=True)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic kernel of absolute distances."""
    a = _CUBIC_COEFFICIENT
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    zero = torch.zeros_like(distance)
    return torch.where(distance < 1, near, torch.where(distance < 2, far, zero))


class ExportableResize(nn.Module):
    """Antialiased resize to a fixed height and width that survives export to ONNX and OpenVINO."""

    def __init__(self, size: tuple[int, int], mode: InterpolationMode) -> None:
        super().__init__()
        self.size = size
        self.mode = mode

    def forward(self, image: Tensor) -> Tensor:
        """Resize images ``(B, 3, H, W)`` of floating-point numbers."""
        rows, columns = (
            antialiasing_weights(_pixel_centres(image, axis), side, self.mode).to(image.dtype)
            for axis, side in zip((-2, -1), self.size, strict=True)
        )
        return rows @ (image @ columns.T)


def _pixel_centres(image: Tensor, axis: int) -> Tensor:
    """Centres of the pixels along an axis, in float32 whatever the precision of the image."""
    return torch.arange(image.shape[axis], dtype=torch.float32, device=image.device) + 0.5


def exportable_transform(transform: Transform | None) -> nn.Module | None:
    """Return a transform that can be exported and yields what ``transform``, which is not altered, yields.

    Antialiased bicubic and bilinear resizing to a given height and width is done by ``ExportableResize``, all else by
    the host; ValueError for a resize that would not survive.
    """
    if isinstance(transform, Compose):
        parts = (exportable_transform(part) for part in transform.transforms)
        return nn.Sequential(*(part for part in parts if part is not None))
    if isinstance(transform, Resize):
        return _exportable_resize(transform)
    return get_exportable_transform(transform)


def _exportable_resize(resize: Resize) -> nn.Module:
    size = resize.size
    antialiased = resize.antialias and resize.interpolation in {InterpolationMode.BICUBIC, InterpolationMode.BILINEAR}
    if antialiased and size is not None and len(size) == 2:
        return ExportableResize((size[0], size[1]), resize.interpolation)
    if not antialiased and resize.interpolation is not InterpolationMode.NEAREST_EXACT and len(size or ()) == 2:
        return resize
    msg = (
        "Expected the Resize of pre_processor to have a height and a width and to be bicubic or bilinear for export, "
        f"but got {resize}. Leave pre_processor at its default, and choose the size with image_size."
    )
    raise ValueError(msg)
