# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Rank metrics against scikit-learn, the host's classes and a threshold-by-threshold loop."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.metrics import AUPR, AUPRO, AUROC, F1Max
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from anomalib_clipad.metrics.rank_metrics import RankCurve, aupr, aupro, auroc, f1_max


def make(seed: int, levels: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return maps and masks (6, 24, 20); few levels make many ties, also between normal and anomalous pixels."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(6, 24, 20, dtype=torch.bool)
    masks[0, 2:9, 3:8] = True
    masks[0, 12:14, 12:20] = True  # two regions in one image
    masks[1, 5, 5] = masks[1, 6, 6] = True  # one region: corners connect
    masks[3, :, :4] = True
    maps = 0.6 * torch.rand(6, 24, 20, generator=generator) + 0.3 * masks * torch.rand(6, 1, 1, generator=generator)
    return (maps if levels is None else (maps * levels).round() / levels), masks


cases = pytest.mark.parametrize(("seed", "levels"), [(0, None), (1, None), (2, 20), (3, 3), (4, 1)])


@cases
def test_against_scikit_learn(seed: int, levels: int | None) -> None:
    maps, masks = make(seed, levels)
    curve = RankCurve.from_scores(maps, masks)
    scores, truth = maps.numpy().ravel(), masks.numpy().ravel()
    assert auroc(curve) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert aupr(curve) == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
    best = max(f1_score(truth, scores >= threshold) for threshold in np.unique(scores)[:: 1 if levels else 40])
    assert f1_max(curve) >= best - 1e-12
    if levels:
        assert f1_max(curve) == pytest.approx(best, abs=1e-12)


@cases
@pytest.mark.parametrize("fpr_limit", [0.05, 0.3, 1.0])
def test_against_the_host(seed: int, levels: int | None, fpr_limit: float) -> None:
    maps, masks = make(seed, levels)
    curve = RankCurve.from_scores(maps, masks)
    fields = {"fields": ["anomaly_map", "gt_mask"]}
    ours = [auroc(curve), aupr(curve), f1_max(curve), aupro(curve, masks, fpr_limit)]
    for value, metric in zip(
        ours, [AUROC(**fields), AUPR(**fields), F1Max(**fields), AUPRO(**fields, fpr_limit=fpr_limit)], strict=True
    ):
        metric.update(SimpleNamespace(anomaly_map=maps, gt_mask=masks))
        assert value == pytest.approx(float(metric.compute()), abs=2e-6), metric


@pytest.mark.parametrize("shape", [(6, 24, 20), (6, 1, 24, 20)])
def test_aupro_against_a_loop_over_thresholds(shape: tuple[int, ...]) -> None:
    maps, masks = make(5, 30)
    regions = [(0, slice(2, 9), slice(3, 8)), (0, slice(12, 14), slice(12, 20)), (3, slice(0, 24), slice(0, 4))]
    points = [(0.0, 0.0)]
    for threshold in sorted(maps.unique().tolist(), reverse=True):
        hit = maps >= threshold
        overlaps = [hit[region].float().mean().item() for region in regions]
        overlaps.append((hit[1, 5, 5].item() + hit[1, 6, 6].item()) / 2)
        points.append((hit[~masks].float().mean().item(), sum(overlaps) / 4))
    fpr, pro = np.array(points).T
    grid = np.linspace(0, 0.3, 200_001)  # the curve is made of straight lines, so a fine grid integrates it
    expected = np.interp(grid, fpr, pro).mean()
    value = aupro(RankCurve.from_scores(maps.view(shape), masks.view(shape)), masks.view(shape), 0.3)
    assert value == pytest.approx(expected, abs=1e-4)


def test_perfect_and_reversed_rankings() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :2, :2] = True
    perfect = RankCurve.from_scores(masks.float(), masks)
    assert [auroc(perfect), aupr(perfect), f1_max(perfect), aupro(perfect, masks, 0.3)] == pytest.approx([1, 1, 1, 1])
    reversed_ = RankCurve.from_scores(-masks.float(), masks)
    assert auroc(reversed_) == 0
    assert aupro(reversed_, masks, 0.3) == 0
