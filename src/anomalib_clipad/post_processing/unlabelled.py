# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Ranges and thresholds from unlabelled images: the distribution of their scores is all that is known.

Assumption: anomalous images form a second group of higher scores. Otsu's method (1979) splits the fused scores in two;
his measure of the split says whether there are two groups at all. ``docs/thresholds.md`` has the alternatives that were
tried and how well this one does.
"""

import logging
import math
from typing import NamedTuple, cast

import torch
from torch import Tensor

from anomalib_clipad.post_processing.calibration import (
    Calibration,
    CategoryStatistics,
    fuse,
    usable_range,
)

logger = logging.getLogger(__name__)

MINIMUM_IMAGES = 20
"""With fewer images the calibration is that of a category nothing is known about."""

HEADROOM = 0.05
"""Where all images look alike, a later one is anomalous if it exceeds all of them by this share of their range."""

_LEAST_EFFECTIVENESS = 0.7
"""In large pools skewed scores of a single group come near it: an exponential distribution reaches 0.65."""


class Split(NamedTuple):
    """Two groups of scores.

    Attributes:
        threshold: () halfway between the highest score of the lower group and the lowest one of the upper group.
        effectiveness: Share of the variance that the group means explain, in [0, 1]; 0 where all scores are equal.
    """

    threshold: Tensor
    effectiveness: float


def otsu_split(scores: Tensor) -> Split:
    """Split scores (M,) so that the two groups' means explain most of the variance (Otsu 1979); exact, no histogram."""
    ordered = scores.double().sort().values
    if ordered[0] == ordered[-1]:
        return Split(scores.max(), 0.0)
    share = torch.arange(1, len(ordered), dtype=torch.float64) / len(ordered)  # of the lower group
    # Centred, a difference of cumulative sums loses no digits where all scores are large and close together.
    lower_sum = (ordered - ordered.mean()).cumsum(0)[:-1] / len(ordered)
    between = lower_sum.square() / (share * (1 - share))
    # Equal scores are one group: no cut parts them.
    best = int(between.where(ordered[1:] > ordered[:-1], -1.0).argmax())
    return Split(
        ((ordered[best] + ordered[best + 1]) / 2).to(scores.dtype), float(between[best] / ordered.var(correction=0))
    )


def least_effectiveness(n_images: int) -> float:
    """Effectiveness of a split from which on scores count as two groups.

    A split of one normal distribution explains 2/pi of its variance, and of M draws from it a little more: the second
    term is fitted to the 95 % quantile for 10 to 300 draws, by simulation.
    """
    return max(_LEAST_EFFECTIVENESS, 2 / math.pi + 0.66 / math.sqrt(n_images))


def tail_bound(scores: Tensor, false_alarms: float) -> Tensor:
    """Score () that so small a share of images like these (M,) exceeds, if their upper tail is an exponential one.

    Such a tail is heavier than that of a normal distribution, for which the bound is on the safe side.
    """
    middle = _median(scores)
    excess = (scores[scores > middle] - middle).mean() if (scores > middle).any() else torch.zeros(())
    return middle + excess * math.log(0.5 / min(false_alarms, 0.5))


def calibrate_unlabelled(
    statistics: CategoryStatistics, class_name: str | None = None, false_alarms: float | None = None
) -> Calibration | None:
    """Calibrate a category by images of which nobody has said whether they are anomalous.

    The image threshold splits the fused scores by Otsu's method. The threshold of the map lies halfway between the
    median map maximum of the images below the image threshold and that of the images above it. Where the split is no
    better than that of a single group, both thresholds lie above all scores of these images. With fewer than
    ``MINIMUM_IMAGES`` the result is ``None``. Both are warned of.

    With ``false_alarms`` the image threshold is at least the :func:`tail_bound` of the lower group for that share.

    Example:
        >>> statistics = CategoryStatistics()
        >>> anomaly_map = torch.full((40, 8, 8), 0.4)
        >>> anomaly_map[30:, 2:4, 2:4] = 0.8  # ten of forty images have a defect
        >>> statistics.update(torch.linspace(0.4, 0.5, 40), anomaly_map, label=None, mask=None)
        >>> calibrate_unlabelled(statistics).pixel_threshold
        tensor(0.6000)
    """
    of = f" of {class_name}" if class_name is not None else ""
    probability, maximum = statistics.scores(class_name)
    n_images = len(probability)
    if n_images < MINIMUM_IMAGES:
        logger.warning(
            "Expected at least %d unlabelled images%s to calibrate on, but got %d: thresholds stay at 0.5, as without "
            "calibration.",
            MINIMUM_IMAGES,
            of,
            n_images,
        )
        return None
    score_ranges = torch.stack([usable_range(probability), usable_range(maximum)])
    pixel_range = usable_range(torch.tensor(statistics.pixel_range))
    fused = fuse(probability, maximum, score_ranges)
    split, least = otsu_split(fused), least_effectiveness(n_images)
    if split.effectiveness < least:
        logger.warning(
            "The scores of the %d unlabelled images%s form a single group (effectiveness %.2f of a split, below %.2f): "
            "none of them counts as anomalous.",
            n_images,
            of,
            split.effectiveness,
            least,
        )
        return _above_all(score_ranges, fused, pixel_range)
    threshold = split.threshold
    if false_alarms is not None:
        threshold = torch.maximum(threshold, tail_bound(fused[fused <= threshold], false_alarms))
    upper = fused > threshold
    if not upper.any():
        logger.warning(
            "None of the %d unlabelled images%s exceeds the bound for %g %% false alarms: none counts as anomalous.",
            n_images,
            of,
            100 * cast("float", false_alarms),
        )
        return _above_all(score_ranges, fused, pixel_range)
    logger.info(
        "%d of %d unlabelled images%s count as anomalous (effectiveness %.2f of the split).",
        int(upper.sum()),
        n_images,
        of,
        split.effectiveness,
    )
    pixel_threshold = (_median(maximum[~upper]) + _median(maximum[upper])) / 2
    return Calibration(score_ranges, threshold, pixel_range, pixel_threshold.clamp(*pixel_range))


def _above_all(score_ranges: Tensor, fused: Tensor, pixel_range: Tensor) -> Calibration:
    """Calibration by which no image seen is anomalous, nor one whose scores differ from theirs by rounding only."""
    widened = score_ranges + HEADROOM * torch.stack([torch.zeros(2), score_ranges[:, 1] - score_ranges[:, 0]], dim=1)
    threshold = (fused.max() + HEADROOM) / (1 + HEADROOM)  # fused scores shrink as ranges widen
    top = pixel_range[1] + HEADROOM * (pixel_range[1] - pixel_range[0])
    return Calibration(widened, threshold, torch.stack([pixel_range[0], top]), top)


def _median(values: Tensor) -> Tensor:
    """Median, of an even number the mean of both middle values; torch's own takes the lower one."""
    return values.quantile(0.5)
