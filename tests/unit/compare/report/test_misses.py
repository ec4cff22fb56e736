# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Errors of single images, held against loops over pairs and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from anomalib_clipad.compare.report.misses import image_errors, pixel_error


def pairwise(score: float, anomalous: bool, others: np.ndarray) -> float:
    """Share of the images of the other kind that lie on the wrong side, ties half."""
    wrong = others >= score if anomalous else others <= score
    return float(np.mean(wrong - 0.5 * (others == score)))


def test_image_errors_are_shares_of_pairs() -> None:
    random = np.random.default_rng(0)
    scores = random.integers(0, 12, 40).astype(np.float32)  # with ties
    anomalous = random.uniform(size=40) < 0.4
    expected = [pairwise(score, kind, scores[anomalous != kind]) for score, kind in zip(scores, anomalous, strict=True)]
    errors = image_errors(scores, anomalous)
    np.testing.assert_allclose(errors, expected)
    for kind in (anomalous, ~anomalous):
        assert errors[kind].mean() == pytest.approx(1 - roc_auc_score(anomalous, scores))


def test_image_errors_are_undefined_without_the_other_kind() -> None:
    assert np.isnan(image_errors(np.array([0.1, 0.2], np.float32), np.array([True, True]))).all()


def test_a_score_that_is_not_a_number_counts_for_nothing() -> None:
    errors = image_errors(np.array([0.1, np.nan, 0.9], np.float32), np.array([False, False, True]))
    np.testing.assert_array_equal(errors, [0.0, np.nan, 0.0])


def test_pixel_error_is_what_the_auroc_lacks() -> None:
    random = np.random.default_rng(0)
    anomaly_map = random.integers(0, 20, (12, 16), dtype=np.uint8)
    defect = random.uniform(size=(12, 16)) < 0.2
    assert pixel_error(anomaly_map, defect) == pytest.approx(1 - roc_auc_score(defect.ravel(), anomaly_map.ravel()))


@pytest.mark.parametrize("filled", [False, True])
def test_pixel_error_is_undefined_without_a_border(filled: bool) -> None:
    assert np.isnan(pixel_error(np.zeros((2, 2), np.uint8), np.full((2, 2), filled)))
