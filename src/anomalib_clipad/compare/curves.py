# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""ROC and PRO curves of a job, thinned for plotting."""

import numpy as np
import torch
from numpy.typing import NDArray

from anomalib_clipad.compare.records import MAX_CURVE_POINTS, Curves
from anomalib_clipad.metrics.rank_metrics import RankCurve, region_overlap


def curves_of(
    pred_score: torch.Tensor,
    gt_label: torch.Tensor,
    anomaly_map: torch.Tensor | None,
    gt_mask: torch.Tensor | None,
) -> Curves:
    """ROC of images and pixels, and PRO; what is undefined, as without masks, is left out.

    Args:
        pred_score: (M,).
        gt_label: (M,).
        anomaly_map: (M, H, W).
        gt_mask: (M, H, W).
    """
    curves: Curves = {}
    if gt_label.any() and not gt_label.all():
        curves["image_roc"] = _roc(RankCurve.from_scores(pred_score, gt_label))
    if anomaly_map is not None and gt_mask is not None and gt_mask.any() and not gt_mask.all():
        curve = RankCurve.from_scores(anomaly_map, gt_mask)
        curves["pixel_roc"] = _roc(curve)
        fpr, pro = _thinned(_false_positive_rate(curve), region_overlap(curve, gt_mask))
        curves["pro"] = {"fpr": fpr, "pro": pro}
    return curves


def _roc(curve: RankCurve) -> dict[str, list[float]]:
    fpr, tpr = _thinned(_false_positive_rate(curve), np.cumsum(curve.anomalous) / curve.anomalous.sum())
    return {"fpr": fpr, "tpr": tpr}


def _false_positive_rate(curve: RankCurve) -> NDArray[np.float64]:
    return (curve.normal_above + curve.normal_ties) / curve.n_normal


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """At most ``MAX_CURVE_POINTS`` points from (0, 0) to (1, 1), spread evenly along the curve."""
    x, y = np.concatenate([[0.0], x, [1.0]]), np.concatenate([[0.0], y, [1.0]])
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    wanted = np.linspace(0, length[-1], MAX_CURVE_POINTS)
    kept = np.unique(np.append(np.searchsorted(length, wanted[:-1]), len(x) - 1))
    return x[kept].round(6).tolist(), y[kept].round(6).tolist()
