# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Images of a user's own, from files and from memory, as the RGB tensors that anomalib reads."""

from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2.functional import to_dtype, to_image

ImageLike = str | Path | Image.Image | np.ndarray | Tensor
"""A file, a Pillow image, an array or a tensor."""

DEEP_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N", "F"})
"""Pillow's formats of more than 8 bits a channel. Made RGB, all values above 255 would turn white."""

_CHANNELS = (1, 3, 4)

_DECODING = Lock()
"""Pillow decodes an opened image on first use; several threads may be given the same one."""


class Unreadable(NamedTuple):
    """A file that could not be read, and why."""

    path: str
    reason: str


def read_image(path: str | Path) -> Tensor | Unreadable:
    """Read an image as anomalib does, or say why it cannot be read.

    Returns:
        RGB image (3, H, W) in [0, 1]; an alpha channel is dropped.
    """
    try:
        with Image.open(path) as image:
            return _from_pillow(image)
    except UnidentifiedImageError:
        return Unreadable(str(path), "not an image, or of an unknown format")
    except Image.DecompressionBombError as error:
        return Unreadable(str(path), f"{error} If it is yours, set PIL.Image.MAX_IMAGE_PIXELS = None, or cut it up.")
    except Exception as error:  # noqa: BLE001 - Pillow raises errors of many kinds for damaged files
        return Unreadable(str(path), getattr(error, "strerror", None) or str(error) or type(error).__name__)


def image_size(path: str | Path) -> tuple[int, int] | None:
    """Height and width of an image file, by its header; ``None`` where it cannot be opened."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception:  # noqa: BLE001 - as above
        return None


def as_tensor(image: Image.Image | np.ndarray | Tensor) -> Tensor:
    """Make an RGB tensor of an image in memory.

    Args:
        image: Pillow image of 8 bits a channel; array of uint8 (H, W) or (H, W, C); array of floats, or tensor of uint8
            or floats, (H, W) or (C, H, W). Floats are in [0, 1], C is 1 (grey), 3 (RGB) or 4 (RGB and alpha, which is
            dropped).

    Returns:
        RGB image (3, H, W) in [0, 1].

    Raises:
        TypeError: If it is none of these.
        ValueError: If its type, shape or values are others.

    Example:
        >>> as_tensor(np.full((2, 4), 255, dtype=np.uint8)).shape
        torch.Size([3, 2, 4])
    """
    if isinstance(image, Image.Image):
        with _DECODING:
            return _from_pillow(image)
    if isinstance(image, np.ndarray):
        channels_last = image.dtype == np.uint8
        _check_dtype(image, valid=channels_last or np.issubdtype(image.dtype, np.floating))
        pixels = torch.from_numpy(np.array(image, dtype=np.uint8 if channels_last else np.float32, order="C"))
    elif isinstance(image, Tensor):
        channels_last, pixels = False, image.detach()
        _check_dtype(image, valid=image.dtype == torch.uint8 or image.is_floating_point())
    else:
        msg = f"Expected an image to be a path, a Pillow image, an array or a tensor, but got {type(image).__name__}."
        raise TypeError(msg)
    pixels = _channels_first(pixels, channels_last=channels_last)
    if not pixels.is_floating_point():
        return to_dtype(pixels, torch.float32, scale=True)
    low, high = (value.item() for value in pixels.aminmax())
    if not (low >= 0 and high <= 1):  # also where a value is NaN
        msg = (
            f"Expected an image of floats to have values in [0, 1], but got {low:.4g} to {high:.4g}. "
            "Divide it by its highest possible value; the model normalises it by itself."
        )
        raise ValueError(msg)
    return pixels.float()


def _from_pillow(image: Image.Image) -> Tensor:
    if image.mode in DEEP_MODES:
        msg = (
            f"Expected an image of 8 bits a channel, but got Pillow's mode {image.mode!r}. "
            "Scale it first, for example with numpy: (image // 257).astype('uint8') for 16 bits."
        )
        raise ValueError(msg)
    tensor: Tensor = to_dtype(to_image(image.convert("RGB")), torch.float32, scale=True)
    return tensor.as_subclass(Tensor)


def _check_dtype(image: np.ndarray | Tensor, *, valid: bool) -> None:
    if not valid:
        msg = f"Expected an image to be of type uint8 or float, but got {image.dtype}. Scale it to one of these first."
        raise ValueError(msg)


def _channels_first(pixels: Tensor, *, channels_last: bool) -> Tensor:
    """Bring (H, W), (H, W, C) or (C, H, W) into the form (3, H, W)."""
    shape = tuple(pixels.shape)
    if pixels.ndim == 2:
        pixels = pixels[None]
    elif pixels.ndim == 3 and channels_last:
        pixels = pixels.permute(2, 0, 1)
    if pixels.ndim != 3 or pixels.shape[0] not in _CHANNELS or not pixels.numel():
        form = "(H, W) or (H, W, C)" if channels_last else "(H, W) or (C, H, W)"
        msg = (
            f"Expected an image to have shape {form} with {', '.join(map(str, _CHANNELS))} channels, but got {shape}. "
            "Arrays of uint8 have the channels last, tensors and arrays of floats have them first."
        )
        raise ValueError(msg)
    return pixels.expand(3, -1, -1) if pixels.shape[0] == 1 else pixels[:3]
