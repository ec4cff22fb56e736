# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The 200-threshold PRO against a loop over thresholds and regions."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.metrics import AUPRO
from scipy.ndimage import label

from anomalib_clipad.metrics.reference_pro import ReferencePRO, reference_pro


def make(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(4, 30, 26, dtype=torch.bool)
    masks[0, 3:9, 4:9] = masks[0, 20:23, 10:20] = masks[2, :, :3] = True
    masks[3, 5, 5] = masks[3, 6, 6] = True  # one region: corners connect
    return torch.rand(4, 30, 26, generator=generator) + 0.4 * masks, masks


def by_loop(maps: np.ndarray, masks: np.ndarray, n_thresholds: int = 200, limit: float = 0.3) -> float:
    """The definition, threshold by threshold and region by region."""
    low, high = maps.min(), maps.max()
    points = []
    for step in range(n_thresholds):
        hit = maps > low + step * (high - low) / n_thresholds
        overlaps = []
        for image in range(len(maps)):
            regions, count = label(masks[image], structure=np.ones((3, 3)))
            overlaps += [hit[image][regions == region].mean() for region in range(1, count + 1)]
        points.append((hit[~masks].mean(), np.mean(overlaps)))
    kept = sorted(point for point in points if point[0] < limit)
    fpr, pro = (np.array(values) for values in zip(*kept, strict=True))
    fpr = (fpr - fpr.min()) / (fpr.max() - fpr.min())
    return float(np.sum(np.diff(fpr) * (pro[1:] + pro[:-1]) / 2))


@pytest.mark.parametrize("seed", [0, 1])
def test_is_that_of_a_loop(seed):
    maps, masks = make(seed)
    assert reference_pro(maps, masks) == pytest.approx(by_loop(maps.double().numpy(), masks.numpy()), abs=1e-6)


def test_as_a_metric_of_an_evaluator():
    maps, masks = make(0)
    metric = ReferencePRO(fields=["anomaly_map", "gt_mask"], prefix="pixel_")
    for rows in (slice(0, 1), slice(1, 4)):
        metric.update(SimpleNamespace(anomaly_map=maps[rows], gt_mask=masks[rows]))
    assert metric.name == "pixel_ReferencePRO"
    assert float(metric.compute()) == pytest.approx(reference_pro(maps, masks), abs=1e-6)


def test_differs_from_the_exact_one_but_not_by_much():
    maps, masks = make(0)
    exact = AUPRO(fields=["anomaly_map", "gt_mask"], fpr_limit=0.3)
    exact.update(SimpleNamespace(anomaly_map=maps, gt_mask=masks))
    assert 1e-5 < abs(float(exact.compute()) - reference_pro(maps, masks)) < 0.05


def test_perfect_maps_have_no_curve_below_the_limit():
    _, masks = make(0)
    assert np.isnan(reference_pro(masks.float(), masks))  # every kept point has a false positive rate of 0


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="Expected masks to mark normal and anomalous pixels, but got 0 of 16"):
        reference_pro(torch.rand(1, 4, 4), torch.zeros(1, 4, 4))
