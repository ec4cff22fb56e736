# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""One photograph: a product, perhaps a defect, then the camera."""

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from anomalib_clipad.data.synthetic.defects import DEFECTS
from anomalib_clipad.data.synthetic.objects import OBJECTS
from anomalib_clipad.data.synthetic.patterns import Image, coordinates, speckle
from anomalib_clipad.data.synthetic.textures import TEXTURES

CATEGORIES: tuple[str, ...] = (*TEXTURES, *OBJECTS)
HELD_OUT_CATEGORIES = ("wood", "carpet", "marble", "brushed_metal", "gear", "button", "screw", "capsule")
TRAINING_CATEGORIES = tuple(name for name in CATEGORIES if name not in HELD_OUT_CATEGORIES)
DEFECT_KINDS = tuple(DEFECTS)
HELD_OUT_DEFECTS = ("crack", "burn")
TRAINING_DEFECTS = tuple(name for name in DEFECT_KINDS if name not in HELD_OUT_DEFECTS)

# A defect that nobody could see is no ground truth: it must cover this share of the image, and its pixels must change
# by this much of the full scale on average; otherwise another one is drawn.
MINIMUM_AREA = 0.004
MINIMUM_CONTRAST = 0.12
_MAXIMUM_DRAWS = 50

LARGEST_SMALL_AREA = 0.02
"""Largest share of the image for which small defects can be asked."""


def photograph(
    rng: Generator,
    category: str,
    defect: str | None = None,
    size: int = 240,
    defect_area: tuple[float, float] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw one random product of a category, good unless a kind of defect is named; equal generators draw the same.

    Returns RGB (S, S, 3) and the defect's mask (S, S), empty for a good product. With ``defect_area``, its least and
    largest share of the image, the defect is a small one.
    """
    if category in TEXTURES:
        image, region = TEXTURES[category](rng, size), np.ones((size, size), np.float32)
    else:
        image, region = OBJECTS[category](rng, size)
    image = np.clip(image, 0, 1)
    mask = np.zeros((size, size), bool)
    if defect is not None:
        if defect_area is None:
            image, mask = damage(rng, image, region, defect)
        else:
            image, mask = damage_a_little(rng, image, region, defect, defect_area)
    return camera(rng, image), mask


def damage(rng: Generator, image: Image, region: Image, defect: str) -> tuple[Image, NDArray[np.bool_]]:
    """Draw defects until one is visible, else keep the most visible of those drawn."""
    best, best_visibility = (image, region > 1), -1.0
    for _ in range(_MAXIMUM_DRAWS):
        damaged, mask = DEFECTS[defect](rng, image, region)
        contrast = float(np.abs(damaged[mask] - image[mask]).max(-1).mean()) if mask.any() else 0.0
        visibility = min(mask.mean() / MINIMUM_AREA, contrast / MINIMUM_CONTRAST)
        if visibility > best_visibility:
            best, best_visibility = (damaged, mask), visibility
        if visibility >= 1:
            break
    return best


def damage_a_little(
    rng: Generator, image: Image, region: Image, defect: str, area: tuple[float, float]
) -> tuple[Image, NDArray[np.bool_]]:
    """Draw small defects, each in a window of the product, until one is visible and its area within the limits.

    If none is, keep the one whose area comes nearest.
    """
    size = len(image)
    best, best_miss = (image, region > 1), np.inf
    inside = np.flatnonzero(region > 0.5)
    for _ in range(_MAXIMUM_DRAWS):
        side = min(size, max(24, round(size * (area[1] * rng.uniform(4, 20)) ** 0.5)))
        row, column = (int(np.clip(at - side // 2, 0, size - side)) for at in divmod(int(rng.choice(inside)), size))
        window = (slice(row, row + side), slice(column, column + side))
        if not (region[window] > 0.5).any():
            continue
        damaged, covered = DEFECTS[defect](rng, image[window], region[window])
        share = covered.sum() / size**2
        contrast = float(np.abs(damaged[covered] - image[window][covered]).max(-1).mean()) if covered.any() else 0.0
        miss = max(area[0] - share, share - area[1], 0) + max(0.0, 1 - contrast / MINIMUM_CONTRAST)
        if miss < best_miss:
            painted, mask = image.copy(), np.zeros((size, size), bool)
            painted[window], mask[window] = damaged, covered
            best, best_miss = (painted, mask), miss
        if miss == 0:
            break
    return best


def camera(rng: Generator, image: Image) -> NDArray[np.uint8]:
    """Uneven light, exposure, slight defocus and sensor noise."""
    size = len(image)
    slope, _ = coordinates(size, rng.uniform(0, 2 * np.pi))
    exposure = rng.uniform(0.85, 1.12) * (1 + rng.uniform(0, 0.25) * slope)
    balance = 1 + rng.normal(0, 0.02, 3)
    image = image * (exposure[..., None] * balance).astype(np.float32)
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), sigmaX=float(rng.uniform(0.2, 0.8)) * size / 240 + 1e-3)
    image = image + speckle(rng, size, rng.uniform(0.002, 0.02))[..., None]
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
