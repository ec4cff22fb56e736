# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Small pictures for pages: photographs, masks and anomaly maps."""

import base64
import io

import cv2
import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from scipy.ndimage import binary_erosion

MAX_SIDE = 176
"""Pixels of a picture's longer side."""

_COLOURS = (np.asarray(mpl.colormaps["inferno"](np.arange(256)))[:, :3] * 255).astype(np.uint8)
_OUTLINE = (64, 224, 255)  # a colour that inferno does not have


def open_image(path: str, side: int = MAX_SIDE) -> Image.Image | None:
    """Return an image in RGB, reduced to at most ``side``, or ``None`` where the file is gone or not an image."""
    try:
        with Image.open(path) as file:
            file.draft("RGB", (2 * side, 2 * side))  # decodes a large JPEG at a fraction of its size
            image = file.convert("RGB")
    except Exception:  # noqa: BLE001 - Pillow raises errors of many kinds for damaged files
        return None
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2)
    return image


def is_upright(path: str) -> bool:
    """Whether an image is shown by browsers as it is stored, not turned by its EXIF orientation."""
    try:
        with Image.open(path) as file:
            return file.getexif().get(ExifTags.Base.Orientation, 1) == 1
    except Exception:  # noqa: BLE001 - Pillow raises errors of many kinds for damaged files
        return False


def open_mask(path: str, size: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Return a mask at another size, or ``None`` where there is no such file.

    Args:
        path: File of the mask; empty for none.
        size: Height and width to return. A pixel belongs to the defect if half of it does; a defect that would vanish
            in this way keeps every pixel that it touches.

    Returns:
        Mask of the given size.
    """
    if not path:
        return None
    try:
        with Image.open(path) as file:
            full = np.asarray(file if file.mode == "P" else file.convert("L")) > 0
    except Exception:  # noqa: BLE001 - Pillow raises errors of many kinds for damaged files
        return None
    shares = np.asarray(Image.fromarray(full.astype(np.float32)).resize(size[::-1], Image.Resampling.BOX))
    mask = shares >= 0.5
    return mask if mask.any() else shares > 0


def picture_size(image: Image.Image | None, map_size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of the pictures of one row: those of the image, or of the map if there is no image."""
    if image is not None:
        return image.height, image.width
    scale = MAX_SIDE / max(map_size)
    return round(map_size[0] * scale), round(map_size[1] * scale)


def photograph_uri(image: Image.Image) -> str:
    """Return an image as JPEG."""
    return jpeg_uri(jpeg(image))


def jpeg(image: Image.Image) -> bytes:
    """Encode an image, in colours or grey, as JPEG."""
    return _encoded(image, "JPEG", quality=82)


def jpeg_uri(content: bytes) -> str:
    """Return the content of a JPEG file as a data URI."""
    return _uri(content, "JPEG")


def mask_uri(mask: NDArray[np.bool_]) -> str:
    """Return a mask as PNG, white on black."""
    return _uri(_encoded(Image.fromarray(mask), "PNG", optimize=True), "PNG")


def map_uri(
    anomaly_map: NDArray[np.uint8], limits: tuple[float, float], size: tuple[int, int], mask: NDArray[np.bool_] | None
) -> str:
    """Return an anomaly map in colours, dark to bright, as JPEG, with the outline of the ground truth.

    Args:
        anomaly_map: (h, w) anomaly map, 0 to 255.
        limits: Values that the darkest and the brightest colour stand for.
        size: Height and width of the picture.
        mask: Ground truth at that size.
    """
    low, high = limits
    scaled = np.clip((anomaly_map.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)
    large = Image.fromarray((255 * scaled).astype(np.uint8)).resize(size[::-1], Image.Resampling.BILINEAR)
    pixels = _COLOURS[np.asarray(large)]
    if mask is not None:
        pixels[mask & ~binary_erosion(mask)] = _OUTLINE
    return jpeg_uri(_encoded(Image.fromarray(pixels), "JPEG", quality=80, subsampling=0))


def colour_bar_uri() -> str:
    """Return the colours of the maps, dark to bright, as a strip."""
    return _uri(_encoded(Image.fromarray(_COLOURS[None]), "PNG", optimize=True), "PNG")


def outline(mask: NDArray[np.bool_]) -> str:
    """Return the borders of a mask's parts and of the holes in them as an SVG path, in pixels of the mask.

    Example:
        >>> mask = np.zeros((4, 4), dtype=bool)
        >>> mask[1:3, 1:4] = True
        >>> outline(mask)
        'M1.5 1.5L1.5 2.5L3.5 2.5L3.5 1.5Z'
    """
    # Without approximation a slanted border takes a point a pixel.
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    polygons = [cv2.approxPolyDP(each, 0.6, closed=True)[:, 0] + 0.5 for each in contours]
    return "".join("M" + "L".join(f"{x:g} {y:g}" for x, y in points) + "Z" for points in polygons)


def colour_ramp(low: float, high: float, steps: int = 32) -> list[str]:
    """Return red, green, blue and opacity of values from 0 to 1 as tables for an SVG filter, ``feComponentTransfer``.

    Values up to ``low`` are dark and transparent, from ``high`` on bright and opaque.
    """
    values = np.linspace(0, 1, steps + 1)
    place = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    colours = _COLOURS[np.rint(255 * place).astype(int)] / 255
    opacity = np.clip(2 * place, 0, 1)
    return [" ".join(f"{value:.3g}" for value in channel) for channel in (*colours.T, opacity)]


def _encoded(image: Image.Image, encoding: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, encoding, **options)
    return file.getvalue()


def _uri(content: bytes, encoding: str) -> str:
    return f"data:image/{encoding.lower()};base64,{base64.b64encode(content).decode('ascii')}"
