# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Measured means beside the figures that were expected of them."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from anomalib_clipad.compare.expected import Expectation
from anomalib_clipad.compare.records import Record
from anomalib_clipad.compare.report.tables import printed


@dataclass(frozen=True)
class Difference:
    """A measured mean and what was expected of it, both × 100 and to one decimal, as tables print them.

    Attributes:
        expectation: What was expected.
        measured: Mean over all jobs; ``None`` where one of them has no value: a mean over others is not to be compared.
        n_runs: Number of jobs that have a value.
    """

    expectation: Expectation
    measured: float | None
    n_runs: int

    @property
    def points(self) -> float | None:
        """Measured minus expected; ``None`` where there is nothing to compare."""
        return None if self.measured is None else round(self.measured - round(self.expectation.figure, 1), 1)

    @property
    def reached(self) -> bool:
        """Whether it was measured and is within the tolerance."""
        return self.points is not None and abs(self.points) <= self.expectation.tolerance


def differences(expected: Sequence[Expectation], records: Sequence[Record]) -> list[Difference]:
    """Hold the means of jobs that are done against what was expected of them."""
    done = {record.job: record.metrics for record in records if record.status == "done"}
    found = []
    for each in expected:
        values = [done.get(job, {}).get(each.metric, math.nan) for job in each.jobs]
        finite = [value for value in values if math.isfinite(value)]
        measured = printed(statistics.fmean(values)) if values and len(finite) == len(values) else None
        found.append(Difference(each, measured, len(finite)))
    return found
