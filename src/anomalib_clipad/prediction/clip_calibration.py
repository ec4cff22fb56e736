# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration from Python: ranges and thresholds by images without labels, by good ones, or by labelled ones."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from anomalib_clipad.data.image_list import read_labels
from anomalib_clipad.data.image_loader import BATCH_SIZE
from anomalib_clipad.post_processing.known_good import KnownGood
from anomalib_clipad.post_processing.post_processor import LabelledScores, calibrate_on
from anomalib_clipad.prediction.predictions import Images
from anomalib_clipad.scoring.pool import Pool

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from typing import Self


class ClipCalibration:
    """Calibration without a trainer; part of ``ClipModule``, beside ``ClipPrediction``, which scores the images."""

    known_good: KnownGood | None
    labels: str | None
    _score_images: Callable[..., Iterator[Any]]
    _calibrated: bool = False

    @torch.no_grad()
    def calibrate(
        self,
        images: Images | None = None,
        class_name: str | Sequence[str] | None = None,
        batch_size: int = BATCH_SIZE,
        *,
        labels: str | Path | None = None,
        pool: Pool | bool | None = None,
        known_good: bool = False,
        false_alarms: float | None = None,
        confidence: float = KnownGood.confidence,
    ) -> "Self":
        """Set ranges and thresholds of each class, see docs/thresholds.md: from images without labels, or with.

        Arguments and errors are those of :meth:`predict`, and:

        Args:
            images: See there.
            class_name: See there.
            batch_size: See there.
            labels: Instead of images, a CSV file of paths, class names and labels, good or bad, as the page of a run
                saves it: the thresholds are those of highest F1.
            pool: See there.
            known_good: Whether all images are good: thresholds are such that at most the share ``false_alarms`` of them
                is flagged, and the log says what that means for new ones. An image that the model remembers as a
                reference is not compared with itself.
            false_alarms: Share of good images that may be flagged, above 0 and below 1; ``None`` for 0.02 of known good
                ones and, of unlabelled ones, for no bound.
            confidence: Confidence of what the log says of new ones.

        Returns:
            The model.

        Raises:
            ValueError: If there are too few good images for the share of false alarms; the message says how many it
                takes. If labels are not valid, or given beside images.
        """
        if labels is not None:
            if images is not None or known_good or false_alarms is not None:
                msg = "Expected labels alone, but got images, known_good or false_alarms too. Give one of them."
                raise ValueError(msg)
            self._calibrate_labelled(labels, class_name, batch_size, pool)
            return self
        if images is None:
            msg = "Expected images or labels to calibrate by, but got neither."
            raise ValueError(msg)
        options = KnownGood(None, KnownGood.false_alarms if false_alarms is None else false_alarms, confidence)
        good = options if known_good else None
        scored = self._score_images(images, class_name, batch_size, [], pool, left_out=known_good)
        calibrate_on(self, ((raw, classes) for _, classes, raw in scored), good, false_alarms)
        return self

    def calibrate_given(self) -> None:
        """Calibrate on the labelled or good images that the constructor was given, once."""
        good = self.known_good if self.known_good is not None and self.known_good.path else None
        if self._calibrated or (good is None and self.labels is None):
            return
        self._calibrated = True
        if good is not None:
            logger.info("Calibrating on good images: %s", good.path)
            self.calibrate(good.path, known_good=True, false_alarms=good.false_alarms, confidence=good.confidence)
        else:
            logger.info("Calibrating on labelled images: %s", self.labels)
            self.calibrate(labels=self.labels)

    def _calibrate_labelled(
        self,
        path: str | Path,
        class_name: str | Sequence[str] | None,
        batch_size: int,
        pool: Pool | bool | None,
    ) -> None:
        """Calibrate on the images of a CSV file and its labels."""
        labels = read_labels(path)

        def scored() -> Iterator[tuple[LabelledScores, Tensor]]:
            for read, classes, raw in self._score_images(path, class_name, batch_size, [], pool):
                anomalous = torch.tensor([labels[image.source.path] for image in read], device=classes.device)
                yield LabelledScores(raw.pred_score, raw.anomaly_map, anomalous), classes

        calibrate_on(self, scored(), labelled=True)
