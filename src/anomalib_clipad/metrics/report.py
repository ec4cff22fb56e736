# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The table of metrics per category: means, print-out and CSV file."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from anomalib_clipad.base.files import atomic_write

FILE_NAME = "metrics_per_category.csv"


class MetricsReport:
    """Values of named metrics, one row a category, in the order in which they were added."""

    def __init__(self, metrics: Sequence[str]) -> None:
        self.metrics = list(metrics)
        self.categories: dict[str, dict[str, float]] = {}  # category to metric to value, NaN where undefined
        self.n_images: dict[str, int] = {}
        self.pooled: dict[str, float] | None = None  # over all images together

    def add(self, category: str, n_images: int, values: dict[str, float]) -> None:
        """Add the row of one category."""
        self.categories[category] = values
        self.n_images[category] = n_images

    def mean(self) -> dict[str, float]:
        """Return the unweighted mean of each metric over the categories in which it is defined; NaN if in none."""
        return {metric: mean_of_known([row[metric] for row in self.categories.values()]) for metric in self.metrics}

    def to_log(self) -> dict[str, float]:
        """Return the defined means under their plain names and the pooled values as ``pooled_<name>``."""
        pooled = {f"pooled_{metric}": value for metric, value in (self.pooled or {}).items()}
        return {name: value for name, value in (self.mean() | pooled).items() if not math.isnan(value)}

    def rows(self) -> list[tuple[str, int, dict[str, float]]]:
        """Return name, number of images and values of each category, then ``pooled`` where known, then ``mean``."""
        rows = [(category, self.n_images[category], values) for category, values in self.categories.items()]
        total = sum(self.n_images.values())
        if self.pooled is not None:
            rows.append(("pooled", total, self.pooled))
        rows.append(("mean", total, self.mean()))
        return rows

    def print(self) -> None:
        """Print the table, unless it would say no more than the mean, which Lightning prints."""
        if len(self.categories) < 2:
            return
        table = Table(title="Metrics per category", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("category")
        for column in ("images", *self.metrics):
            table.add_column(column.replace("_", "\n", 1), justify="right")  # two lines keep seven in 80 columns
        for index, (name, n_images, values) in enumerate(self.rows(), start=1):
            last = index == len(self.categories)
            table.add_row(name, str(n_images), *(f"{values[m]:.4f}" for m in self.metrics), end_section=last)
        Console().print(table)

    def write(self, folder: str | Path) -> Path:
        """Write the table as CSV, NaN as ``nan``, in one step: a reader never sees half a file."""
        path = Path(folder) / FILE_NAME
        with atomic_write(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["category", "n_images", *self.metrics])
            for name, n_images, values in self.rows():
                writer.writerow([name, n_images, *(f"{values[metric]:.6f}" for metric in self.metrics)])
        return path


def mean_of_known(values: Sequence[float]) -> float:
    """Mean of the values that are numbers; NaN if there are none."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
