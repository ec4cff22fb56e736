# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Pixels of a category counted by score, in memory that does not grow with the number of images."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from anomalib_clipad.metrics.rank_metrics import RankCurve, overlap_weights


class BinnedPixels:
    """Normal and anomalous pixels counted in equal bins of the scores from 0 to 1; scores of one bin count as ties.

    For AUPRO each bin also holds what its pixels add to the overlap of their regions, which are found image by image.
    """

    def __init__(self, bins: int) -> None:
        if bins < 2:
            msg = f"Expected pixel_bins to be at least 2, but got {bins}. 65536 keep the metrics to about 1e-4."
            raise ValueError(msg)
        self.normal = np.zeros(bins, dtype=np.int64)
        self.anomalous = np.zeros(bins, dtype=np.int64)
        self.overlap = np.zeros(bins)
        self.n_regions = 0
        self.finite = True

    def update(self, anomaly_map: torch.Tensor, mask: torch.Tensor) -> None:
        """Count the pixels of maps in [0, 1] and masks, both (B, H, W) or (B, 1, H, W)."""
        bins = len(self.normal)
        scores = anomaly_map.detach().as_subclass(torch.Tensor).cpu().float()
        self.finite &= bool(scores.isfinite().all())
        position = (scores.nan_to_num() * bins).long().clamp(0, bins - 1).numpy().ravel()
        is_anomalous = mask.detach().as_subclass(torch.Tensor).cpu().bool().numpy().ravel()
        self.normal += np.bincount(position[~is_anomalous], minlength=bins)
        if is_anomalous.any():
            weights, n_regions = overlap_weights(mask)
            self.anomalous += np.bincount(position[is_anomalous], minlength=bins)
            self.overlap += np.bincount(position[is_anomalous], weights=weights, minlength=bins)
            self.n_regions += n_regions

    @classmethod
    def merged(cls, parts: Sequence["BinnedPixels"]) -> "BinnedPixels":
        """Join the pixels of one or more categories, counted in as many bins each."""
        joined = cls(len(parts[0].normal))
        for part in parts:
            joined.normal += part.normal
            joined.anomalous += part.anomalous
            joined.overlap += part.overlap
            joined.n_regions += part.n_regions
            joined.finite &= part.finite
        return joined

    def curve(self) -> RankCurve:
        """Return the counts for AUROC, AUPR and F1Max; both classes must have been seen."""
        return RankCurve.from_counts(self.normal, self.anomalous)

    def region_overlap(self) -> NDArray[np.float64]:
        """Return the mean overlap of all regions at each score of the curve, see ``rank_metrics.region_overlap``."""
        return np.cumsum(self.overlap[self.anomalous > 0][::-1] / self.n_regions)
