# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Building blocks of the procedural images: noise, rotated coordinates, colours, light and silhouettes.

Images are float32 RGB in [0, 1] with shape ``(S, S, 3)``; fields (heights, masks) are ``(S, S)``. All lengths are
fractions of the image side, so that a category looks the same at every size ``S``.
"""

import colorsys
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]
Image = NDArray[np.floating[Any]]


def noise(rng: Generator, size: int, cells: int | tuple[int, int]) -> Field:
    """Random field in about [-1, 1] with blobs of ``1 / cells`` of the side; ``cells`` may be (rows, columns)."""
    rows, columns = (cells, cells) if isinstance(cells, int) else cells
    coarse = rng.uniform(-1, 1, (min(rows, size) + 1, min(columns, size) + 1)).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def fractal_noise(rng: Generator, size: int, cells: int, octaves: int = 3) -> Field:
    """Sum of ``octaves`` noise fields, each twice as fine and half as strong as the one before."""
    field = sum(noise(rng, size, cells * 2**octave) / 2**octave for octave in range(octaves))
    return np.asarray(field, dtype=np.float32)


def coordinates(size: int, angle: float = 0.0, centre: tuple[float, float] = (0.5, 0.5)) -> tuple[Field, Field]:
    """Pixel coordinates (x, y) relative to ``centre``, turned by ``angle`` radians, in units of the side."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = axis[None, :] - centre[0], axis[:, None] - centre[1]
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cosine * x + sine * y, cosine * y - sine * x


def step(signed_distance: Field, size: int, softness: float = 1.0) -> Field:
    """Antialiased inside test: 1 where ``signed_distance`` (units of the side) is positive, 0 where negative."""
    return np.clip(signed_distance * (size / softness) + 0.5, 0, 1).astype(np.float32)


def warp(rng: Generator, size: int, field: Field, cells: int, amount: float) -> Field:
    """Displace ``field`` smoothly by up to ``amount`` of the side."""
    axis = np.arange(size, dtype=np.float32)
    dx, dy = (noise(rng, size, cells) * np.float32(amount * size) for _ in range(2))
    return cv2.remap(field, axis[None, :] + dx, axis[:, None] + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def colour(
    rng: Generator, hue: tuple[float, float], saturation: tuple[float, float], value: tuple[float, float]
) -> Image:
    """One random RGB colour, shape ``(3,)``, from ranges of hue (turns), saturation and value."""
    h, s, v = (rng.uniform(*bounds) for bounds in (hue, saturation, value))
    return np.array(colorsys.hsv_to_rgb(h % 1, s, v), dtype=np.float32)


def any_colour(rng: Generator) -> Image:
    """A random RGB colour of any hue."""
    return colour(rng, (0, 1), (0, 0.8), (0.2, 0.95))


def metal(rng: Generator) -> Image:
    """A random colour of bare or plated metal."""
    if rng.random() < 0.25:
        return colour(rng, (0.08, 0.14), (0.3, 0.55), (0.55, 0.8))
    return colour(rng, (0.5, 0.7), (0, 0.1), (0.45, 0.8))


def blend(low: Image, high: Image, weight: Field) -> Image:
    """Mix two colours or images by a weight field, 0 gives ``low`` and 1 gives ``high``."""
    return low + (high - low) * weight[..., None]


def light(rng: Generator, height: Field, strength: float) -> Field:
    """Relative brightness of a relief under a lamp from a random side, 1 on level ground.

    ``height`` is in units of the side, so its slopes do not depend on the image size.
    """
    size = height.shape[0]
    direction = rng.uniform(0, 2 * np.pi)
    gradient_y, gradient_x = np.gradient(height * size)
    slope = gradient_x * np.cos(direction) + gradient_y * np.sin(direction)
    return (1 + strength * np.tanh(slope)).astype(np.float32)


def speckle(rng: Generator, size: int, amount: float) -> Field:
    """Pixel-sized grain of standard deviation ``amount`` at any size up to 256, softer above."""
    grain = min(size, 256)
    field = rng.standard_normal((grain, grain), dtype=np.float32) * np.float32(amount)
    return field if grain == size else cv2.resize(field, (size, size), interpolation=cv2.INTER_LINEAR)
