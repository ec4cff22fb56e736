# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Kinds of defect: one function a kind, ``(rng, image, region) -> (image, mask)``.

``region`` (S, S) is 1 where the product is, and defects begin there. The mask (S, S) of booleans is exact: it holds
the pixels that the defect covers, whatever the camera does to the image afterwards.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from anomalib_clipad.data.synthetic.patterns import Field, Image, blend, colour, coordinates, light, noise

Damaged = tuple[Image, NDArray[np.bool_]]

_SUBPIXELS = 4  # fractional bits of OpenCV's drawing coordinates


def _spot(rng: Generator, region: Field, margin: float = 0.04) -> tuple[float, float]:
    """A random place (x, y) on the product, if possible ``margin`` away from its outline."""
    size = region.shape[0]
    solid = (region > 0.5).astype(np.uint8)
    depth = cv2.distanceTransform(cv2.copyMakeBorder(solid, 1, 1, 1, 1, cv2.BORDER_CONSTANT), cv2.DIST_L2, 3)
    inside = np.flatnonzero(depth[1:-1, 1:-1] > min(margin * size, 0.8 * float(depth.max())))
    row, column = divmod(int(rng.choice(inside)), size)
    return (column + 0.5) / size, (row + 0.5) / size


def _blob(rng: Generator, size: int, centre: tuple[float, float], radius: float, ragged: float = 0.25) -> Field:
    """Relative depth inside a random rounded patch: 1 in the middle, 0 on its outline, negative outside."""
    x, y = coordinates(size, rng.uniform(0, np.pi), centre)
    squeeze = rng.uniform(0.7, 1)
    depth = 1 - np.hypot(x * squeeze, y / squeeze) / radius
    return (depth + ragged * noise(rng, size, max(2, round(0.7 / radius)))).astype(np.float32)


def _inside(depth: Field, softness: float = 0.15) -> Field:
    return np.clip(depth / softness + 0.5, 0, 1)


