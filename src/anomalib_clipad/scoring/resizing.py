# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Antialiased resizing by a small matrix for the rows and another one for the columns.

So it is the same in the engine and in an exported graph: ONNX has no operator that all runtimes agree on for
torchvision's antialiased bicubic resize.
"""

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode

_CUBIC_COEFFICIENT = -0.5
"""Keys' coefficient of antialiased bicubic interpolation, in PyTorch as in Pillow."""


def resize(image: Tensor, size: tuple[int, int], mode: InterpolationMode = InterpolationMode.BICUBIC) -> Tensor:
    """Resize images ``(B, 3, H, W)`` of floating-point numbers to a height and a width, bicubic or bilinear."""
    if not torch.compiler.is_compiling() and tuple(image.shape[-2:]) == tuple(size):
        return image
    with torch.autocast(image.device.type, enabled=False):
        rows, columns = (
            antialiasing_weights(_pixel_centres(image, axis), side, mode).to(image.dtype)
            for axis, side in zip((-2, -1), size, strict=True)
        )
        # In between OpenVINO would make the normalisation that follows a part of a product of other size, and fail.
        planes = image.flatten(0, 1)
        return (rows @ (planes @ columns.T)).unflatten(0, (-1, image.shape[1]))


def _pixel_centres(image: Tensor, axis: int) -> Tensor:
    """Centres of the pixels along an axis, in float32 whatever the precision of the image."""
    return torch.arange(image.shape[axis], dtype=torch.float32, device=image.device) + 0.5


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
