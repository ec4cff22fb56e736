# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of the table of measures, in the terminal and in Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One measure.

    Attributes:
        measure: What was measured.
        value: The figure; None where it could not be measured.
        limit: What it must reach; None where it is only reported.
        better: Whether small or large figures are better.
        unit: Follows the figure, such as `` ms``; empty for ratios.
        note: What the figure rests on, or why there is none.
    """

    measure: str
    value: float | None
    limit: float | None = None
    better: Literal["small", "large"] = "small"
    unit: str = ""
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the limit is kept; None without a figure or a limit."""
        if self.value is None or self.limit is None:
            return None
        return self.value <= self.limit if self.better == "small" else self.value >= self.limit

    def cells(self) -> list[str]:
        """Texts of the row: measure, figure, limit, verdict, note."""
        value = "not measured" if self.value is None else f"{self.value:.3g}{self.unit}"
        sign = "≤" if self.better == "small" else "≥"
        limit = "report" if self.limit is None else f"{sign} {self.limit:g}{self.unit}"
        verdict = {True: "yes", False: "**no**", None: ""}[self.reached]
        return [self.measure, value, limit, verdict, self.note]


HEADER = ["measure", "measured", "must reach", "reached", "notes"]


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table of the rows."""
    lines = [HEADER, ["---"] * len(HEADER), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def terminal(rows: Sequence[Row]) -> Table:
    """The same for the terminal."""
    table = Table(*HEADER)
    for row in rows:
        table.add_row(*(cell.replace("**", "") for cell in row.cells()))
    return table
