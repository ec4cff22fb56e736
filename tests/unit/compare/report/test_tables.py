# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Means over categories and seeds, and what they say of themselves."""

import math

import numpy as np
import pytest

from anomalib_clipad.compare.records import Measures, Record
from anomalib_clipad.compare.report.tables import Cell, DatasetResults, by_dataset, total_cost
from comparisons import failed_job, job


def results(*records: Record) -> DatasetResults:
    return DatasetResults("MVTec", records)


def valued(model: str, category: str, value: float, seed: int = 0) -> Record:
    return job(model, category, seed, metrics={"image_AUROC": value})


def column(table: DatasetResults, categories: list[str] | None = None) -> dict[str, Cell]:
    return {row.model: row.cells["image_AUROC"] for row in table.rows(categories)}


def test_a_mean_is_over_categories() -> None:
    cell = column(results(valued("SDP", "bottle", 0.9), valued("SDP", "cable", 0.5)))["SDP"]
    assert cell.value == pytest.approx(0.7)
    assert cell.complete
    assert cell.std is None


def test_the_deviation_is_that_of_the_means_of_seeds() -> None:
    values = np.random.default_rng(0).uniform(size=(3, 4))  # seeds, categories
    table = results(
        *(valued("SDP", f"c{c}", values[seed, c], seed) for seed in range(3) for c in range(values.shape[1]))
    )
    cell = column(table)["SDP"]
    assert cell.value == pytest.approx(values.mean())
    assert cell.std == pytest.approx(values.mean(axis=1).std(ddof=1))
    assert column(table, ["c2"])["SDP"].std == pytest.approx(values[:, 2].std(ddof=1))


def test_a_category_counts_once_however_many_seeds_it_has() -> None:
    table = results(valued("SDP", "bottle", 0.2, 0), valued("SDP", "bottle", 0.4, 1), valued("SDP", "cable", 0.9, 0))
    cell = column(table)["SDP"]
    assert cell.value == pytest.approx((0.3 + 0.9) / 2)
    assert cell.std is None  # seed 1 is not complete, and one seed has no deviation
    assert (cell.n_runs, cell.n_expected) == (3, 4)


@pytest.mark.parametrize(
    "lacking",
    [
        [failed_job("WinCLIP", "cable")],
        [],
        [valued("WinCLIP", "cable", math.nan)],
    ],
    ids=["failed", "not run", "undefined"],
)
def test_a_mean_over_fewer_categories_is_marked_and_not_best(lacking: list[Record]) -> None:
    easy_only = valued("WinCLIP", "bottle", 0.99)
    table = results(valued("SDP", "bottle", 0.95), valued("SDP", "cable", 0.5), easy_only, *lacking)
    cells = column(table)
    assert cells["WinCLIP"].value == pytest.approx(0.99)
    assert not cells["WinCLIP"].complete
    assert (cells["WinCLIP"].n_runs, cells["WinCLIP"].n_expected) == (1, 2)
    assert not cells["WinCLIP"].best
    assert cells["SDP"].best
    assert column(table, ["bottle"])["WinCLIP"].best  # where both have a figure, they compete


def test_common_categories_are_those_that_every_model_finished_with_every_seed() -> None:
    table = results(
        *(valued("SDP", category, 0.5, seed) for category in "abc" for seed in (0, 1)),
        *(
            valued("WinCLIP", category, 0.5, seed)
            for category in "ab"
            for seed in (0, 1)
            if (category, seed) != ("b", 1)
        ),
        failed_job("WinCLIP", "b", 1),
    )
    assert table.common_categories() == ["a"]
    assert table.missing() == [("WinCLIP", ["b (failed, seed 1)", "c (not run)"])]
    assert table.missing(["a"]) == []


def test_what_prints_alike_is_best_alike() -> None:
    cells = column(results(valued("a", "x", 0.90004), valued("b", "x", 0.89996), valued("c", "x", 0.8994)))
    assert [cells[model].best for model in "abc"] == [True, True, False]


def test_a_model_alone_is_not_the_best() -> None:
    assert not column(results(valued("SDP", "bottle", 0.9)))["SDP"].best


def test_order_is_that_of_the_records_and_metrics_that_of_the_paper() -> None:
    metrics = {"pixel_ReferencePRO": 0.1, "pixel_AUPRO": 0.2, "image_AUPR": 0.3, "image_AUROC": 0.4}
    table = results(*(job(m, c, metrics=metrics) for m in ("z", "a") for c in ("wood", "cable")))
    assert (table.models, table.categories) == (["z", "a"], ["wood", "cable"])
    assert table.metrics == ["image_AUROC", "image_AUPR", "pixel_AUPRO", "pixel_ReferencePRO"]


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected each model .* a name of its own, but got two jobs of 'SDP' on MVT"):
        results(job(), job(init_args={"sigma": 8}))


def test_datasets_are_kept_apart() -> None:
    tables = by_dataset([job(dataset="VisA"), job(dataset="MVTec"), job(category="cable", dataset="VisA")])
    assert [(table.name, table.categories) for table in tables] == [
        ("VisA", ["bottle", "cable"]),
        ("MVTec", ["bottle"]),
    ]


def test_an_error_is_told_once_for_all_its_runs() -> None:
    table = results(
        failed_job("a", "x", traceback="first"),
        failed_job("a", "y", traceback="second"),
        failed_job("a", "z", error="ValueError: another"),
        failed_job("b", "x"),
        job("b", "y"),
    )
    told = [(failure.model, failure.runs, failure.traceback) for failure in table.failures()]
    assert told == [
        ("a", ["x, seed 0", "y, seed 0"], "first"),
        ("a", ["z, seed 0"], "Traceback: line 1"),
        ("b", ["x, seed 0"], "Traceback: line 1"),
    ]
    assert table.n_failed() == 4


def test_speed_is_all_images_over_all_seconds() -> None:
    jobs = [
        job(measures=Measures(wall_s=4.0, images=100, model_images_per_s=50.0, peak_memory_mb=10.0, parameters=7)),
        job(measures=Measures(wall_s=8.0, images=10, model_images_per_s=1.0, peak_memory_mb=30.0, parameters=7)),
    ]
    total = total_cost(jobs)
    seconds = sum(each.measures.images / each.measures.model_images_per_s for each in jobs)
    assert total.model_images_per_s == pytest.approx(110 / seconds)
    assert (total.wall_s, total.images, total.peak_memory_mb, total.parameters) == (6.0, 110, 30.0, 7)
    assert total.end_to_end_images_per_s is None  # nowhere measured


def test_costs_are_those_of_finished_jobs_only() -> None:
    failure = failed_job("SDP", "cable", measures=Measures(wall_s=1000.0))
    (cost,) = results(job("SDP", "bottle"), failure).costs()
    assert (cost.n_runs, cost.n_expected, cost.measures.wall_s) == (1, 2, 10.0)
