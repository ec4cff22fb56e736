# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""PRO as the reference implementation of CLIP-AD computes it, to hold figures against the paper's."""

import numpy as np
import torch
from anomalib.metrics import AnomalibMetric
from anomalib.utils.cv import connected_components_cpu
from scipy.integrate import trapezoid
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

N_THRESHOLDS = 200


def reference_pro(
    maps: torch.Tensor, masks: torch.Tensor, n_thresholds: int = N_THRESHOLDS, fpr_limit: float = 0.3
) -> float:
    """Area under the per-region-overlap curve at equally spaced thresholds.

    The thresholds divide the range of all scores. Points with a false positive rate below the limit are kept, their
    rates are stretched to [0, 1], and the area is the trapezoids' between them: nothing is interpolated at the limit
    and nothing added at 0. anomalib's AUPRO is exact and interpolates, so the two differ. NaN where fewer than two
    points are kept. Maps and masks are (M, H, W), regions 8-connected.
    """
    masks = masks.bool().cpu()
    if not masks.any() or masks.all():
        msg = f"Expected masks to mark normal and anomalous pixels, but got {int(masks.sum())} of {masks.numel()}."
        raise ValueError(msg)
    scores = maps.detach().cpu().double().numpy()
    is_anomalous = masks.numpy()
    regions = connected_components_cpu(masks[:, None].float())[:, 0].numpy()[is_anomalous]
    normal = np.sort(scores[~is_anomalous])
    low, high = scores.min(), scores.max()
    # The reference steps from the lowest score by equal widths and never reaches the highest.
    thresholds = low + (high - low) / n_thresholds * np.arange(n_thresholds)
    fpr = 1 - np.searchsorted(normal, thresholds, side="right") / normal.size
    pro = np.zeros(n_thresholds)
    labels = np.unique(regions)
    for label in labels:
        inside = np.sort(scores[is_anomalous][regions == label])
        pro += 1 - np.searchsorted(inside, thresholds, side="right") / inside.size
    pro /= labels.size
    kept = fpr < fpr_limit
    fpr, pro = fpr[kept][::-1], pro[kept][::-1]  # ascending
    if not fpr.size or fpr[-1] == fpr[0]:
        return float("nan")
    return float(trapezoid(pro, (fpr - fpr[0]) / (fpr[-1] - fpr[0])))


class _ReferencePRO(Metric):
    """torchmetrics shell of :func:`reference_pro`."""

    full_state_update = False
    maps: list[torch.Tensor]
    masks: list[torch.Tensor]

    def __init__(self, n_thresholds: int = N_THRESHOLDS, fpr_limit: float = 0.3, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.n_thresholds = n_thresholds
        self.fpr_limit = fpr_limit
        self.add_state("maps", default=[], dist_reduce_fx="cat")
        self.add_state("masks", default=[], dist_reduce_fx="cat")

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        """Keep maps and masks (B, H, W) or (B, 1, H, W)."""
        self.maps.append(preds.detach().reshape(-1, *preds.shape[-2:]))
        self.masks.append(target.reshape(-1, *target.shape[-2:]).bool())

    def compute(self) -> torch.Tensor:
        """Area of all images seen."""
        maps, masks = dim_zero_cat(self.maps), dim_zero_cat(self.masks)
        return torch.tensor(reference_pro(maps, masks, self.n_thresholds, self.fpr_limit))


class ReferencePRO(AnomalibMetric, _ReferencePRO):
    """PRO at 200 thresholds, as the paper's figures were computed; see :func:`reference_pro`.

    Args:
        n_thresholds: Number of thresholds.
        fpr_limit: In (0, 1].

    Example:
        >>> metric = ReferencePRO(fields=["anomaly_map", "gt_mask"], prefix="pixel_")
        >>> metric.name
        'pixel_ReferencePRO'
    """
