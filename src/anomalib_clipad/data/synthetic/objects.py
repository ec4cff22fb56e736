# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Things lying on a table: one function a category, ``(rng, size) -> (image (S, S, 3), silhouette (S, S))``.

The silhouette is 1 on the object and 0 on the table (holes included), so that defects land on the object.
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from anomalib_clipad.data.synthetic.patterns import (
    Field,
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
)

Rendered = tuple[Image, Field]


def _pose(rng: Generator, size: int) -> tuple[Field, Field, Field, Field]:
    """Pixel coordinates (x, y, radius, direction) of an object turned at random, with its origin near the middle."""
    turn = rng.uniform(-np.pi, np.pi)
    x, y = coordinates(size, turn, (0.5 + rng.uniform(-0.04, 0.04), 0.5 + rng.uniform(-0.04, 0.04)))
    return x, y, np.hypot(x, y), np.arctan2(y, x)


def _table(rng: Generator, size: int, brightness: tuple[float, float] | None = None) -> Image:
    """An even, slightly cloudy background."""
    base = colour(rng, (0, 1), (0, 0.25), brightness or ((0.08, 0.3) if rng.random() < 0.5 else (0.7, 0.95)))
    return base * (1 + 0.04 * fractal_noise(rng, size, 3))[..., None]


def _place(rng: Generator, surface: Image, silhouette: Field, table: Image | None = None) -> Rendered:
    """Put ``surface`` on a table wherever ``silhouette`` says."""
    table = _table(rng, silhouette.shape[0]) if table is None else table
    return blend(table, surface, silhouette), silhouette


def _bevelled(rng: Generator, size: int, distance: Field, base: Image, bevel: float, grain: float = 0.03) -> Image:
    """An evenly coloured surface whose rim of width ``bevel`` slopes down; ``distance`` is measured from the edge."""
    height = np.sqrt(np.clip(distance / bevel, 0, 1)) * bevel
    return base * (light(rng, height, 0.35) * (1 + grain * noise(rng, size, 12)))[..., None]


def _hexagon(direction: Field) -> Field:
    """Radius of a unit hexagon (inscribed circle 1) in each direction."""
    return (1 / np.cos((direction + np.pi / 6) % (np.pi / 3) - np.pi / 6)).astype(np.float32)


def nut(rng: Generator, size: int) -> Rendered:
    """Hexagonal nut with a chamfer and a threaded hole."""
    _, _, radius, direction = _pose(rng, size)
    outer, inner = rng.uniform(0.33, 0.4), rng.uniform(0.17, 0.21)
    edge = outer * _hexagon(direction) - radius
    hole = radius - inner
    thread = 1 + 0.25 * np.sin(2 * np.pi * radius / 0.022) * (hole < 0.045)
    surface = _bevelled(rng, size, np.minimum(edge, hole), metal(rng), 0.03) * thread[..., None]
    surface = surface * (1 - 0.12 * step(radius - outer, size))[..., None]
    return _place(rng, surface, step(np.minimum(edge, hole), size))


def washer(rng: Generator, size: int) -> Rendered:
    """Flat ring."""
    _, _, radius, _ = _pose(rng, size)
    outer, inner = rng.uniform(0.36, 0.43), rng.uniform(0.13, 0.2)
    edge = np.minimum(outer - radius, radius - inner)
    return _place(rng, _bevelled(rng, size, edge, metal(rng), 0.02), step(edge, size))


def bottle_cap(rng: Generator, size: int) -> Rendered:
    """Crown cap: crimped skirt around a printed disc."""
    _, _, radius, direction = _pose(rng, size)
    outer = rng.uniform(0.38, 0.42)
    crimps = np.cos(21 * direction)
    edge = outer + 0.014 * crimps - radius
    skirt = step(radius - 0.8 * outer, size)
    printed, base = any_colour(rng), any_colour(rng)
    disc = blend(printed, base, step(np.abs(radius - 0.55 * outer) - 0.03, size))
    surface = blend(disc, base * (0.85 + 0.2 * crimps)[..., None], skirt)
    return _place(rng, surface * light(rng, 0.3 * np.sqrt(np.clip(edge, 0, 0.08)), 0.25)[..., None], step(edge, size))


