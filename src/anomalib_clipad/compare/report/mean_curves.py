# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Curves of jobs on one grid, and their means."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_clipad.compare.records import Curves, if_there, read_curves
from anomalib_clipad.compare.report.tables import DatasetResults
from anomalib_clipad.metrics.rank_metrics import on_grid

N_POINTS = 101


class CurveKind(NamedTuple):
    """A kind of curve: its entry in the file, its axes, and where they end."""

    key: str
    title: str
    y_key: str
    y_label: str
    x_limit: float
    chance: bool


CURVE_KINDS = (
    CurveKind("image_roc", "Image ROC", "tpr", "true positive rate", 1.0, chance=True),
    CurveKind("pixel_roc", "Pixel ROC", "tpr", "true positive rate", 1.0, chance=True),
    CurveKind("pro", "PRO", "pro", "per-region overlap", 0.3, chance=False),
)


class MeanCurve(NamedTuple):
    """Mean of the curves of a model, (N_POINTS + 1,) each, and how many they are."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    n_runs: int


def read_all(output: Path, results: DatasetResults) -> dict[str, Curves]:
    """Return the curves of the finished jobs by id; without those whose file is gone."""
    found = {record.job: if_there(read_curves, output, record.job) for record in results.done()}
    return {job: curves for job, curves in found.items() if curves is not None}


def mean_curve(
    results: DatasetResults, curves: dict[str, Curves], model: str, kind: CurveKind, categories: Sequence[str]
) -> MeanCurve | None:
    """Return the mean over categories and seeds at each false positive rate, or ``None`` if there is no curve.

    Every curve counts the same, as every category does in the tables.
    """
    records = (results.get(model, category, seed) for category in categories for seed in results.seeds)
    known = [curves[record.job][kind.key] for record in records if record and kind.key in curves.get(record.job, {})]
    if not known:
        return None
    x = np.linspace(0, kind.x_limit, N_POINTS)
    y = np.mean([on_grid(curve["fpr"], curve[kind.y_key], x) for curve in known], axis=0)
    return MeanCurve(np.concatenate([[0.0], x]), np.concatenate([[0.0], y]), len(known))
