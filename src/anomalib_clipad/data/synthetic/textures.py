# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Surfaces that fill the whole image: one function a category, ``(rng, size) -> (S, S, 3)`` in [0, 1]."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator

from anomalib_clipad.data.synthetic.patterns import (
    Image,
    any_colour,
    blend,
    colour,
    coordinates,
    fractal_noise,
    light,
    metal,
    noise,
    step,
    warp,
)


def leather(rng: Generator, size: int) -> Image:
    """Dyed leather with a pebbled grain."""
    cells = int(rng.integers(22, 34))
    pebbles = np.abs(noise(rng, size, cells)) + 0.5 * np.abs(noise(rng, size, 2 * cells))
    base = colour(rng, (0.02, 0.1), (0.3, 0.7), (0.3, 0.6))
    return base * (light(rng, 0.02 * pebbles, 0.3) * (0.85 + 0.25 * pebbles))[..., None]


def tile(rng: Generator, size: int) -> Image:
    """Square ceramic tiles with grout and a tone of their own."""
    count = rng.uniform(2.5, 4.5)
    x, y = coordinates(size, rng.normal(0, 0.05), (rng.random(), rng.random()))
    column, row = np.floor(x * count), np.floor(y * count)
    edge = np.maximum(np.abs(x * count - column - 0.5), np.abs(y * count - row - 0.5))
    glaze = any_colour(rng)
    tone = rng.uniform(-0.06, 0.06, (16, 16)).astype(np.float32)[row.astype(int) % 16, column.astype(int) % 16]
    body = glaze * (1 + tone + 0.05 * fractal_noise(rng, size, 6))[..., None]
    grout = glaze * np.float32(rng.uniform(0.45, 0.7))
    return blend(body, np.broadcast_to(grout, body.shape), step((edge - 0.46) / count, size))


def grid(rng: Generator, size: int) -> Image:
    """A coarse wire mesh over an even background."""
    count = rng.uniform(6, 8.5)
    x, y = coordinates(size, rng.uniform(-0.1, 0.1) + rng.choice([0, np.pi / 4]), (rng.random(), rng.random()))
    wire_x, wire_y = (0.5 - np.abs((axis * count) % 1 - 0.5) for axis in (x, y))
    width = rng.uniform(0.1, 0.16)
    nearest = np.minimum(wire_x, wire_y)
    wire = step((width - nearest) / count, size)
    background = colour(rng, (0, 1), (0, 0.2), (0.1, 0.3))
    shine = (0.75 + 0.5 * (1 - nearest / width).clip(0, 1))[..., None]
    return blend(np.broadcast_to(background, (size, size, 3)), metal(rng) * shine, wire)


def fabric(rng: Generator, size: int) -> Image:
    """Plain weave of two yarns."""
    count = rng.uniform(12, 17)
    x, y = coordinates(size, rng.uniform(-0.15, 0.15), (rng.random(), rng.random()))
    x, y = warp(rng, size, x, 3, 0.01) * count, warp(rng, size, y, 3, 0.01) * count
    over = (np.floor(x) + np.floor(y)) % 2
    ridge = np.where(over > 0, np.sin(np.pi * (x % 1)), np.sin(np.pi * (y % 1))).astype(np.float32)
    warp_yarn = any_colour(rng)
    weft_yarn = np.clip(warp_yarn + rng.normal(0, 0.06, 3).astype(np.float32), 0.05, 0.95)
    return blend(warp_yarn, weft_yarn, over.astype(np.float32)) * (0.65 + 0.35 * ridge)[..., None]


def paper(rng: Generator, size: int) -> Image:
    """Light paper with faint fibres and cloudiness."""
    base = colour(rng, (0.05, 0.16), (0.02, 0.2), (0.75, 0.93))
    clouds = 0.025 * fractal_noise(rng, size, 5) + 0.02 * noise(rng, size, (90, 30))
    return base * (1 + clouds)[..., None]


def concrete(rng: Generator, size: int) -> Image:
    """Cement with clouds and fine pores."""
    base = colour(rng, (0.05, 0.6), (0, 0.08), (0.45, 0.7))
    pores = (noise(rng, size, 60) > 0.85).astype(np.float32)
    return base * (1 + 0.1 * fractal_noise(rng, size, 5, 4) - 0.2 * cv2.GaussianBlur(pores, (3, 3), 0))[..., None]