def tablet(rng: Generator, size: int) -> Rendered:
    """Round pressed pill with a score line."""
    x, _, radius, _ = _pose(rng, size)
    edge = rng.uniform(0.34, 0.4) - radius
    score = 0.02 * np.exp(-((x / 0.012) ** 2))
    base = colour(rng, (0, 1), (0, 0.35), (0.75, 0.95))
    height = np.sqrt(np.clip(edge, 0, 0.06)) * 0.15 - score
    return _place(rng, base * light(rng, height, 0.3)[..., None], step(edge, size))


def bearing(rng: Generator, size: int) -> Rendered:
    """Ball bearing: two rings with balls between them."""
    _, _, radius, direction = _pose(rng, size)
    outer = rng.uniform(0.38, 0.43)
    bore = 0.36 * outer
    race = 0.67 * outer
    balls = int(rng.integers(8, 11))
    sector = (direction * balls / (2 * np.pi)) % 1 - 0.5
    ball_distance = np.hypot(sector * 2 * np.pi * race / balls, radius - race)
    ball_radius = 0.13 * outer
    ring = _bevelled(rng, size, np.abs(np.abs(radius - race) - 0.16 * outer), metal(rng), 0.02)
    groove = step(0.14 * outer - np.abs(radius - race), size)
    shine = np.sqrt(np.clip(1 - (ball_distance / ball_radius) ** 2, 0, 1))
    cage = blend(ring * 0.3, metal(rng) * (0.5 + 0.6 * shine)[..., None], step(ball_radius - ball_distance, size))
    return _place(rng, blend(ring, cage, groove), step(np.minimum(outer - radius, radius - bore), size))


def gasket(rng: Generator, size: int) -> Rendered:
    """Rubber frame with a round opening and four bolt holes."""
    x, y, radius, _ = _pose(rng, size)
    half = rng.uniform(0.29, 0.33)
    corner = 0.08
    outside = np.hypot(np.maximum(np.abs(x) - half + corner, 0), np.maximum(np.abs(y) - half + corner, 0))
    bolts = np.hypot(np.abs(x) - 0.75 * half, np.abs(y) - 0.75 * half) - 0.13 * half
    edge = np.minimum(np.minimum(corner - outside, radius - 0.62 * half), bolts)
    base = colour(rng, (0, 1), (0, 0.6), (0.12, 0.5))
    return _place(rng, _bevelled(rng, size, edge, base, 0.02, 0.06), step(edge, size), _table(rng, size, (0.65, 0.95)))


def stamping(rng: Generator, size: int) -> Rendered:
    """A stamped plate: a random polygon with random round holes and slots."""
    x, y, radius, direction = _pose(rng, size)
    corners = np.sort(rng.uniform(0, 2 * np.pi) + np.arange(n := int(rng.integers(3, 9))) * 2 * np.pi / n)
    reach = rng.uniform(0.28, 0.4, n)
    edge = 0.45 - radius
    for corner, distance in zip(corners, reach, strict=True):
        edge = np.minimum(edge, distance - radius * np.cos(direction - corner))
    for _ in range(int(rng.integers(0, 5))):
        turn, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.22)
        stretch = rng.choice([1, rng.uniform(0.3, 0.6)])
        hole = np.hypot((x - distance * np.cos(turn)) * stretch, y - distance * np.sin(turn))
        edge = np.minimum(edge, hole - rng.uniform(0.025, 0.07))
    surface = _bevelled(rng, size, edge, metal(rng) if rng.random() < 0.6 else any_colour(rng), rng.uniform(0.01, 0.04))
    return _place(rng, surface, step(edge, size))


