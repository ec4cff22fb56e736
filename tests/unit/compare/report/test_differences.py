# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Measured means beside expected figures: which are reached, which cannot be compared."""

import math

import pytest

from anomalib_clipad.compare.expected import Expectation
from anomalib_clipad.compare.report.differences import differences
from anomalib_clipad.compare.report.tables import by_dataset
from anomalib_clipad.compare.report.wording import difference_line, sources
from comparisons import expectation, failed_job, job

PLACES = [("bottle", 0), ("bottle", 1), ("cable", 0), ("cable", 1)]
RECORDS = [
    job("SDP", category, seed, metrics={"image_AUROC": value})
    for (category, seed), value in zip(PLACES, (0.9, 0.8, 0.7, 0.61), strict=True)
]
EXPECTED = expectation("SDP", "image_AUROC", 75.0, [record.job for record in RECORDS])


def test_the_measured_figure_is_that_of_the_table() -> None:
    [found] = differences([EXPECTED], RECORDS)
    [row] = by_dataset(RECORDS)[0].rows()
    assert found.measured == pytest.approx(100 * row.cells["image_AUROC"].value, abs=0.05)
    assert (found.measured, found.points, found.n_runs) == (75.2, 0.2, 4)
    assert found.reached


@pytest.mark.parametrize(
    ("figure", "points", "reached"), [(74.2, 1.0, True), (76.2, -1.0, True), (74.1, 1.1, False), (76.3, -1.1, False)]
)
def test_the_tolerance_holds_for_what_is_printed(figure: float, points: float, reached: bool) -> None:
    [found] = differences([expectation("SDP", "image_AUROC", figure, EXPECTED.jobs)], RECORDS)
    assert (found.points, found.reached) == (points, reached)


@pytest.mark.parametrize(
    "last",
    [
        [failed_job("SDP", "cable", 1)],
        [],
        [job("SDP", "cable", 1, metrics={"image_AUROC": math.nan})],
        [job("SDP", "cable", 1, metrics={})],
    ],
    ids=["failed", "not run", "undefined", "another metric"],
)
def test_a_mean_over_a_part_is_not_compared(last: list) -> None:
    [found] = differences([EXPECTED], [*RECORDS[:3], *last])
    assert (found.measured, found.points, found.n_runs, found.reached) == (None, None, 3, False)
    assert difference_line(found) == (
        "Not measured: SDP on MVTec, image AUROC: expected 75.0, 3 of 4 runs have a value."
    )


def test_what_is_not_reached_is_said_in_a_line() -> None:
    [found] = differences([expectation("SDP", "image_AUROC", 80, EXPECTED.jobs)], RECORDS)
    assert difference_line(found) == (
        "Not reached: SDP on MVTec, image AUROC: measured 75.2, expected 80.0, difference -4.8, tolerance ±1."
    )


def test_each_source_is_named_once() -> None:
    given = [("SDP", "paper A."), ("SDP", "paper A."), ("SDP+", "paper A."), ("WinCLIP", "paper B")]
    expected = [Expectation(model, "MVTec", "image_AUROC", 1.0, source, 1.0, []) for model, source in given]
    assert sources(differences(expected, [])) == "Expected of SDP · SDP+: paper A. Expected of WinCLIP: paper B."
