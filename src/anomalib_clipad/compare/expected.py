# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Figures that a grid is expected to reach, such as published ones; they decide nothing about how it is run."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anomalib_clipad.base.files import atomic_write

EXPECTED_FILE = "expected.json"


@dataclass(frozen=True)
class Expectation:
    """A figure that the mean of a model on a dataset is held against.

    Attributes:
        model: Name of the model in the tables.
        dataset: Name of the dataset in the tables.
        metric: Metric.
        figure: The figure × 100.
        source: Where the figure is from.
        tolerance: Largest difference, × 100, at which it counts as reached.
        jobs: Ids of the jobs over which the mean is: all categories and seeds of the grid.
    """

    model: str
    dataset: str
    metric: str
    figure: float
    source: str
    tolerance: float
    jobs: list[str]


def expectations(
    expected: Mapping[str, Mapping[str, Any]],
    tolerance: float,
    jobs: Mapping[str, Mapping[str, list[str]]],
    metrics: Sequence[str],
) -> list[Expectation]:
    """Bring what a config expects together with the jobs that it is expected of.

    Args:
        expected: Model to dataset to metric to figure × 100, with a ``source`` beside the metrics.
        tolerance: Largest difference, × 100, at which a figure counts as reached.
        jobs: Model to dataset to ids of jobs.
        metrics: Metrics that the jobs have.

    Raises:
        ValueError: If a name is not one of the grid, a figure is not one of a table, or a source is missing.
    """
    if not tolerance >= 0:
        msg = f"Expected tolerance to be 0 or more points × 100, but got {tolerance}. Pass 1.0, for example."
        raise ValueError(msg)
    found = []
    for model, datasets in expected.items():
        _check_known("expected", "models", model, jobs)
        for dataset, given in datasets.items():
            what = f"expected.{model}"
            _check_known(what, "datasets", dataset, jobs[model])
            for metric, figure in _figures(f"{what}.{dataset}", given, metrics):
                source, ids = given["source"], jobs[model][dataset]
                found.append(Expectation(model, dataset, metric, figure, source, float(tolerance), ids))
    return found


def write_expected(output: Path, expected: Sequence[Expectation]) -> None:
    """Write what is expected of the grid in a folder, for its report."""
    with atomic_write(output / EXPECTED_FILE) as draft:
        draft.write_text(json.dumps([asdict(each) for each in expected], indent=2), encoding="utf-8")


def read_expected(output: Path) -> list[Expectation]:
    """Read what is expected of the latest grid that was started in a folder; nothing where it does not say."""
    path = output / EXPECTED_FILE
    if not path.is_file():
        return []
    return [Expectation(**each) for each in json.loads(path.read_text(encoding="utf-8"))]


def _figures(what: str, given: Any, metrics: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Yield metrics and figures, checked."""
    source = given.get("source") if isinstance(given, Mapping) else None
    if not isinstance(source, str) or not source.strip():
        msg = f"Expected {what} to have a source, but got {source!r}. Say where its figures are from."
        raise ValueError(msg)
    if len(given) == 1:
        msg = f"Expected {what} to have a figure, but got its source alone. Metrics: {', '.join(metrics)}."
        raise ValueError(msg)
    for metric, figure in given.items():
        if metric == "source":
            continue
        _check_known(what, "metrics", metric, metrics)
        if isinstance(figure, bool) or not isinstance(figure, int | float) or not 0 <= figure <= 100:
            msg = f"Expected {what}.{metric} to be a figure × 100, from 0 to 100, but got {figure!r}. Correct it."
            raise ValueError(msg)
        yield metric, float(figure)


def _check_known(what: str, kind: str, name: str, known: Mapping[str, Any] | Sequence[str]) -> None:
    if name not in known:
        hint = " It needs reference_pro: true." if name == "pixel_ReferencePRO" else ""
        msg = f"Expected {what} to name {kind} of the grid, but got {name}. Known: {', '.join(known)}.{hint}"
        raise ValueError(msg)
