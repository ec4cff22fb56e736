# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""How benchmarks are timed, judged and written."""

from pathlib import Path

import pytest

from benchmarks.performance.__main__ import BEGIN, END, medians, write
from benchmarks.performance.gpu import MVTEC_TEST_IMAGES
from benchmarks.performance.table import HEADER, Row, markdown
from benchmarks.performance.timing import alternate, ratio, run_module


@pytest.mark.parametrize(
    ("value", "better", "reached"),
    [
        (1.15, "small", True),
        (1.16, "small", False),
        (1.15, "large", True),
        (1.14, "large", False),
        (None, "small", None),
    ],
)
def test_a_row_says_whether_its_limit_is_reached(value, better, reached):
    assert Row("x", value, 1.15, better).reached is reached


def test_a_row_without_a_limit_is_only_reported():
    assert Row("x", 2.0).reached is None
    assert markdown([Row("x", 2.0, unit=" s")]).splitlines()[-1] == "| x | 2 s | report |  |  |"


def test_a_figure_that_could_not_be_had_is_not_invented():
    lines = markdown([Row("x", None, 3, note="no GPU")]).splitlines()
    assert lines[0] == f"| {' | '.join(HEADER)} |"
    assert lines[-1] == "| x | not measured | ≤ 3 |  | no GPU |"


def test_of_several_series_the_median_is_told():
    series = [[Row("x", value, 1.2, note=f"{value}"), Row("y", 2 * value)] for value in (1.0, 3.0, 2.0)]
    assert medians(series) == [
        Row("x", 2.0, 1.2, note="median of 3 series: 1, 3, 2; 2.0"),
        Row("y", 4.0, note="median of 3 series: 2, 6, 4"),
    ]
    assert medians(series[:1]) == series[0]


def test_functions_run_in_turn_after_a_round_that_does_not_count():
    order: list[str] = []
    seconds = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert order == ["a", "b"] * 3
    assert [len(times) for times in seconds.values()] == [2, 2]


def test_ratios_are_taken_round_by_round():
    # Of the medians, 20 / 10, the ratio would be 2.
    assert ratio([10.0, 20.0, 300.0], [10.0, 5.0, 100.0]) == 3.0


def test_a_module_that_fails_says_why():
    with pytest.raises(
        RuntimeError, match=r"Expected benchmarks\.nothing to run, but got exit code 1.*No module named"
    ):
        run_module("benchmarks.nothing")


def test_only_what_is_between_the_marks_is_replaced(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(f"before {BEGIN} old {END} after", encoding="utf-8")
    write(page, "new")
    assert page.read_text(encoding="utf-8") == f"before {BEGIN}\n\nnew\n\n{END} after"


def test_a_page_without_marks_is_left_alone(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("no marks", encoding="utf-8")
    with pytest.raises(ValueError, match="to hold the marks"):
        write(page, "new")
    assert page.read_text(encoding="utf-8") == "no marks"


def test_the_simulated_test_set_is_as_large_as_mvtec_ads():
    assert sum(MVTEC_TEST_IMAGES.values()) == 1725
