# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Where an image lies in the model's input, and the way back to it."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import CenterCrop, Compose, Grayscale, Normalize, Pad, Resize, ToDtype, ToImage
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

from anomalib_clipad.data.fitting import FitResize

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""

KNOWN = (CenterCrop, FitResize, Grayscale, Normalize, Pad, Resize, ToDtype, ToImage)
"""Transforms that keep an image upright."""


def image_box(transform: Any, size: tuple[int, int]) -> Box | None:
    """Box of a whole image (height, width) in the transformed one, which it exceeds where the transform crops.

    ``None`` where a transform is not among ``KNOWN``.

    Example:
        >>> image_box(Compose([Resize((160, 160)), CenterCrop(120)]), (320, 640))
        (-20.0, -20.0, 140.0, 140.0)
    """
    parts = _parts(transform)
    if not all(type(part) in KNOWN for part in parts):
        return None
    height, width = size
    # Crops cut boxes too, but none cuts the pixel in the middle.
    middle = torch.tensor([[width - 1.0, height - 1.0, width + 1.0, height + 1.0]], dtype=torch.float64) / 2
    box: Any = BoundingBoxes(middle, format=BoundingBoxFormat.XYXY, canvas_size=size)
    for part in parts:
        box = part(box)
    left, top, right, bottom = box[0].tolist()
    x, y, half_width, half_height = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
    half_width, half_height = half_width * width / 2, half_height * height / 2
    return x - half_width, y - half_height, x + half_width, y + half_height


def pixels_within(side: int, low: float, high: float, first: float, last: float) -> slice:
    """Pixels of an image of this side, from ``low`` to ``high`` in a map, whose middles lie from first to last in it.

    Example:
        >>> pixels_within(100, 0.0, 10.0, 2.0, 3.0)
        slice(20, 30, None)
    """
    scale = side / (high - low)
    start, stop = (int(np.clip(math.ceil((at - low) * scale - 0.5), 0, side)) for at in (first, last))
    return slice(start, stop)


def to_image(
    plane: Tensor, box: Box, size: tuple[int, int], part: tuple[slice, slice] = (slice(None), slice(None))
) -> Tensor:
    """Resample a map (h, w), in which the image lies in a box, to the image (H, W); 0 where the map does not reach.

    ``part`` are the rows and columns of the image that are wanted.
    """
    left, top, right, bottom = box
    (height, width), (rows, columns) = size, plane.shape
    y = top + (torch.arange(height)[part[0]] + 0.5) * ((bottom - top) / height)
    x = left + (torch.arange(width)[part[1]] + 0.5) * ((right - left) / width)
    grid = torch.stack(torch.meshgrid(2 * x / columns - 1, 2 * y / rows - 1, indexing="xy"), dim=-1)
    resampled = F.grid_sample(plane[None, None], grid[None], padding_mode="border", align_corners=False)[0, 0]
    reached = ((y >= 0) & (y <= rows))[:, None] & ((x >= 0) & (x <= columns))
    return torch.where(reached, resampled, 0)


def _parts(transform: Any) -> list[Any]:
    if isinstance(transform, Compose):
        return [part for each in transform.transforms for part in _parts(each)]
    return [] if transform is None else [transform]