def cork(rng: Generator, size: int) -> Image:
    """Pressed cork granules in three shades."""
    cells = int(rng.integers(16, 24))
    granules = np.round(1.5 * noise(rng, size, cells)) / 3 + 0.2 * noise(rng, size, 3 * cells)
    return colour(rng, (0.06, 0.1), (0.35, 0.55), (0.55, 0.75)) * (1 + 0.3 * granules)[..., None]


def laminate(rng: Generator, size: int) -> Image:
    """A printed decor: two colours mixed by one of many random repeating or cloudy patterns."""
    x, y = coordinates(size, rng.uniform(0, np.pi), (rng.random(), rng.random()))
    if rng.random() < 0.6:
        x, y = (warp(rng, size, axis, int(rng.integers(2, 7)), rng.uniform(0, 0.04)) for axis in (x, y))
    frequency = rng.uniform(4, 18)
    pattern = [
        lambda: np.sin(2 * np.pi * frequency * x),
        lambda: np.sin(2 * np.pi * frequency * x) * np.sin(2 * np.pi * frequency * rng.uniform(0.5, 1) * y),
        lambda: np.sin(2 * np.pi * frequency * np.hypot(x, y)),
        lambda: noise(rng, size, (int(rng.integers(2, 12)), int(rng.integers(12, 80)))),
        lambda: noise(rng, size, (int(rng.integers(12, 80)), int(rng.integers(2, 12)))),
        lambda: fractal_noise(rng, size, int(rng.integers(3, 30)), int(rng.integers(1, 5))),
        lambda: 1 - 4 * np.abs(fractal_noise(rng, size, int(rng.integers(3, 12)))),
    ][rng.integers(7)]()
    sharpness = rng.uniform(0.7, 4)
    weight = (0.5 + 0.5 * np.tanh(sharpness * pattern)).astype(np.float32)
    first = any_colour(rng)
    second = np.clip(first + rng.normal(0, 0.18, 3).astype(np.float32), 0.03, 0.97)
    relief = light(rng, 0.01 * pattern.astype(np.float32), rng.uniform(0, 0.3))
    return blend(first, second, weight) * relief[..., None]


def wood(rng: Generator, size: int) -> Image:
    """Planed board: stretched grain and year rings."""
    vertical = rng.random() < 0.5
    _, across = coordinates(size, (np.pi / 2 if vertical else 0) + rng.normal(0, 0.08))
    grain = noise(rng, size, (3, 40) if vertical else (40, 3))
    rings = np.sin(2 * np.pi * rng.uniform(5, 9) * warp(rng, size, across, 2, 0.06))
    base = colour(rng, (0.06, 0.1), (0.4, 0.65), (0.5, 0.8))
    return base * (1 + 0.09 * rings + 0.09 * grain)[..., None]


def carpet(rng: Generator, size: int) -> Image:
    """Short dense pile, mottled."""
    base = any_colour(rng)
    pile = 0.12 * noise(rng, size, 70) + 0.12 * noise(rng, size, 110) + 0.04 * fractal_noise(rng, size, 8)
    return base * (1 + pile)[..., None]


def marble(rng: Generator, size: int) -> Image:
    """Polished stone with soft veins."""
    x, _ = coordinates(size, rng.uniform(0, np.pi))
    turbulence = fractal_noise(rng, size, 4, 4)
    vein = np.abs(np.sin(2 * np.pi * (rng.uniform(0.8, 1.6) * x + 0.35 * turbulence)))
    base = colour(rng, (0.05, 0.65), (0, 0.2), (0.6, 0.9))
    return base * (0.72 + 0.28 * np.sqrt(vein) + 0.03 * turbulence)[..., None]


def brushed_metal(rng: Generator, size: int) -> Image:
    """Sheet metal brushed in one direction, with a broad sheen."""
    brush = noise(rng, size, (100, 3)) + 0.5 * noise(rng, size, (160, 6))
    if rng.random() < 0.5:
        brush = np.ascontiguousarray(brush.T)
    x, _ = coordinates(size, rng.uniform(0, 2 * np.pi))
    return metal(rng) * (1 + 0.07 * brush + 0.15 * np.cos(3 * x + rng.uniform(0, 6)))[..., None]


TEXTURES: dict[str, Callable[[Generator, int], Image]] = {
    draw.__name__: draw
    for draw in (leather, tile, grid, fabric, paper, concrete, cork, laminate, wood, carpet, marble, brushed_metal)
}
