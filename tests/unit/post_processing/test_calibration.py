# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Score fusion, rank-preserving normalisation and thresholds, against numpy and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, precision_recall_curve, roc_auc_score

from anomalib_clipad.post_processing.calibration import (
    CategoryStatistics,
    best_threshold,
    fuse,
    fused_bounds,
    rescale,
    unit_calibration,
)


@pytest.fixture
def scores() -> tuple[torch.Tensor, torch.Tensor]:
    """Class probabilities and map maxima of 50 images."""
    generator = torch.Generator().manual_seed(0)
    return 0.2 + 0.1 * torch.rand(50, generator=generator), 0.5 + 0.05 * torch.rand(50, generator=generator)


def test_fused_score_is_half_the_papers_sum_of_min_max_scaled_parts(scores):
    probability, maximum = (part.numpy() for part in scores)
    expected = sum((part - part.min()) / (part.max() - part.min()) for part in (probability, maximum)) / 2

    ranges = torch.tensor([[probability.min(), probability.max()], [maximum.min(), maximum.max()]])

    np.testing.assert_allclose(fuse(*scores, ranges), expected, atol=1e-5)


def test_ranges_may_differ_from_image_to_image(scores):
    ranges = torch.tensor([[[0.0, 1.0], [0.0, 1.0]], [[0.2, 0.3], [0.5, 0.6]]])

    fused = fuse(scores[0][:2], scores[1][:2], ranges)

    assert fused[0] == pytest.approx(float(scores[0][0] + scores[1][0]) / 2)
    assert fused[1] == pytest.approx(float((scores[0][1] - 0.2) / 0.1 + (scores[1][1] - 0.5) / 0.1) / 2, abs=1e-5)


def test_bounds_are_reached_by_the_extreme_inputs():
    ranges = torch.tensor([[0.2, 0.3], [0.5, 0.6]])

    low, high = fused_bounds(ranges)

    torch.testing.assert_close(fuse(torch.zeros(1), torch.zeros(1), ranges)[0], low)
    torch.testing.assert_close(fuse(torch.ones(1), torch.ones(1), ranges)[0], high)


def test_rescale_maps_the_threshold_to_one_half_and_stays_inside_the_unit_interval():
    low, middle, high = torch.tensor(0.3), torch.tensor(0.4), torch.tensor(0.7)

    result = rescale(torch.tensor([0.0, 0.3, 0.4, 0.7, 1.0]), low, middle, high, (torch.tensor(0.0), torch.tensor(1.0)))

    torch.testing.assert_close(result, torch.tensor([0.0, 0.01, 0.5, 0.99, 1.0]))


@pytest.mark.parametrize("points", [(0.3, 0.4, 0.7), (0.0, 0.4, 1.0), (0.3, 0.3, 0.7), (0.3, 0.7, 0.7)])
def test_rescale_keeps_every_rank_metric_also_outside_the_calibrated_range(points):
    generator = np.random.default_rng(0)
    values = generator.uniform(0, 1, 500).astype(np.float32)
    labels = generator.random(500) < values

    result = rescale(torch.from_numpy(values), *map(torch.tensor, points), (torch.tensor(0.0), torch.tensor(1.0)))

    assert roc_auc_score(labels, result) == pytest.approx(roc_auc_score(labels, values), abs=1e-6)
    assert len(result.unique()) == len(np.unique(values))


def test_clamping_instead_would_change_the_metrics():
    values = torch.tensor([0.75, 0.9])  # both above the calibrated range

    result = rescale(values, *map(torch.tensor, (0.3, 0.4, 0.7)), (torch.tensor(0.0), torch.tensor(1.0)))

    assert result[0] < result[1]


def test_best_threshold_has_the_highest_f1():
    generator = np.random.default_rng(1)
    labels = generator.random(200) < 0.4
    values = (labels + generator.normal(0, 0.8, 200)).astype(np.float32)
    precision, recall, _ = precision_recall_curve(labels, values)

    threshold = best_threshold(torch.from_numpy(values), torch.from_numpy(labels))

    best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))
    assert f1_score(labels, values > threshold.item()) == pytest.approx(best, abs=1e-6)


def test_best_threshold_with_ties_counts_them_together():
    assert best_threshold(torch.tensor([0.1, 0.5, 0.5, 0.9]), torch.tensor([0, 1, 0, 1])).item() == pytest.approx(0.3)


def test_best_threshold_with_one_class_only():
    values = torch.tensor([0.2, 0.6])

    assert best_threshold(values, torch.zeros(2)).item() == pytest.approx(0.6)
    assert best_threshold(values, torch.ones(2)).item() == pytest.approx(0.2)


def filled_statistics(n: int = 8, *, labelled: bool = True, seed: int = 0) -> tuple[CategoryStatistics, dict]:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(n, 16, 16, dtype=torch.bool)
    masks[: n // 2, 4:8, 4:8] = True
    maps = (0.45 + 0.1 * torch.rand(n, 16, 16, generator=generator) + 0.05 * masks).float()
    data = {
        "class_probability": 0.3 + 0.1 * torch.rand(n, generator=generator),
        "anomaly_map": maps,
        "label": masks.flatten(1).any(1) if labelled else None,
        "mask": masks if labelled else None,
    }
    statistics = CategoryStatistics()
    for part in range(0, n, 3):
        statistics.update(**{k: None if v is None else v[part : part + 3] for k, v in data.items()})
    return statistics, data


def test_calibration_measures_the_ranges_of_all_batches():
    statistics, data = filled_statistics()

    calibration = statistics.calibration()

    maxima = data["anomaly_map"].flatten(1).amax(1)
    torch.testing.assert_close(calibration.score_ranges[0], torch.stack(data["class_probability"].aminmax()))
    torch.testing.assert_close(calibration.score_ranges[1], torch.stack(maxima.aminmax()))
    torch.testing.assert_close(calibration.pixel_range, torch.stack(data["anomaly_map"].aminmax()))


def test_pixel_threshold_is_that_of_an_exact_sort_up_to_the_bin_width():
    statistics, data = filled_statistics()
    precision, recall, thresholds = precision_recall_curve(data["mask"].ravel(), data["anomaly_map"].ravel())
    best = thresholds[np.argmax(2 * precision * recall / np.maximum(precision + recall, 1e-12))]

    assert statistics.calibration().pixel_threshold.item() == pytest.approx(best, abs=2 / 2**16)


def test_statistics_of_two_processes_add_up_to_those_of_one():
    whole, data = filled_statistics()
    first, second = CategoryStatistics(), CategoryStatistics()
    first.update(**{key: value[:5] for key, value in data.items()})
    second.update(**{key: value[5:] for key, value in data.items()})

    first.merge(second)

    for merged, expected in zip(first.calibration(), whole.calibration(), strict=True):
        torch.testing.assert_close(merged, expected)


def test_without_labels_the_thresholds_lie_in_the_middle_of_the_ranges():
    statistics, _ = filled_statistics(labelled=False)

    calibration = statistics.calibration()

    assert calibration.image_threshold == unit_calibration().image_threshold
    torch.testing.assert_close(calibration.pixel_threshold, calibration.pixel_range.mean())


def test_a_single_image_has_no_range_and_keeps_the_full_one():
    statistics, _ = filled_statistics(n=1)

    torch.testing.assert_close(statistics.calibration().score_ranges, torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
