# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds from good images: how many are flagged, and whether the bound for new ones holds."""

import logging

import numpy as np
import pytest
import torch
from scipy.stats import binom

from anomalib_clipad.post_processing.calibration import CategoryStatistics, fuse
from anomalib_clipad.post_processing.known_good import (
    KnownGood,
    calibrate_known_good,
    calibrate_labelled,
    limit_false_alarms,
)


def statistics(n_images: int, label: int | None = None, seed: int = 0) -> CategoryStatistics:
    generator = torch.Generator().manual_seed(seed)
    found = CategoryStatistics()
    probability, maps = torch.rand(n_images, generator=generator), torch.rand(n_images, 4, 4, generator=generator)
    found.update(probability, maps, None if label is None else torch.full((n_images,), label), None)
    return found


@pytest.mark.parametrize(
    ("n_images", "share", "flagged"), [(200, 0.02, 4), (199, 0.02, 3), (50, 0.02, 1), (49, 0.02, 0)]
)
def test_as_many_are_flagged_as_are_allowed(n_images, share, flagged):
    scores = torch.randperm(n_images).float()
    limit = limit_false_alarms(scores, KnownGood(false_alarms=share))
    assert limit.flagged == int((scores > limit.threshold).sum()) == flagged


@pytest.mark.parametrize(("share", "flagged"), [(0.00499, 0), (0.02, 4)])
def test_the_bound_is_the_rate_at_which_so_few_would_be_rare(share, flagged):
    limit = limit_false_alarms(torch.arange(201.0)[1:], KnownGood(false_alarms=share))
    assert limit.flagged == flagged
    assert binom.cdf(flagged, 200, limit.bound) == pytest.approx(0.05)


def test_the_bound_holds_for_new_images_in_95_of_100_draws():
    rng = np.random.default_rng(0)
    held = []
    for _ in range(1000):
        scores = torch.from_numpy(rng.exponential(size=200))
        limit = limit_false_alarms(scores, KnownGood(false_alarms=0.02))
        held.append(np.exp(-limit.threshold.item()) <= limit.bound)  # the true share above the threshold
    assert np.mean(held) >= 0.94


def test_equal_scores_are_not_flagged():
    limit = limit_false_alarms(torch.ones(100), KnownGood(false_alarms=0.05))
    assert limit.flagged == 0


def test_too_few_images_are_refused_with_the_number_it_takes():
    with pytest.raises(
        ValueError, match=r"Expected at least 49 good images for false_alarms=0.02, but got 48\. Give more"
    ):
        limit_false_alarms(torch.arange(48.0), KnownGood(false_alarms=0.02))


def test_image_and_pixel_thresholds_flag_the_share_that_is_allowed(caplog):
    found = statistics(200)
    with caplog.at_level(logging.INFO, "anomalib_clipad"):
        calibration = calibrate_known_good(found, KnownGood(), "nut")

    probability, maximum = found.scores()
    assert (fuse(probability, maximum, calibration.score_ranges) > calibration.image_threshold).sum() == 4
    assert (maximum > calibration.pixel_threshold).sum() == 4
    assert (
        "nut: Of 200 good images 4 would be flagged; with 95 % confidence fewer than 4.6 % of new ones like these."
        in caplog.text
    )


def test_normal_validation_images_count_as_good(caplog):
    found = statistics(200, label=0)
    expected = calibrate_known_good(found, KnownGood(false_alarms=0.1))
    actual = calibrate_labelled(found, KnownGood(false_alarms=0.1))
    torch.testing.assert_close(actual, expected)

    few = calibrate_labelled(statistics(10, label=0), KnownGood(), "nut")
    torch.testing.assert_close(few, statistics(10, label=0).calibration())
    assert "Expected anomalous validation images of nut, or at least 49 normal ones" in caplog.text


def test_labels_of_both_kinds_set_thresholds_of_highest_f1():
    found = statistics(60, label=0)
    found.merge(statistics(60, label=1, seed=1))
    torch.testing.assert_close(calibrate_labelled(found, KnownGood()), found.calibration())


@pytest.mark.parametrize("name", ["false_alarms", "confidence"])
@pytest.mark.parametrize("value", [0, 1, -0.1, float("nan")])
def test_shares_that_are_none_are_refused(name, value):
    with pytest.raises(ValueError, match=f"Expected {name} to be above 0 and below 1, but got"):
        KnownGood(**{name: value})