def moulding(rng: Generator, size: int) -> Rendered:
    """A moulded plastic part: a random smooth outline with ribs, rings or teeth in relief."""
    x, y, _, _ = _pose(rng, size)
    y = y * rng.uniform(1, 2.2)
    radius = np.hypot(x, y)
    direction = np.arctan2(y, x)
    lobes = int(rng.integers(2, 14))
    ripple = rng.uniform(0, 0.05) * np.tanh(rng.uniform(0.5, 4) * np.cos(lobes * direction))
    edge = rng.uniform(0.33, 0.4) + ripple - radius
    relief = [
        lambda: np.sin(2 * np.pi * rng.uniform(6, 16) * x),
        lambda: np.sin(2 * np.pi * rng.uniform(6, 14) * radius),
        lambda: np.cos(int(rng.integers(3, 12)) * direction) * (radius > 0.1),
        lambda: np.zeros_like(radius),
        lambda: np.where(np.abs(x) < rng.uniform(0.03, 0.1), 1.0, -1.0),
    ][rng.integers(5)]()
    first = any_colour(rng)
    second = any_colour(rng) if rng.random() < 0.4 else first
    split = step((x if rng.random() < 0.5 else radius - 0.2) - rng.uniform(-0.1, 0.1), size)
    height = 0.006 * relief + 0.15 * np.sqrt(np.clip(edge, 0, 0.06))
    surface = blend(first, second, split) * (light(rng, height, 0.35) * (1 + 0.1 * relief))[..., None]
    return _place(rng, surface.astype(np.float32), step(edge, size))


def gear(rng: Generator, size: int) -> Rendered:
    """Spur gear with a bore and a hub."""
    _, _, radius, direction = _pose(rng, size)
    outer, teeth = rng.uniform(0.35, 0.4), int(rng.integers(12, 19))
    profile = np.tanh(3 * np.cos(teeth * direction))
    edge = np.minimum(outer + 0.03 * profile - radius, radius - rng.uniform(0.08, 0.12))
    hub = step(0.2 - radius, size)
    surface = _bevelled(rng, size, edge, metal(rng), 0.02) * (1 - 0.15 * hub)[..., None]
    return _place(rng, surface, step(edge, size))


def button(rng: Generator, size: int) -> Rendered:
    """Sewing button with a raised rim and four holes."""
    x, y, radius, _ = _pose(rng, size)
    outer = rng.uniform(0.36, 0.42)
    holes = np.hypot(np.abs(x) - 0.075, np.abs(y) - 0.075) - 0.035
    edge = np.minimum(outer - radius, holes)
    rim = 0.02 * np.exp(-(((radius - 0.85 * outer) / 0.03) ** 2))
    surface = any_colour(rng) * (light(rng, rim, 0.4) * (1 + 0.05 * fractal_noise(rng, size, 4)))[..., None]
    return _place(rng, surface, step(edge, size))


def screw(rng: Generator, size: int) -> Rendered:
    """Machine screw from the side: head, threaded shank."""
    x, y, _, _ = _pose(rng, size)
    head = np.minimum(0.06 - np.abs(x + 0.33), 0.15 - np.abs(y))
    ridges = np.sin(2 * np.pi * (x + 0.15 * y) / 0.05)
    shank = np.minimum(0.37 - np.abs(x - 0.03), 0.075 + 0.012 * ridges - np.abs(y))
    edge = np.maximum(head, shank)
    barrel = np.sqrt(np.clip(1 - (y / 0.16) ** 2, 0, 1))
    surface = metal(rng) * ((0.55 + 0.5 * barrel) * np.where(head > 0, 1, 1 + 0.22 * ridges))[..., None]
    return _place(rng, surface.astype(np.float32), step(edge, size))


def capsule(rng: Generator, size: int) -> Rendered:
    """Two-coloured gelatine capsule."""
    x, y, _, _ = _pose(rng, size)
    half = rng.uniform(0.21, 0.25)
    edge = rng.uniform(0.13, 0.16) - np.hypot(np.maximum(np.abs(x) - half, 0), y)
    bands = blend(any_colour(rng), any_colour(rng), step(x, size))
    gloss = 0.3 * np.exp(-(((y + 0.05) / 0.025) ** 2)) * (np.abs(x) < half)
    surface = bands * light(rng, 0.5 * np.sqrt(np.clip(edge, 0, 0.1)), 0.2)[..., None] + gloss[..., None]
    return _place(rng, surface, step(edge, size))


OBJECTS: dict[str, Callable[[Generator, int], Rendered]] = {
    draw.__name__: draw
    for draw in (nut, washer, bottle_cap, tablet, bearing, gasket, stamping, moulding, gear, button, screw, capsule)
}
