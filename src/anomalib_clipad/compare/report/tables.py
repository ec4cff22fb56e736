# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""From records to rows: means over categories and seeds that say what they are means of."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from anomalib_clipad.compare.records import Measures, Record
from anomalib_clipad.metrics.evaluator import default_metrics

_METRIC_ORDER = [metric.name for metric in default_metrics()]
"""As in the paper's tables, image before pixel; others follow in alphabetical order."""


@dataclass(frozen=True)
class Cell:
    """One figure of a table.

    Attributes:
        value: Mean over the categories with a value; NaN if there is none.
        std: Sample standard deviation of the mean over seeds; ``None`` for fewer than two complete seeds.
        n_runs: Number of runs, that is of categories times seeds, that have a value.
        n_expected: Number of runs that the grid has.
        categories: Categories with a value.
        best: Whether it is the highest of its column, as printed, among means over the same runs.
    """

    value: float
    std: float | None
    n_runs: int
    n_expected: int
    categories: frozenset[str]
    best: bool = False

    @property
    def complete(self) -> bool:
        """Whether every run of the grid has a value."""
        return self.n_runs == self.n_expected


@dataclass(frozen=True)
class Row:
    """Figures of one model, metric to cell."""

    model: str
    cells: dict[str, Cell]


@dataclass(frozen=True)
class Cost:
    """What the finished jobs of one model took: :class:`Measures` over them, and how many there are."""

    model: str
    n_runs: int
    n_expected: int
    measures: Measures


@dataclass(frozen=True)
class Failure:
    """An error of a model: the runs that it ended, and the traceback of the first."""

    model: str
    runs: list[str]
    error: str
    traceback: str | None


class DatasetResults:
    """The records of one dataset, by model, category and seed.

    Models, categories and seeds are those of any record, in the order of the records; a model that has no record for
    some category, or a failed one, is expected to have one all the same.

    Args:
        name: Name of the dataset.
        records: Records of the dataset.

    Raises:
        ValueError: If two records share model, category and seed: a mean over them would be over two models.
    """

    def __init__(self, name: str, records: Sequence[Record]) -> None:
        self.name = name
        self.records = list(records)
        self.models = list(dict.fromkeys(record.model for record in records))
        self.categories = list(dict.fromkeys(record.category for record in records))
        self.seeds = list(dict.fromkeys(record.seed for record in records))
        self._by_key: dict[tuple[str, str, int], Record] = {}
        for record in records:
            key = (record.model, record.category, record.seed)
            if key in self._by_key:
                msg = (
                    f"Expected each model of a comparison to have a name of its own, but got two jobs of "
                    f"{record.model!r} on {name}/{record.category} with seed {record.seed}: "
                    f"{self._by_key[key].job} and {record.job}. Name the models in the config."
                )
                raise ValueError(msg)
            self._by_key[key] = record
        names = {metric for record in self.done() for metric in record.metrics}
        known = [metric for metric in _METRIC_ORDER if metric in names]
        self.metrics = known + sorted(names - set(known))

    def done(self, model: str | None = None) -> list[Record]:
        """Return the finished jobs, of one model or of all."""
        return [record for record in self.records if record.status == "done" and model in {None, record.model}]

    def get(self, model: str, category: str, seed: int) -> Record | None:
        """Return the finished job of a model, or ``None``."""
        record = self._by_key.get((model, category, seed))
        return record if record is not None and record.status == "done" else None

    def first_done(self, model: str, category: str) -> Record | None:
        """Return the finished job of a model in a category with the first seed that has one."""
        found = (self.get(model, category, seed) for seed in self.seeds)
        return next((record for record in found if record is not None), None)

    def n_failed(self) -> int:
        """Return the number of failed jobs."""
        return sum(record.status == "failed" for record in self.records)

    def failures(self) -> list[Failure]:
        """Return the errors of each model, each once: one that cannot run at all has the same error everywhere."""
        found: dict[tuple[str, str], Failure] = {}
        for record in self.records:
            if record.status == "failed":
                error = record.error or "unknown error"
                failure = found.setdefault((record.model, error), Failure(record.model, [], error, record.traceback))
                failure.runs.append(f"{record.category}, seed {record.seed}")
        return list(found.values())

    def missing(self, categories: Sequence[str] | None = None) -> list[tuple[str, list[str]]]:
        """Return the models without some run in the categories, all by default, each with these runs in words."""
        found = []
        for model in self.models:
            runs = []
            for category in self.categories if categories is None else categories:
                missing = [seed for seed in self.seeds if self.get(model, category, seed) is None]
                for why, failed in (("failed", True), ("not run", False)):
                    seeds = [seed for seed in missing if ((model, category, seed) in self._by_key) is failed]
                    if seeds:
                        which = "" if seeds == self.seeds else f", seed {', '.join(map(str, seeds))}"
                        runs.append(f"{category} ({why}{which})")
            if runs:
                found.append((model, runs))
        return found

    def common_categories(self) -> list[str]:
        """Return the categories that every model finished with every seed."""
        return [
            category
            for category in self.categories
            if all(self.get(model, category, seed) for model in self.models for seed in self.seeds)
        ]

    def values(self, model: str, metric: str, categories: Iterable[str]) -> dict[str, dict[int, float]]:
        """Return category to seed to value, of the runs in which the metric has a value."""
        table: dict[str, dict[int, float]] = {}
        for category in categories:
            for seed in self.seeds:
                record = self.get(model, category, seed)
                value = math.nan if record is None else record.metrics.get(metric, math.nan)
                if math.isfinite(value):
                    table.setdefault(category, {})[seed] = value
        return table

    def rows(self, categories: Sequence[str] | None = None) -> list[Row]:
        """Return the mean of each model and metric over categories, all of them by default.

        A run without a value is left out of its mean; the cell counts them. Only means over the same runs compete for
        the best of a column.
        """
        chosen = self.categories if categories is None else list(categories)
        cells = {
            (model, metric): _cell(self.values(model, metric, chosen), self.seeds, len(chosen))
            for model in self.models
            for metric in self.metrics
        }
        for metric in self.metrics:
            column = [cells[model, metric] for model in self.models]
            every = frozenset().union(*(cell.categories for cell in column))
            rivals = [c for c in column if c.categories == every and c.n_runs == len(every) * len(self.seeds)]
            if len(self.models) > 1 and every and rivals:
                top = max(printed(cell.value) for cell in rivals)
                for model in self.models:
                    cell = cells[model, metric]
                    cells[model, metric] = replace(cell, best=cell in rivals and printed(cell.value) == top)
        return [Row(model, {metric: cells[model, metric] for metric in self.metrics}) for model in self.models]

    def costs(self) -> list[Cost]:
        """Return what the finished jobs of each model took."""
        expected = len(self.categories) * len(self.seeds)
        return [Cost(model, len(self.done(model)), expected, total_cost(self.done(model))) for model in self.models]


