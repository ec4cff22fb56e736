# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration without labels: Otsu's split against an explicit loop, and what becomes of one, two and no groups."""

import logging

import numpy as np
import pytest
import torch
from anomalib.data import InferenceBatch

from anomalib_clipad.post_processing.calibration import CategoryStatistics, fuse
from anomalib_clipad.post_processing.post_processor import CategoryPostProcessor
from anomalib_clipad.post_processing.unlabelled import (
    MINIMUM_IMAGES,
    calibrate_unlabelled,
    least_effectiveness,
    otsu_split,
    tail_bound,
)


def make_images(n_normal: int, n_anomalous: int, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """Raw scores of normal images and, after them, anomalous ones that have a bright spot and a high probability."""
    generator = torch.Generator().manual_seed(seed)
    n = n_normal + n_anomalous
    maps = 0.40 + 0.02 * torch.rand(n, 16, 16, generator=generator)
    probability = 0.2 + 0.02 * torch.randn(n, generator=generator)
    if n_anomalous:
        maps[n_normal:, 4:8, 4:8] += 0.1
        probability[n_normal:] += 0.3
    return {"class_probability": probability, "anomaly_map": maps}


def gather(images: dict[str, torch.Tensor], **truth: torch.Tensor) -> CategoryStatistics:
    """Statistics of images that come in batches of 7."""
    statistics = CategoryStatistics()
    columns = {"label": None, "mask": None, **images, **truth}
    for start in range(0, len(images["class_probability"]), 7):
        statistics.update(**{k: None if v is None else v[start : start + 7] for k, v in columns.items()})
    return statistics


def decide(images: dict[str, torch.Tensor], statistics: CategoryStatistics) -> InferenceBatch:
    """What a model calibrated without labels says of images."""
    post_processor = CategoryPostProcessor()
    post_processor.calibrate(0, calibrate_unlabelled(statistics))
    return post_processor(InferenceBatch(pred_score=images["class_probability"], anomaly_map=images["anomaly_map"]))


@pytest.mark.parametrize("seed", range(5))
def test_the_split_leaves_the_least_variance_within_the_groups(seed):
    values = np.random.default_rng(seed).gamma(2, size=60)
    ordered = np.sort(values)
    within = [
        (ordered[:size].var() * size + ordered[size:].var() * (60 - size)) / 60 / values.var() for size in range(1, 60)
    ]
    size = 1 + int(np.argmin(within))

    split = otsu_split(torch.from_numpy(values))

    assert split.threshold == pytest.approx((ordered[size - 1] + ordered[size]) / 2)
    assert split.effectiveness == pytest.approx(1 - min(within))


def test_the_split_keeps_its_precision_where_scores_are_close_together():
    values = torch.rand(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    near, far = otsu_split(values), otsu_split(1000 + 1e-4 * values)

    assert (far.threshold.item() - 1000) / 1e-4 == pytest.approx(near.threshold.item(), abs=1e-6)
    assert far.effectiveness == pytest.approx(near.effectiveness, abs=1e-6)


def test_equal_scores_are_never_parted():
    split = otsu_split(torch.tensor([0.1] * 9 + [0.2] * 3))

    assert split.threshold.item() == pytest.approx(0.15)
    assert split.effectiveness == pytest.approx(1)


def test_a_single_value_is_no_two_groups():
    assert otsu_split(torch.full((30,), 0.7)).effectiveness == 0


@pytest.mark.parametrize("n_images", [20, 50, 100])
def test_one_pool_in_twenty_of_a_normal_distribution_passes_for_two_groups(n_images):
    draws = torch.randn(1000, n_images, generator=torch.Generator().manual_seed(0))

    passing = np.mean([otsu_split(pool).effectiveness >= least_effectiveness(n_images) for pool in draws])

    assert 0.03 < passing < 0.07


def test_skewed_scores_of_a_large_pool_are_one_group():
    draws = torch.empty(2000).exponential_(generator=torch.Generator().manual_seed(0))

    assert otsu_split(draws).effectiveness < least_effectiveness(2000)


@pytest.mark.parametrize("n_anomalous", [1, 5, 20, 50, 95])
def test_two_groups_are_told_apart_whatever_their_sizes(n_anomalous):
    images = make_images(100 - n_anomalous, n_anomalous)

    decision = decide(images, gather(images))

    expected = torch.arange(100) >= 100 - n_anomalous
    assert torch.equal(decision.pred_label, expected)
    assert torch.equal(decision.pred_mask.flatten(1).any(1), expected)
    assert decision.pred_mask[expected].float().mean() == pytest.approx(16 / 256)


def test_ranges_are_those_of_the_images():
    images = make_images(30, 10)
    maxima = images["anomaly_map"].flatten(1).amax(1)

    calibration = calibrate_unlabelled(gather(images))

    torch.testing.assert_close(calibration.score_ranges[0], torch.stack(images["class_probability"].aminmax()))
    torch.testing.assert_close(calibration.score_ranges[1], torch.stack(maxima.aminmax()))
    torch.testing.assert_close(calibration.pixel_range, torch.stack(images["anomaly_map"].aminmax()))


def test_the_pixel_threshold_lies_halfway_between_the_median_maxima_of_both_groups():
    images = make_images(30, 20)
    images["class_probability"][-1] += 0.5  # so that most anomalous images lie in the lower half of the range
    images["anomaly_map"][-1] += 0.17
    maxima = images["anomaly_map"].flatten(1).amax(1).numpy()

    threshold = calibrate_unlabelled(gather(images)).pixel_threshold

    assert threshold.item() == pytest.approx((np.median(maxima[:30]) + np.median(maxima[30:])) / 2)


def test_labels_and_masks_change_nothing():
    images = make_images(30, 10)
    wrong = {"label": torch.arange(40) < 3, "mask": images["anomaly_map"] < 0.41}

    for with_truth, without in zip(
        calibrate_unlabelled(gather(images, **wrong)), calibrate_unlabelled(gather(images)), strict=True
    ):
        assert torch.equal(with_truth, without)


def test_the_order_of_the_images_changes_nothing():
    images = make_images(30, 10)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    shuffled = {key: values[order] for key, values in images.items()}

    for one, other in zip(calibrate_unlabelled(gather(images)), calibrate_unlabelled(gather(shuffled)), strict=True):
        torch.testing.assert_close(one, other)


def test_where_all_images_look_normal_none_is_forced_to_be_anomalous(caplog):
    images = make_images(100, 0)
    statistics = gather(images)

    decision = decide(images, statistics)

    assert not decision.pred_label.any()
    assert not decision.pred_mask.any()
    assert "The scores of the 100 unlabelled images form a single group" in caplog.text


def test_where_all_images_look_normal_rounding_makes_none_anomalous_and_a_defect_still_does():
    images = make_images(100, 0)
    statistics = gather(images)
    nearly = {key: values * (1 + 1e-5) for key, values in images.items()}

    assert not decide(nearly, statistics).pred_label.any()
    assert not decide(nearly, statistics).pred_mask.any()
    assert decide(make_images(0, 5, seed=1), statistics).pred_label.all()
    assert decide(make_images(0, 5, seed=1), statistics).pred_mask.flatten(1).any(1).all()


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_images_that_are_all_the_same_are_normal(value):
    images = {"class_probability": torch.full((30,), value), "anomaly_map": torch.full((30, 4, 4), value)}

    decision = decide(images, gather(images))

    assert not decision.pred_label.any()
    assert not decision.pred_mask.any()


def test_too_few_images_leave_the_category_uncalibrated_and_say_so(caplog):
    images = make_images(MINIMUM_IMAGES - 3, 2)

    assert calibrate_unlabelled(gather(images), "gasket") is None
    assert f"Expected at least {MINIMUM_IMAGES} unlabelled images of gasket to calibrate on, but got 19" in caplog.text


def test_the_minimum_is_enough(caplog):
    images = make_images(MINIMUM_IMAGES - 2, 2)

    with caplog.at_level(logging.INFO):
        calibration = calibrate_unlabelled(gather(images), "gasket")

    fused = fuse(images["class_probability"], images["anomaly_map"].flatten(1).amax(1), calibration.score_ranges)
    assert int((fused > calibration.image_threshold).sum()) == 2
    assert f"2 of {MINIMUM_IMAGES} unlabelled images of gasket count as anomalous" in caplog.text


def test_no_images_are_refused():
    with pytest.raises(ValueError, match=r"Expected statistics of gasket to hold images, but got none"):
        calibrate_unlabelled(CategoryStatistics(), "gasket")


@pytest.mark.parametrize("field", ["class_probability", "anomaly_map"])
@pytest.mark.parametrize("calibrate", [CategoryStatistics.calibration, calibrate_unlabelled])
def test_scores_that_are_not_finite_are_refused_with_and_without_labels(calibrate, field):
    images = make_images(30, 10)
    images[field][3] = float("nan")
    truth = {"label": torch.arange(40) >= 30, "mask": images["anomaly_map"] > 0.5}

    with pytest.raises(ValueError, match=r"Expected scores of gasket to be finite, but got 1 that are not"):
        calibrate(gather(images, **truth), "gasket")


@pytest.mark.parametrize("draw", ["exponential", "normal"])
def test_so_few_good_images_exceed_the_tails_bound(draw):
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        scores = torch.from_numpy(getattr(rng, draw)(size=200))
        new = getattr(rng, draw)(size=10_000)
        shares.append((new > tail_bound(scores, 0.02).item()).mean())
    assert np.mean(shares) < 0.025


def test_a_bound_on_false_alarms_leaves_two_groups_alone_and_a_single_one_unflagged(caplog):
    rng = np.random.default_rng(0)
    apart = np.concatenate([rng.normal(0.2, 0.02, 80), rng.normal(0.8, 0.02, 20)])
    one = rng.exponential(0.1, 100).clip(0, 1)
    found = {}
    for name, scores in (("apart", apart), ("one", one)):
        statistics = CategoryStatistics()
        values = torch.from_numpy(scores).float()
        statistics.update(values, values[:, None, None].expand(-1, 4, 4), None, None)
        found[name] = calibrate_unlabelled(statistics), calibrate_unlabelled(statistics, false_alarms=0.001)
    for plain, bounded in zip(*found["apart"], strict=True):
        torch.testing.assert_close(bounded, plain)
    assert found["one"][1].image_threshold >= found["one"][0].image_threshold
