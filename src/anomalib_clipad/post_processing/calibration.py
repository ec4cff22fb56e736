# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Ranges and thresholds of scores: image score fusion and rank-preserving normalisation.

The paper's image score is ``minmax(P) + minmax(max of the map)`` with both ranges taken over the test images of one
category. A range has to come from somewhere before the first image is scored and must not make later images equal, so
here the ranges are measured during validation, kept, and values outside them are compressed instead of clamped.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

MARGIN = 0.01
"""Share of the output kept at either end for values outside the calibrated range."""

_BINS = 2**16


class Calibration(NamedTuple):
    """What normalises the scores of one category; stacked, of K categories.

    Attributes:
        score_ranges: (2, 2) lowest and highest value of the class probability (row 0) and the map maximum (row 1).
        image_threshold: () threshold of the fused score.
        pixel_range: (2,) lowest and highest value of the map.
        pixel_threshold: () threshold of the map.
    """

    score_ranges: Tensor
    image_threshold: Tensor
    pixel_range: Tensor
    pixel_threshold: Tensor


def unit_calibration() -> Calibration:
    """Calibration of a category nothing is known about: full ranges, and thresholds where both texts fit alike."""
    unit = torch.tensor([0.0, 1.0])
    return Calibration(torch.stack([unit, unit]), torch.tensor(0.5), unit, torch.tensor(0.5))


def fuse(class_probability: Tensor, map_maximum: Tensor, score_ranges: Tensor) -> Tensor:
    """Image scores (B,), half the paper's sum: the mean of min-max scaled class probability and map maximum (B,).

    ``score_ranges`` is (B, 2, 2) or (2, 2). Inside the ranges the scores lie in [0, 1], outside them beyond it.
    """
    parts = torch.stack([class_probability, map_maximum], dim=-1)  # (B, 2)
    low, high = score_ranges.unbind(dim=-1)
    return ((parts - low) / (high - low)).mean(dim=-1)


