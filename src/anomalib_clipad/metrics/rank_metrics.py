# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""AUROC, AUPR, F1Max and AUPRO of the same samples from one sort.

Each of anomalib's metrics sorts all pixels anew. All four only need to know how many anomalous and normal samples
score at or above each *distinct score of an anomalous sample*: between two of them no anomalous sample is gained, so
the curves run straight. The values equal the host's up to rounding.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class RankCurve:
    """Counts at the T distinct scores of P anomalous samples, from the highest score down, against normal ones.

    No rank metric is defined unless both classes are present: look at that before a curve is made.
    """

    anomalous: NDArray[np.int64]  # (T,) anomalous samples with this score; their sum is P
    normal_above: NDArray[np.int64]  # (T,) normal samples with a higher score
    normal_ties: NDArray[np.int64]  # (T,) normal samples with this score
    n_normal: int
    position: NDArray[np.int64]  # (P,) which of the T scores each anomalous sample has, in the samples' order

    @classmethod
    def from_scores(cls, scores: torch.Tensor, is_anomalous: torch.Tensor) -> "RankCurve":
        """Sort scores against a ground truth of the same number of elements; both are flattened."""
        values = scores.detach().cpu().float().numpy().ravel()
        mask = is_anomalous.detach().cpu().bool().numpy().ravel()
        normal = np.sort(values[~mask])
        unique, position, counts = np.unique(values[mask], return_inverse=True, return_counts=True)
        first = np.searchsorted(normal, unique, side="left")
        last = np.searchsorted(normal, unique, side="right")
        return cls(
            anomalous=counts[::-1],
            normal_above=(normal.size - last)[::-1],
            normal_ties=(last - first)[::-1],
            n_normal=normal.size,
            position=unique.size - 1 - position.ravel(),
        )

    @classmethod
    def from_counts(cls, normal: NDArray[np.int64], anomalous: NDArray[np.int64]) -> "RankCurve":
        """Make the curve of scores in T bins, ascending, from how many samples of each class (T,) lie in each."""
        occupied = np.flatnonzero(anomalous)[::-1]
        return cls(
            anomalous=anomalous[occupied],
            normal_above=normal.sum() - np.cumsum(normal)[occupied],
            normal_ties=normal[occupied],
            n_normal=int(normal.sum()),
            position=np.repeat(np.arange(occupied.size), anomalous[occupied]),
        )


class Drawn(NamedTuple):
    """Points (N,) of a curve."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]


def auroc(curve: RankCurve) -> float:
    """Area under the ROC curve: the share of (anomalous, normal) pairs in the right order, ties counting half."""
    right = curve.n_normal - curve.normal_above - 0.5 * curve.normal_ties
    return float(np.sum(curve.anomalous * right) / (curve.anomalous.sum() * curve.n_normal))


def aupr(curve: RankCurve) -> float:
    """Average precision: precision at each score, weighted by the recall that it adds."""
    hits, alarms = _hits_and_alarms(curve)
    return float(np.sum(curve.anomalous * hits / alarms) / hits[-1])


def f1_max(curve: RankCurve) -> float:
    """Largest F1 over all thresholds, 2 TP / (alarms + P). A threshold at a normal score is never the best one."""
    hits, alarms = _hits_and_alarms(curve)
    return float(np.max(2 * hits / (alarms + hits[-1])))


def aupro(curve: RankCurve, masks: torch.Tensor, fpr_limit: float) -> float:
    """Area under the per-region-overlap curve up to a false positive rate in (0, 1], divided by it.

    The curve is of the maps and of these masks (B, H, W) or (B, 1, H, W), interpolated linearly at the limit.
    """
    return area_under_pro(curve, region_overlap(curve, masks), fpr_limit)


def region_overlap(curve: RankCurve, masks: torch.Tensor) -> NDArray[np.float64]:
    """Mean overlap (T,) of all regions of masks (B, H, W) or (B, 1, H, W) with what scores at least each score."""
    weights, n_regions = overlap_weights(masks)
    return np.cumsum(np.bincount(curve.position, weights=weights, minlength=len(curve.anomalous)) / n_regions)


def overlap_weights(masks: torch.Tensor) -> tuple[NDArray[np.float64], int]:
    """What each anomalous pixel adds to the overlap of its 8-connected region (P,), and the number of regions.

    That is the inverse of the region's size. Masks (B, H, W) or (B, 1, H, W) mark at least one pixel.
    """
    plain = masks.detach().as_subclass(torch.Tensor).cpu().bool()
    weights, n_regions = [], 0
    for mask in plain.reshape(-1, *plain.shape[-2:]).numpy():
        n_labels, labels = cv2.connectedComponents(mask.view(np.uint8))  # label 0 is the background
        region = labels[mask]
        weights.append(1.0 / np.bincount(region)[region])
        n_regions += n_labels - 1
    return np.concatenate(weights), n_regions


def area_under_pro(curve: RankCurve, pro_after: NDArray[np.float64], fpr_limit: float) -> float:
    """Area under the mean overlap (T,) of all regions at each score of the curve; see :func:`aupro`."""
    # Two points a score: before its ties, after them. Between scores the overlap stands still.
    fpr = np.stack([curve.normal_above, curve.normal_above + curve.normal_ties], axis=1).ravel() / curve.n_normal
    pro = np.stack([np.append(0.0, pro_after[:-1]), pro_after], axis=1).ravel()
    fpr, pro = np.concatenate([[0.0], fpr, [1.0]]), np.concatenate([[0.0], pro, [1.0]])

    inside = int(np.searchsorted(fpr, fpr_limit, side="right"))
    if inside < len(fpr):
        share = (fpr_limit - fpr[inside - 1]) / (fpr[inside] - fpr[inside - 1])
        at_limit = pro[inside - 1] + share * (pro[inside] - pro[inside - 1])
        fpr, pro = np.append(fpr[:inside], fpr_limit), np.append(pro[:inside], at_limit)
    return float(np.sum(np.diff(fpr) * (pro[1:] + pro[:-1]) / 2) / fpr_limit)


def draw_pro(curve: RankCurve, pro_after: NDArray[np.float64], fpr_limit: float) -> Drawn:
    """False positive rates, 101 up to a limit, and the mean overlap of all regions at them; see :func:`aupro`."""
    fpr = np.concatenate([[0.0], (curve.normal_above + curve.normal_ties) / curve.n_normal, [1.0]])
    grid = np.linspace(0, fpr_limit, 101)
    return Drawn(grid, on_grid(fpr, np.concatenate([[0.0], pro_after, [1.0]]), grid))


def on_grid(x: ArrayLike, y: ArrayLike, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a rising curve at given places; where it rises vertically, its upper end.

    Example:
        >>> on_grid([0.0, 0.0, 1.0], [0.0, 0.5, 1.0], np.array([0.0, 0.5, 1.0])).tolist()
        [0.5, 0.75, 1.0]
    """
    places, first = np.unique(np.asarray(x, dtype=float), return_index=True)
    return np.interp(grid, places, np.maximum.reduceat(np.asarray(y, dtype=float), first))


def _hits_and_alarms(curve: RankCurve) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return true positives (T,) and all positives (T,) at each threshold."""
    hits = np.cumsum(curve.anomalous)
    return hits, hits + curve.normal_above + curve.normal_ties