def by_dataset(records: Sequence[Record]) -> list[DatasetResults]:
    """Sort records by dataset, in the order in which they come."""
    names = dict.fromkeys(record.dataset for record in records)
    return [DatasetResults(name, [record for record in records if record.dataset == name]) for name in names]


def printed(value: float) -> float:
    """Return a metric as the tables print it: times 100, one decimal."""
    return round(100 * value, 1)


def total_cost(records: Sequence[Record]) -> Measures:
    """Combine what jobs took: mean seconds a job, overall speeds, largest memory and sizes, the sum of the images.

    The overall speed is all images over all seconds, so that a small and fast category does not count as much as a
    large one.
    """
    measures = [record.measures for record in records]

    def known(name: str) -> list[float]:
        return [value for each in measures if (value := getattr(each, name)) is not None]

    def mean(name: str) -> float | None:
        return statistics.fmean(known(name)) if known(name) else None

    def speed(name: str) -> float | None:
        pairs = [(each.images, getattr(each, name)) for each in measures if each.images and getattr(each, name)]
        return sum(images for images, _ in pairs) / sum(images / rate for images, rate in pairs) if pairs else None

    def largest(name: str) -> int | None:
        return int(max(known(name))) if known(name) else None

    return Measures(
        wall_s=mean("wall_s"),
        fit_s=mean("fit_s"),
        test_s=mean("test_s"),
        images=int(sum(known("images"))) if known("images") else None,
        model_images_per_s=speed("model_images_per_s"),
        end_to_end_images_per_s=speed("end_to_end_images_per_s"),
        peak_memory_mb=max(known("peak_memory_mb"), default=None),
        parameters=largest("parameters"),
        checkpoint_bytes=largest("checkpoint_bytes"),
    )


def _cell(values: dict[str, dict[int, float]], seeds: Sequence[int], n_categories: int) -> Cell:
    """Average over seeds in each category, then over categories."""
    if not values:
        return Cell(math.nan, None, 0, n_categories * len(seeds), frozenset())
    mean = statistics.fmean(statistics.fmean(by_seed.values()) for by_seed in values.values())
    complete = [seed for seed in seeds if all(seed in by_seed for by_seed in values.values())]
    of_seeds = [statistics.fmean(by_seed[seed] for by_seed in values.values()) for seed in complete]
    return Cell(
        value=mean,
        std=statistics.stdev(of_seeds) if len(of_seeds) > 1 else None,
        n_runs=sum(len(by_seed) for by_seed in values.values()),
        n_expected=n_categories * len(seeds),
        categories=frozenset(values),
    )