def fused_bounds(score_ranges: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest fused score that inputs in [0, 1] can have, each of shape (...)."""
    low, high = score_ranges.unbind(dim=-1)
    return (-low / (high - low)).mean(dim=-1), ((1 - low) / (high - low)).mean(dim=-1)


def rescale(values: Tensor, low: Tensor, middle: Tensor, high: Tensor, bounds: tuple[Tensor, Tensor]) -> Tensor:
    """Piecewise linear increasing map into [0, 1]: ``low`` to nearly 0, ``middle`` to 1/2, ``high`` to nearly 1.

    Unlike a clamp it keeps the order of any two values between the ``bounds``, the lowest and highest that can occur,
    and with it every rank metric. All points broadcast to ``values``.
    """
    inputs = (bounds[0], low, middle, high, bounds[1])
    outputs = (0.0, MARGIN, 0.5, 1 - MARGIN, 1.0)
    tiny = torch.finfo(torch.float32).tiny
    result = torch.zeros_like(values)
    for start, end, bottom, top in zip(inputs, inputs[1:], outputs, outputs[1:], strict=False):
        result = result + (top - bottom) * ((values - start) / (end - start).clamp_min(tiny)).clamp(0, 1)
    return result


def best_threshold(scores: Tensor, labels: Tensor) -> Tensor:
    """Threshold of highest F1 of scores (M,), halfway to the next lower; an extreme where all labels are equal."""
    labels = labels.bool()
    if not labels.any():
        return scores.max()
    if labels.all():
        return scores.min()
    ordered, order = scores.double().sort(descending=True)
    hits = labels[order].cumsum(0)
    f1 = 2 * hits / (torch.arange(1, len(scores) + 1, device=scores.device) + hits[-1])
    last_of_ties = torch.cat([ordered[1:] != ordered[:-1], ordered.new_ones(1, dtype=torch.bool)])
    best = int((f1 * last_of_ties).argmax())
    below = ordered[best + 1] if best + 1 < len(ordered) else ordered[best]
    return ((ordered[best] + below) / 2).to(scores.dtype)


@dataclass
class CategoryStatistics:
    """What calibration needs of a category's images; its memory does not grow with the number of pixels."""

    class_probabilities: list[Tensor] = field(default_factory=list)
    map_maxima: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    pixel_range: tuple[float, float] = (float("inf"), float("-inf"))
    pixel_counts: Tensor = field(default_factory=lambda: torch.zeros(2, _BINS, dtype=torch.long))

    def update(self, class_probability: Tensor, anomaly_map: Tensor, label: Tensor | None, mask: Tensor | None) -> None:
        """Add B images: probabilities (B,), maps (B, H, W) in [0, 1] and, where known, labels (B,), masks (B, H, W)."""
        self.class_probabilities.append(class_probability.cpu())
        self.map_maxima.append(anomaly_map.amax(dim=(-2, -1)).cpu())
        if label is not None:
            self.labels.append(label.bool().cpu())
        low, high = anomaly_map.aminmax()
        self.pixel_range = (min(self.pixel_range[0], low.item()), max(self.pixel_range[1], high.item()))
        if mask is not None:
            bins = (anomaly_map.nan_to_num().clamp(0, 1) * (_BINS - 1)).long()
            bins = bins + _BINS * mask.reshape(anomaly_map.shape).long()
            self.pixel_counts += bins.flatten().bincount(minlength=2 * _BINS).reshape(2, _BINS).cpu()

    def merge(self, other: "CategoryStatistics") -> None:
        """Add the images that another process has seen."""
        self.class_probabilities += other.class_probabilities
        self.map_maxima += other.map_maxima
        self.labels += other.labels
        low, high = zip(self.pixel_range, other.pixel_range, strict=True)
        self.pixel_range = (min(low), max(high))
        self.pixel_counts += other.pixel_counts

    def scores(self, class_name: str | None = None) -> tuple[Tensor, Tensor]:
        """Class probabilities (M,) and map maxima (M,) of all images; ValueError if there are none, or not finite."""
        of = "" if class_name is None else f" of {class_name}"
        if not self.class_probabilities:
            msg = f"Expected statistics{of} to hold images, but got none. Add them by update()."
            raise ValueError(msg)
        scores = torch.cat(self.class_probabilities).float(), torch.cat(self.map_maxima).float()
        bad = sum(int((~values.isfinite()).sum()) for values in scores)
        if bad:
            msg = f"Expected scores{of} to be finite, but got {bad} that are not. Look for a model with NaN weights."
            raise ValueError(msg)
        return scores

    def calibration(self, class_name: str | None = None) -> Calibration:
        """Ranges of all images seen, and the thresholds of highest F1 where labels, or labels and masks, were given."""
        unit = unit_calibration()
        probability, maximum = self.scores(class_name)
        score_ranges = torch.stack([usable_range(probability), usable_range(maximum)])
        fused = fuse(probability, maximum, score_ranges)
        labels = torch.cat(self.labels) if self.labels else torch.empty(0)
        labelled = len(labels) == len(fused)
        image_threshold = best_threshold(fused, labels) if labelled else unit.image_threshold
        pixel_range = torch.tensor(self.pixel_range)
        if self.pixel_counts.any():
            pixel_threshold = self._pixel_threshold()
        else:  # of maps without masks what tells is their maximum
            pixel_threshold = best_threshold(maximum, labels) if labelled else pixel_range.mean()
        return Calibration(score_ranges, image_threshold, pixel_range, pixel_threshold.clamp(*pixel_range))

    def _pixel_threshold(self) -> Tensor:
        """Threshold of highest F1 over all pixels, exact to the width of a bin."""
        normal, anomalous = self.pixel_counts
        used = (normal + anomalous).nonzero().flatten()
        if not anomalous.any():
            return torch.tensor(self.pixel_range[1])
        hits = anomalous.flip(0).cumsum(0).flip(0)
        alarms = hits + normal.flip(0).cumsum(0).flip(0)
        f1 = 2 * hits / (alarms + hits[0])
        return used[f1[used].argmax()] / (_BINS - 1)


def usable_range(values: Tensor) -> Tensor:
    """Lowest and highest of the values (M,), or the unit range where they do not differ."""
    low, high = values.aminmax()
    return torch.stack([low, high]) if high > low else torch.tensor([0.0, 1.0])
