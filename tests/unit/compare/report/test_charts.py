# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Charts as parts of a page."""

import math
import re
from collections.abc import Callable
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest

from anomalib_clipad.compare.report import charts
from anomalib_clipad.compare.report.charts import Bars, Line, Point


def bars(name: str = "c", models: int = 2) -> str:
    return charts.bar_chart(name, ["wood", "a < b"], [Bars([0.9, 0.5], [0.01, None])] * models)


def curves(name: str = "c", series: int = 0) -> str:
    line = Line(series, np.linspace(0, 1, 20), np.linspace(0, 1, 20) ** 0.5)
    return charts.curve_chart(name, [line], x_label="fpr", y_label="tpr", x_limit=1.0, chance=True)


def points(name: str = "c", count: int = 3) -> str:
    given = [Point(index, f"model {index}", 10.0 + index, 0.9, hollow=index == 1) for index in range(count)]
    return charts.scatter_chart(name, given, x_label="speed", y_label="quality")


def parse(svg: str) -> ET.Element:
    """The drawing as XML, with the name spaces that a page gives it."""
    return ET.fromstring(svg.replace("<svg", '<svg xmlns:xlink="x"', 1))


@pytest.mark.parametrize("draw", [bars, curves, points])
def test_a_chart_is_an_element_in_the_colours_of_the_page(draw: Callable[..., str]) -> None:
    svg = draw("d0-chart")
    root = parse(svg)
    assert set(root.attrib) == {"viewBox"}  # as wide as its place
    assert not re.search(r"#[0-9a-f]{6}\b", svg)
    assert "currentColor" in svg
    assert "var(--series-0)" in svg
    assert not re.search(r"<metadata|<style|<!DOCTYPE|https?:", svg)
    ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    assert ids
    assert all(name.startswith("d0-chart-") for name in ids)
    referred = re.findall(r"(?:href=\"#|url\(#)([^\")]+)", svg)
    assert set(referred) <= set(ids)


@pytest.mark.parametrize("draw", [bars, curves, points])
def test_a_chart_is_drawn_alike_every_time_and_leaves_settings_alone(draw: Callable[..., str]) -> None:
    mpl.get_backend()  # found out at the first call, and kept among the settings
    before = mpl.rcParams.copy()
    assert draw() == draw()
    assert mpl.rcParams == before


def test_text_stays_text() -> None:
    texts = [element.text for element in parse(bars()).iter("text")]
    assert {"wood", "a < b", "100"} <= set(texts)


def test_bars_start_at_zero_and_are_as_long_as_their_values() -> None:
    svg = charts.bar_chart("c", ["x"], [Bars([0.8], [None]), Bars([0.4], [None])])
    lengths = []
    for path in parse(svg).iter("path"):
        if "var(--series" in path.get("style", ""):
            places = [float(x) for x in re.findall(r"[ML] ([\d.]+) ", path.attrib["d"])]
            lengths.append(max(places) - min(places))
    assert lengths[0] == pytest.approx(2 * lengths[1])


def test_a_value_that_lacks_is_said_to_lack() -> None:
    svg = charts.bar_chart("c", ["x", "y"], [Bars([0.8, math.nan], [None, None])])
    assert [element.text for element in parse(svg).iter("text")].count("no value") == 1


def test_more_models_than_colours_can_be_told_apart() -> None:
    first, ninth = curves(series=0), curves(series=charts.N_COLOURS)
    assert "var(--series-0)" in ninth
    assert first != ninth
    assert len(set(re.findall(r"var\(--series-\d\)", bars(models=10)))) == charts.N_COLOURS


def test_points_are_named_while_there_is_room() -> None:
    names = [element.text for element in parse(points(count=charts.MAX_LABELS)).iter("text")]
    assert {f"model {index}" for index in range(charts.MAX_LABELS)} <= set(names)
    assert "model" not in points(count=charts.MAX_LABELS + 1)


def test_names_at_one_place_are_written_below_each_other() -> None:
    crowd = [Point(index, f"model {index}", 10 + index / 10, 0.9, hollow=False) for index in range(3)]
    svg = charts.scatter_chart("c", [*crowd, Point(3, "far", 100, 0.1, hollow=False)], x_label="x", y_label="y")
    labels = [element for element in parse(svg).iter("text") if (element.text or "").startswith("model")]
    assert {element.attrib["x"] for element in labels} != {labels[0].attrib["x"]}
    heights = sorted(float(element.attrib["y"]) for element in labels)
    assert min(np.diff(heights)) >= 9  # the size of the type
