# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The page: tables, charts, curves and pictures put into one file that loads nothing else."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from anomalib_clipad.compare.records import Curves
from anomalib_clipad.compare.report import charts, wording
from anomalib_clipad.compare.report.differences import Difference
from anomalib_clipad.compare.report.gallery import MAX_PICTURES, MAX_ROWS, worst_misses
from anomalib_clipad.compare.report.mean_curves import CURVE_KINDS, CurveKind, mean_curve, read_all
from anomalib_clipad.compare.report.tables import DatasetResults
from anomalib_clipad.pages.house import templates
from anomalib_clipad.pages.pictures import colour_bar_uri

_QUALITIES = ("pixel_AUPRO", "image_AUROC")
"""Metrics that speed is held against, where the jobs have them."""


@dataclass(frozen=True)
class Chart:
    """A chart and what it shows, in words for those who do not see it."""

    title: str
    description: str
    svg: str


def page_text(output: Path, results: Sequence[DatasetResults], n_jobs: int, found: Sequence[Difference] = ()) -> str:
    """Return the page.

    Args:
        output: Folder of the comparison, for maps and curves.
        results: Results by dataset.
        n_jobs: Number of jobs of the grid, those that have not finished included.
        found: Means beside what was expected of them.
    """
    environment = templates(Path(__file__).parent)
    environment.filters |= {
        "mean": wording.mean_text,
        "count": wording.count_text,
        "cost": wording.cost_texts,
        "share": _share,
        "difference": wording.difference_texts,
    }
    environment.globals |= {
        "metric_groups": _metric_groups,
        "metric_name": wording.metric_name,
        "arguments": wording.model_arguments,
        "notes": wording.notes,
        "sources": wording.sources,
        "colour_bar": colour_bar_uri(),
    }
    sections = [
        {
            **_section(output, each, f"d{index}", len(results)),
            "differences": [one for one in found if one.expectation.dataset == each.name],
        }
        for index, each in enumerate(results)
    ]
    return environment.get_template("page.html.jinja").render(
        sections=sections,
        n_jobs=n_jobs,
        n_finished=sum(len(each.records) for each in results),
        n_failed=sum(each.n_failed() for each in results),
    )


def _section(output: Path, results: DatasetResults, key: str, n_datasets: int) -> dict[str, Any]:
    """Return everything that the page shows of one dataset, under the template's names."""
    curves = read_all(output, results)
    gallery = worst_misses(output, results, MAX_PICTURES // n_datasets, max(MAX_ROWS // n_datasets, 1))
    shown = {row.category for row in gallery}
    several = results.categories if len(results.categories) > 1 else []
    return {
        "key": key,
        "results": results,
        "fine_print": wording.fine_print(results),
        "circumstances": wording.circumstances(results),
        "means": [
            {
                "title": wording.mean_title(results, categories),
                "rows": results.rows(categories),
                "note": wording.incomplete_note(results, categories),
            }
            for categories in wording.mean_tables(results)
        ],
        "by_category": [(category, results.rows([category])) for category in several],
        "bars": _bar_charts(results, key) if several else [],
        "curves": _curve_charts(results, curves, f"{key}-mean", results.categories),
        "curves_by_category": [
            (category, _curve_charts(results, curves, f"{key}-{index}", [category]))
            for index, category in enumerate(several)
        ],
        "speed": _speed_charts(results, key),
        "gallery": gallery,
        "gallery_categories": [category for category in results.categories if category in shown],
    }


def _bar_charts(results: DatasetResults, key: str) -> list[Chart]:
    rows = {category: {row.model: row for row in results.rows([category])} for category in results.categories}
    found = []
    for index, metric in enumerate(results.metrics):
        series = []
        for model in results.models:
            cells = [rows[category][model].cells[metric] for category in results.categories]
            series.append(charts.Bars([cell.value for cell in cells], [cell.std for cell in cells]))
        title = f"{wording.metric_title(metric)} × 100"
        svg = charts.bar_chart(f"{key}-bars-{index}", results.categories, series)
        found.append(Chart(title, f"Bars: {title} of each model by category. The table holds the values.", svg))
    return found


def _curve_charts(
    results: DatasetResults, curves: dict[str, Curves], name: str, categories: Sequence[str]
) -> list[Chart]:
    """Draw each kind of curve of which some model has one."""
    found = []
    for kind in CURVE_KINDS:
        lines, partial = [], []
        expected = len(categories) * len(results.seeds)
        for series, model in enumerate(results.models):
            curve = mean_curve(results, curves, model, kind, categories)
            if curve is None:
                partial.append(f"{model} none")
                continue
            lines.append(charts.Line(series, curve.x, curve.y))
            if curve.n_runs < expected:
                partial.append(f"{model} {curve.n_runs}/{expected}")
        if lines:
            found.append(_curve_chart(name, kind, lines, partial))
    return found


def _curve_chart(name: str, kind: CurveKind, lines: list[charts.Line], partial: list[str]) -> Chart:
    svg = charts.curve_chart(
        f"{name}-{kind.key}",
        lines,
        x_label="false positive rate",
        y_label=kind.y_label,
        x_limit=kind.x_limit,
        chance=kind.chance,
    )
    title = f"{kind.title} (runs: {', '.join(partial)})" if partial else kind.title
    return Chart(title, f"{kind.title} curves: {kind.y_label} against false positive rate.", svg)


def _speed_charts(results: DatasetResults, key: str) -> list[Chart]:
    """Draw the models' speed against their means, of the metrics that they have."""
    costs = {cost.model: cost.measures.model_images_per_s for cost in results.costs()}
    found = []
    for metric in [name for name in _QUALITIES if name in results.metrics] or results.metrics[:1]:
        points = []
        for series, row in enumerate(results.rows()):
            speed, cell = costs[row.model], row.cells[metric]
            if speed and math.isfinite(cell.value):
                points.append(charts.Point(series, row.model, speed, cell.value, hollow=not cell.complete))
        if points:
            label = f"{wording.metric_title(metric)} × 100"
            svg = charts.scatter_chart(
                f"{key}-speed-{metric}", points, x_label="images a second, model alone", y_label=label
            )
            words = "; ".join(f"{p.label}: {100 * p.y:.1f} at {p.x:.3g} images a second" for p in points)
            found.append(Chart(f"{label} against speed", words, svg))
    return found


def _metric_groups(metrics: Sequence[str]) -> list[tuple[str, int]]:
    """Return the levels over the columns of a table, each with its number of columns."""
    return [(level, len(list(group))) for level, group in groupby(metrics, key=wording.metric_level)]


def _share(value: float) -> str:
    return f"{100 * value:.0f} %" if math.isfinite(value) else "undefined"
