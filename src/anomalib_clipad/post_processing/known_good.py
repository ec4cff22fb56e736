# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds from good images alone: how many of them may be flagged, and what that says about new ones.

Of M images that are drawn independently from one distribution, k have scores above the threshold. The share of new ones
above it then follows a beta distribution of k + 1 and M - k, whatever the distribution of the scores (order statistics;
Clopper and Pearson, Biometrika 26, 1934). Its quantile is the bound that is written out.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from scipy.special import betaincinv
from torch import Tensor

from anomalib_clipad.host.command_line import plain_errors
from anomalib_clipad.post_processing.calibration import Calibration, CategoryStatistics, fuse, usable_range

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownGood:
    """Sets thresholds by images that are known to be good.

    Args:
        path: Folder of the images, CSV file of paths and class names, or one image; ``None`` where a datamodule's
            validation images, or those handed over in Python, are the good ones.
        false_alarms: Share of the good images that may be flagged, above 0 and below 1.
        confidence: Confidence of the bound on the share of new ones.

    Raises:
        ValueError: If an argument is not valid.
    """

    path: str | None = None
    false_alarms: float = 0.02
    confidence: float = 0.95

    @plain_errors()
    def __post_init__(self) -> None:
        for name in ("false_alarms", "confidence"):
            if not 0 < getattr(self, name) < 1:
                msg = f"Expected {name} to be above 0 and below 1, but got {getattr(self, name)}."
                raise ValueError(msg)

    @classmethod
    def of(cls, given: "KnownGood | Mapping[str, Any] | str | None") -> "KnownGood | None":
        """What a user gave: a path, or arguments by name."""
        if given is None or isinstance(given, KnownGood):
            return given
        return cls(path=given) if isinstance(given, str) else cls(**given)

    @property
    def least_images(self) -> int:
        """Images from which on a new one is flagged at most at the rate ``false_alarms`` if none of them is."""
        return math.ceil(1 / self.false_alarms) - 1


def check_bound(calibrate_unlabelled: bool | float) -> bool | float:
    """Return whether to calibrate without labels, or by what share of false alarms; ValueError if that is none."""
    if not isinstance(calibrate_unlabelled, bool):
        KnownGood(false_alarms=calibrate_unlabelled)
    return calibrate_unlabelled


class Limit(NamedTuple):
    """A threshold () by M good scores, how many of them lie above it, and the bound on the share of new ones."""

    threshold: Tensor
    flagged: int
    bound: float


def limit_false_alarms(scores: Tensor, options: KnownGood) -> Limit:
    """Find the lowest threshold above which at most a share of the scores (M,) of good images lies.

    Raises:
        ValueError: If there are too few for that share.

    Example:
        >>> limit = limit_false_alarms(torch.arange(200.0), KnownGood(false_alarms=0.02))
        >>> limit.threshold, limit.flagged, round(limit.bound, 3)
        (tensor(195.5000), 4, 0.045)
    """
    n_images = len(scores)
    if n_images < options.least_images:
        msg = (
            f"Expected at least {options.least_images} good images for false_alarms={options.false_alarms:g}, but got "
            f"{n_images}. Give more, or allow more false alarms."
        )
        raise ValueError(msg)
    ordered = scores.sort().values
    allowed = int(options.false_alarms * n_images)
    highest = ordered[n_images - allowed - 1]
    next_one = ordered[n_images - allowed] if allowed else highest
    threshold = (highest + next_one) / 2
    flagged = int((scores > threshold).sum())  # fewer where scores are equal
    return Limit(threshold, flagged, float(betaincinv(flagged + 1, n_images - flagged, options.confidence)))


def calibrate_known_good(
    statistics: CategoryStatistics, options: KnownGood, class_name: str | None = None
) -> Calibration:
    """Calibrate a category by images all of which are good, and log what can be expected.

    The threshold of the map is found like that of the image score, from the maximum of each map.

    Raises:
        ValueError: If there are too few images for the share of false alarms.
    """
    probability, maximum = statistics.scores(class_name)
    score_ranges = torch.stack([_with_room(usable_range(probability)), _with_room(usable_range(maximum))])
    image = limit_false_alarms(fuse(probability, maximum, score_ranges), options)
    pixel = limit_false_alarms(maximum, options)
    pixel_range = _with_room(usable_range(torch.tensor(statistics.pixel_range)))
    logger.info(
        "%sOf %d good images %d would be flagged; with %g %% confidence fewer than %.1f %% of new ones like these. "
        "%d would have anomalous pixels; of new ones fewer than %.1f %%.",
        f"{class_name}: " if class_name is not None else "",
        len(probability),
        image.flagged,
        100 * options.confidence,
        math.ceil(1000 * image.bound) / 10,
        pixel.flagged,
        math.ceil(1000 * pixel.bound) / 10,
    )
    return Calibration(score_ranges, image.threshold, pixel_range, pixel.threshold)


def calibrate_labelled(
    statistics: CategoryStatistics, options: KnownGood, class_name: str | None = None
) -> Calibration:
    """Calibrate a category by labelled images; where all of them are normal, as by good ones, if they are enough."""
    labels = torch.cat(statistics.labels) if statistics.labels else torch.ones(1)
    if labels.any():
        if labels.all():
            logger.warning(
                "Expected normal images%s to set a threshold by, but got %d anomalous ones only: it is their lowest "
                "score. Add some normal ones.",
                f" of {class_name}" if class_name is not None else "",
                len(labels),
            )
        return statistics.calibration(class_name)
    if len(labels) >= options.least_images:
        return calibrate_known_good(statistics, options, class_name)
    logger.warning(
        "Expected anomalous validation images%s, or at least %d normal ones to allow %g %% false alarms, but got %d "
        "normal ones: the thresholds are their highest scores.",
        f" of {class_name}" if class_name is not None else "",
        options.least_images,
        100 * options.false_alarms,
        len(labels),
    )
    return statistics.calibration(class_name)


def _with_room(values: Tensor) -> Tensor:
    """Range of good scores with as much room above for what is not."""
    low, high = values
    return torch.stack([low, 2 * high - low])
