# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Which images of a comparison the models get most wrong: the share of pairs that they put in the wrong order.

An AUROC is the probability that an anomalous sample scores above a normal one. The error of one image is its own share
of what is missing to 1: over images, how many of the other kind it is on the wrong side of; over pixels, how many
pairs of a pixel in the defect and one beside it are. Both are 0 at best, ½ by guessing and 1 at worst, and depend on
the order of scores alone, so that models with different scales may be averaged.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata


def image_errors(scores: NDArray[np.float32], anomalous: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return for each image the share of images of the other kind that it is ranked on the wrong side of.

    The mean over the anomalous images, and that over the normal ones, is 1 − image AUROC. Ties count half.

    Args:
        scores: (M,) image scores.
        anomalous: (M,) ground truth.

    Returns:
        (M,) errors; NaN where there is no image of the other kind, or a score that is not a number.

    Example:
        >>> image_errors(np.array([0.1, 0.6, 0.4, 0.9]), np.array([False, False, True, True])).tolist()
        [0.0, 0.5, 0.5, 0.0]
    """
    errors = np.full(len(scores), np.nan)
    known = np.isfinite(scores)
    normal, defective = known & ~anomalous, known & anomalous
    if not normal.any() or not defective.any():
        return errors
    everywhere = np.full(len(scores), np.nan)
    everywhere[known] = rankdata(scores[known])
    for kind, other in ((defective, normal), (normal, defective)):
        below = (everywhere[kind] - rankdata(scores[kind])) / other.sum()  # share of the other kind below, ties half
        errors[kind] = below if kind is normal else 1 - below
    return errors


def pixel_error(anomaly_map: NDArray[np.uint8], defect: NDArray[np.bool_]) -> float:
    """Return 1 − AUROC of the pixels of one image: the share of pairs of a defective and a normal pixel out of order.

    Args:
        anomaly_map: (h, w) anomaly map.
        defect: (h, w) mask.

    Returns:
        The error; NaN if the mask is empty or full.

    Example:
        >>> pixel_error(np.array([[0, 255], [9, 9]], np.uint8), np.array([[False, True], [False, False]]))
        0.0
    """
    inside = np.bincount(anomaly_map[defect], minlength=256)
    outside = np.bincount(anomaly_map[~defect], minlength=256)
    if not inside.any() or not outside.any():
        return float("nan")
    below = np.cumsum(inside) - inside / 2  # defective pixels below each value, ties half
    return float(below @ outside / (inside.sum() * outside.sum()))
