# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Charts as SVG to stand inside a page, in the page's own font and colours.

Matplotlib draws each colour as a place holder that is then replaced by a CSS variable, so that one drawing is legible
on light and on dark ground, and in print. The legend is the page's, once for all charts: the colour of a model is
``--series-<index>``.
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, NullFormatter
from numpy.typing import NDArray

N_COLOURS = 8
"""Colours of the page's style sheet; further models repeat them paler, with dashed curves and square points."""

MAX_LABELS = 6
"""Points of a scatter plot that are named beside it; more would lie upon each other."""

_INK, _RULE = "#000101", "#000102"
_SERIES = [f"#0002{index:02x}" for index in range(N_COLOURS)]
_CSS = {_INK: "currentColor", _RULE: "var(--rule)"} | {
    colour: f"var(--series-{index})" for index, colour in enumerate(_SERIES)
}
_STYLE: dict[Any, Any] = {  # matplotlib types the names one by one
    "axes.edgecolor": _INK,
    "axes.grid": True,
    "axes.grid.axis": "both",
    "axes.axisbelow": True,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",  # text stays text: selectable, and in the page's font
    "text.color": _INK,
    "xtick.color": _INK,
    "xtick.major.width": 0.6,
    "ytick.color": _INK,
    "ytick.major.width": 0.6,
}
_WIDTH = 4.4  # inches: at 72 points an inch about the width of a column of the page


@dataclass(frozen=True)
class Bars:
    """Bars of one model: a value for each label, NaN for none, and deviations where there are some."""

    values: Sequence[float]
    deviations: Sequence[float | None]


@dataclass(frozen=True)
class Line:
    """A curve of one model, the index of its colour with it."""

    series: int
    x: NDArray[np.float64]
    y: NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A model in a scatter plot; hollow where its mean is not over the same runs as the others."""

    series: int
    label: str
    x: float
    y: float
    hollow: bool


def bar_chart(name: str, labels: Sequence[str], series: Sequence[Bars]) -> str:
    """Draw groups of horizontal bars from 0 to 100, one group a label, one bar a model, in the order given.

    Args:
        name: Unique on the page; ids inside the SVG begin with it.
        labels: Names of the groups, top first.
        series: Values between 0 and 1 of each model, one for each label.
    """
    thickness = 0.85 / len(series)  # of the distance of two groups
    height = 0.4 + len(labels) * (0.14 + 0.09 * len(series))
    with mpl.rc_context({**_STYLE, "axes.grid.axis": "x"}):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")  # as wide as the labels need
        axes = figure.subplots()
        for index, bars in enumerate(series):
            places = np.arange(len(labels)) + (index - (len(series) - 1) / 2) * thickness
            values = 100 * np.asarray(bars.values, dtype=float)
            known = np.isfinite(values)
            axes.barh(places[known], values[known], 0.88 * thickness, color=_colour(index), alpha=_alpha(index))
            for place, value, deviation in zip(places, values, bars.deviations, strict=True):
                if deviation and math.isfinite(value):
                    axes.errorbar(value, place, xerr=100 * deviation, color=_INK, linewidth=0.8)
            for place in places[~known]:
                axes.text(1, place, "no value", fontsize=7, va="center")
        axes.set_yticks(range(len(labels)), labels)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        return _svg(figure, name)


def curve_chart(name: str, lines: Sequence[Line], *, x_label: str, y_label: str, x_limit: float, chance: bool) -> str:
    """Draw curves from (0, 0) to (``x_limit``, 1), with the diagonal of a guess if ``chance``."""
    with mpl.rc_context(_STYLE):
        figure, axes = _square()
        if chance:
            axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.7, linestyle=":")
        for line in lines:
            style = "-" if line.series < N_COLOURS else "--"
            colour, alpha = _colour(line.series), _alpha(line.series)
            axes.plot(line.x, line.y, color=colour, alpha=alpha, linewidth=1.6, linestyle=style)
        axes.set_xlim(0, x_limit)
        axes.set_ylim(0, 1.01)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        return _svg(figure, name)


def scatter_chart(name: str, points: Sequence[Point], *, x_label: str, y_label: str) -> str:
    """Draw points over a logarithmic first axis, with their names if these are few enough to have room."""
    with mpl.rc_context(_STYLE):
        figure, axes = _square()
        for point in points:
            colour, alpha = _colour(point.series), _alpha(point.series)
            marker = "o" if point.series < N_COLOURS else "s"
            face = "none" if point.hollow else colour
            axes.plot(point.x, 100 * point.y, marker, markersize=7, color=colour, markerfacecolor=face, alpha=alpha)
        axes.set_xscale("log")
        axes.set_xlim(min(p.x for p in points) / 1.8, max(p.x for p in points) * 1.8)
        low, high = (100 * f(p.y for p in points) for f in (min, max))
        margin = max(0.15 * (high - low), 2)
        axes.set_ylim(low - margin, min(high + margin, 101) if high <= 100 else high + margin)
        axes.xaxis.set_major_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
        decades = math.log10(axes.get_xlim()[1] / axes.get_xlim()[0])
        axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)) if decades < 2 else NullFormatter())
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if len(points) <= MAX_LABELS:
            _label_points(axes, points)
        return _svg(figure, name)


def _label_points(axes: Axes, points: Sequence[Point]) -> None:
    """Write the names beside their points, towards the middle, lower where they would lie on another name."""
    middle = math.sqrt(math.prod(axes.get_xlim()))
    low, high = axes.get_ylim()
    line = 0.075 * (high - low)
    taken: list[tuple[bool, float]] = []
    for point in sorted(points, key=lambda point: -point.y):
        left, y = point.x > middle, 100 * point.y
        while any(side == left and abs(y - other) < 0.99 * line for side, other in taken):
            y -= line
        taken.append((left, y))
        offset = (-8 if left else 8, 0)
        align = "right" if left else "left"
        axes.annotate(point.label, (point.x, y), xytext=offset, textcoords="offset points", ha=align, va="center")


def _square() -> tuple[Figure, Axes]:
    """Return a figure and its axes, with room for numbers and titles; no pyplot, so nothing is left open."""
    figure = Figure(figsize=(_WIDTH, 3.3))
    return figure, figure.add_axes((0.13, 0.14, 0.84, 0.83))


def _colour(series: int) -> str:
    return _SERIES[series % N_COLOURS]


def _alpha(series: int) -> float:
    return 1.0 if series < N_COLOURS else 0.5


def _svg(figure: Figure, name: str) -> str:
    """Return the drawing as an element of a page: no prologue, no metadata, ids of its own, colours by CSS."""
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):  # the same ids at each call
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = file.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<(metadata|style)\b.*?</\1>", "", drawing, flags=re.DOTALL)  # the style is meant for the file
    drawing = re.sub(r"^<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", r"<svg \1>", drawing)  # as wide as its place
    drawing = re.sub(r"(\bid=\"|href=\"#|url\(#)", rf"\g<1>{name}-", drawing)
    for colour, css in _CSS.items():
        drawing = drawing.replace(colour, css)
    return drawing