def _walk(
    rng: Generator, start: tuple[float, float], length: float, turn: float, steps: int = 24
) -> NDArray[np.float64]:
    """Points (steps, 2) of a random walk of ``length`` whose heading changes by about ``turn`` radians a step."""
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, turn, steps))
    points = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1) * length / steps, 0)
    return points - points[steps // 2] + start


def _stroke(size: int, points: NDArray[np.float64], width: float) -> Field:
    """Antialiased coverage (S, S) of a line through ``points``, at least 1.5 pixels wide."""
    scale = 2
    canvas = np.zeros((size * scale, size * scale), np.uint8)
    path = np.round(points * size * scale * 2**_SUBPIXELS).astype(np.int32)
    thickness = max(3, round(width * size * scale))
    cv2.polylines(canvas, [path[:, None]], False, 255, thickness, cv2.LINE_AA, _SUBPIXELS)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _contrasting(rng: Generator, image: Image, where: Field) -> Image:
    """A grey or tinted colour clearly darker or lighter than the image around ``where``."""
    around = np.average(image.reshape(-1, 3), axis=0, weights=where.ravel() + 1e-6)
    brightness = float(around.mean())
    target = rng.uniform(0.0, 0.15) if brightness > rng.uniform(0.35, 0.6) else rng.uniform(0.85, 1.0)
    return colour(rng, (0, 1), (0, 0.3), (target, target))


def _paint(image: Image, paint: Image, alpha: Field) -> Damaged:
    return blend(image, np.broadcast_to(paint, image.shape), alpha), alpha > 0.25


def scratch(rng: Generator, image: Image, region: Field) -> Damaged:
    """One to three straight thin lines."""
    size = len(image)
    alpha = np.zeros((size, size), np.float32)
    start = np.asarray(_spot(rng, region))
    for _ in range(int(rng.integers(1, 4))):
        points = _walk(rng, tuple(start + rng.normal(0, 0.03, 2)), rng.uniform(0.2, 0.45), 0.02)
        alpha = np.maximum(alpha, _stroke(size, points, rng.uniform(0.012, 0.025)))
    alpha *= region
    return _paint(image, _contrasting(rng, image, alpha), rng.uniform(0.6, 1) * alpha)


def crack(rng: Generator, image: Image, region: Field) -> Damaged:
    """A jagged dark line with branches."""
    size = len(image)
    trunk = _walk(rng, _spot(rng, region), rng.uniform(0.4, 0.7), 0.6)
    alpha = _stroke(size, trunk, rng.uniform(0.015, 0.03))
    for _ in range(int(rng.integers(1, 4))):
        branch = _walk(rng, tuple(trunk[rng.integers(4, 20)]), rng.uniform(0.15, 0.3), 0.6)
        alpha = np.maximum(alpha, _stroke(size, branch, 0.014))
    return _paint(image, image * np.float32(rng.uniform(0.05, 0.35)), alpha * region)


def hole(rng: Generator, image: Image, region: Field) -> Damaged:
    """A punched hole with a bright or dark rim."""
    size = len(image)
    depth = _blob(rng, size, _spot(rng, region), rng.uniform(0.05, 0.09), 0.1)
    rim = np.exp(-((depth / 0.25) ** 2))[..., None] * np.float32(rng.uniform(-0.2, 0.3))
    inside = colour(rng, (0, 1), (0, 0.3), (0, 0.1) if rng.random() < 0.7 else (0.9, 1)) + rim
    return _paint(image, inside, _inside(depth) * region)


def stain(rng: Generator, image: Image, region: Field) -> Damaged:
    """A translucent spill of a colour of its own."""
    depth = _blob(rng, len(image), _spot(rng, region), rng.uniform(0.07, 0.14), 0.45)
    alpha = _inside(depth) * region * rng.uniform(0.55, 0.9)
    return _paint(image, image * 0.4 + 0.6 * colour(rng, (0, 1), (0.4, 1), (0.1, 0.8)), alpha)


def dent(rng: Generator, image: Image, region: Field) -> Damaged:
    """A hollow that shows by its shading alone."""
    depth = _blob(rng, len(image), _spot(rng, region, 0.08), rng.uniform(0.08, 0.14), 0.05)
    shading = light(rng, 0.25 * np.clip(depth, 0, 1) ** 1.5, 0.75)
    alpha = _inside(depth) * region
    return np.clip(blend(image, image * shading[..., None], alpha), 0, 1), alpha > 0.25


def discoloration(rng: Generator, image: Image, region: Field) -> Damaged:
    """A region bleached, darkened or tinted while its structure stays."""
    depth = _blob(rng, len(image), _spot(rng, region), rng.uniform(0.08, 0.15), 0.3)
    gain = np.exp(rng.normal(0, 0.25, 3) + rng.choice([-0.6, 0.5])).astype(np.float32)
    alpha = _inside(depth, 0.4) * region
    return np.clip(blend(image, image * gain, alpha), 0, 1), alpha > 0.25


def thread(rng: Generator, image: Image, region: Field) -> Damaged:
    """A loose fibre that curls over the product and casts a shadow."""
    size = len(image)
    points = _walk(rng, _spot(rng, region), rng.uniform(0.4, 0.8), 0.28, 40)
    alpha = _stroke(size, points, rng.uniform(0.014, 0.024))
    shadow = _stroke(size, points + 0.008, 0.02)[..., None]
    return _paint(image * (1 - 0.4 * shadow), _contrasting(rng, image, alpha), alpha)


def burn(rng: Generator, image: Image, region: Field) -> Damaged:
    """A scorched spot: charred middle, brown edge."""
    depth = _blob(rng, len(image), _spot(rng, region), rng.uniform(0.07, 0.13), 0.3)
    char = colour(rng, (0.03, 0.09), (0.4, 0.9), (0.02, 0.12))
    return _paint(image, image * 0.2 + char, _inside(depth, 0.5) * region)


def scuff(rng: Generator, image: Image, region: Field) -> Damaged:
    """A rubbed patch of many short parallel strokes."""
    size = len(image)
    depth = _blob(rng, size, _spot(rng, region), rng.uniform(0.08, 0.13), 0.2)
    across = noise(rng, size, (int(rng.integers(25, 45)), 5) if rng.random() < 0.5 else (5, int(rng.integers(25, 45))))
    alpha = _inside(depth, 0.3) * region
    strokes = np.clip(0.55 + 0.7 * across, 0, 1) * alpha
    return blend(image, np.broadcast_to(_contrasting(rng, image, alpha), image.shape), strokes), alpha > 0.25


def blister(rng: Generator, image: Image, region: Field) -> Damaged:
    """A cluster of raised bubbles with highlights."""
    size = len(image)
    x, y = _spot(rng, region, 0.08)
    height = np.zeros((size, size), np.float32)
    for _ in range(int(rng.integers(3, 8))):
        radius = rng.uniform(0.025, 0.05)
        bubble_x, bubble_y = coordinates(size, 0, (x + rng.normal(0, 0.05), y + rng.normal(0, 0.05)))
        height = np.maximum(height, np.sqrt(np.clip(radius**2 - bubble_x**2 - bubble_y**2, 0, None)))
    mask = (height > 0) & (region > 0.5)
    shaded = np.clip(
        image * light(rng, 1.5 * height, 0.7)[..., None] + 4 * np.clip(height - 0.02, 0, 0.03)[..., None], 0, 1
    )
    return blend(image, shaded, mask.astype(np.float32)), mask


def ink(rng: Generator, image: Image, region: Field) -> Damaged:
    """A pen mark: a cross, a loop or a letter."""
    size = len(image)
    x, y = _spot(rng, region)
    canvas = np.zeros((4 * size, 4 * size), np.uint8)
    letter = str(rng.choice(list("ABEKRSXZ48?#")))
    scale = rng.uniform(0.12, 0.2) * 4 * size / 22
    origin = (round(4 * size * x - 10 * scale), round(4 * size * y + 10 * scale))
    cv2.putText(
        canvas, letter, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, max(4, round(0.02 * 4 * size)), cv2.LINE_AA
    )
    turn = cv2.getRotationMatrix2D((4 * size * x, 4 * size * y), rng.uniform(0, 360), 1)
    canvas = cv2.warpAffine(canvas, turn, canvas.shape)
    alpha = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255 * region
    return _paint(image, colour(rng, (0, 1), (0.6, 1), (0.1, 0.8)), 0.9 * alpha)


def patch(rng: Generator, image: Image, region: Field) -> Damaged:
    """A piece of the same product, turned over and mirrored, in the wrong place."""
    size = len(image)
    depth = _blob(rng, size, _spot(rng, region), rng.uniform(0.08, 0.14), 0.1)
    shift = tuple(int(offset) for offset in rng.integers(size // 4, 3 * size // 4, 2))
    other = np.roll(image[::-1].transpose(1, 0, 2), shift, (0, 1)) * np.float32(rng.choice([0.7, 1.3]))
    edge = (1 - 0.5 * np.exp(-((depth / 0.2) ** 2)))[..., None]
    return _paint(image, np.clip(other * edge, 0, 1), _inside(depth) * region)


def chip(rng: Generator, image: Image, region: Field) -> Damaged:
    """A broken-off piece: a jagged area of raw, rough material."""
    size = len(image)
    depth = _blob(rng, size, _spot(rng, region, 0.02), rng.uniform(0.07, 0.12), 0.6)
    alpha = _inside(depth, 0.08) * region
    rough = light(rng, 0.05 * noise(rng, size, 30), 0.6)[..., None]
    return _paint(image, np.clip(_contrasting(rng, image, alpha) * 0.7 * rough + 0.1, 0, 1), alpha)


def particles(rng: Generator, image: Image, region: Field) -> Damaged:
    """Scattered crumbs of dirt."""
    size = len(image)
    x, y = _spot(rng, region)
    alpha = np.zeros((size, size), np.float32)
    for _ in range(int(rng.integers(4, 12))):
        centre = (x + rng.normal(0, 0.07), y + rng.normal(0, 0.07))
        alpha = np.maximum(alpha, _inside(_blob(rng, size, centre, rng.uniform(0.012, 0.03), 0.2), 0.3))
    return _paint(image, _contrasting(rng, image, alpha), alpha)


DEFECTS: dict[str, Callable[[Generator, Image, Field], Damaged]] = {
    draw.__name__: draw
    for draw in (
        *(scratch, hole, stain, dent, discoloration, thread, scuff, blister, ink, patch, chip, particles),
        *(crack, burn),
    )
}
