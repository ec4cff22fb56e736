# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Post-processing per category: image score fusion, normalisation and thresholds that validation calibrates."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.post_processing import PostProcessor
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from anomalib_clipad.base.processes import gather
from anomalib_clipad.post_processing.calibration import (
    Calibration,
    CategoryStatistics,
    fuse,
    fused_bounds,
    rescale,
    unit_calibration,
)
from anomalib_clipad.post_processing.known_good import KnownGood, calibrate_known_good, calibrate_labelled
from anomalib_clipad.post_processing.unlabelled import calibrate_unlabelled

_BUFFERS = ("score_ranges", "image_thresholds", "pixel_ranges", "pixel_thresholds", "calibrated")
"""Attributes that hold the fields of :class:`Calibration`, and whether there is one, stacked over classes."""


class CategoryPostProcessor(PostProcessor):
    """Turns the class probability and the map of SDP into normalised scores, labels and masks.

    Validation measures, for each category by itself, the ranges of class probability and map maximum that the fused
    image score needs, the range of the map, and the thresholds of highest F1. They are saved in checkpoints and
    exported with the model. A category that was not validated is scored with full ranges and thresholds of 0.5.

    Normalisation maps the threshold to 0.5 and keeps the order of all scores, so that AUROC, AUPR, F1Max and AUPRO are
    those of the raw scores; the host's own post-processor clamps.

    Args:
        enable_normalization: Emit normalised scores and maps. Otherwise the image score is fused all the same and
            the map is left as it is.
        enable_thresholding: Emit labels and masks.
        enable_threshold_matching: Accepted for the host's sake; both thresholds are always defined here.
        image_sensitivity: In [0, 1]; a label is set where the normalised score exceeds 1 minus it.
        pixel_sensitivity: The same for masks.
    """

    score_ranges: Tensor
    image_thresholds: Tensor
    pixel_ranges: Tensor
    pixel_thresholds: Tensor
    calibrated: Tensor
    """Whether each class has a calibration of its own (K,)."""

    def __init__(
        self,
        enable_normalization: bool = True,
        enable_thresholding: bool = True,
        enable_threshold_matching: bool = True,
        image_sensitivity: float = 0.5,
        pixel_sensitivity: float = 0.5,
    ) -> None:
        super().__init__(
            enable_normalization=enable_normalization,
            enable_thresholding=enable_thresholding,
            enable_threshold_matching=enable_threshold_matching,
            image_sensitivity=image_sensitivity,
            pixel_sensitivity=pixel_sensitivity,
        )
        for name, value in zip(_BUFFERS, _stored(None), strict=True):
            self.register_buffer(name, value[None])
        self._statistics: dict[int, CategoryStatistics] = {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "CategoryPostProcessor":
        """Follow the model to a device, but not to a precision: in half precision a narrow range is empty."""

        def keep_precision(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_precision, recurse)

    def resize(self, n_classes: int) -> None:
        """Hold calibrations of ``n_classes`` classes; known ones are kept, new ones are uncalibrated."""
        for name, default in zip(_BUFFERS, _stored(None), strict=True):
            known = getattr(self, name)[:n_classes]
            missing = default.to(known).expand(n_classes - len(known), *default.shape)
            setattr(self, name, torch.cat([known, missing]))

    def select(self, indices: list[int]) -> None:
        """Keep the calibrations of the classes of these indices only, in this order."""
        for name in _BUFFERS:
            setattr(self, name, getattr(self, name)[indices].clone())

    def calibrate(self, index: int, calibration: Calibration | None) -> None:
        """Use ``calibration`` for the class of that index; ``None`` for that of a class nothing is known about."""
        for name, value in zip(_BUFFERS, _stored(calibration), strict=True):
            buffer = getattr(self, name).clone()  # which may be an inference tensor, closed to changes
            buffer[index] = value
            setattr(self, name, buffer)

    def uncalibrated(self) -> "CategoryPostProcessor":
        """A copy that knows one class, which nothing was measured of."""
        copy = deepcopy(self)
        copy.forget_statistics()
        copy.select([])
        copy.resize(1)
        return copy

    def is_calibrated(self, index: int) -> bool:
        """Whether the class of that index has a calibration of its own."""
        return bool(self.calibrated[index])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        *ranges, flag = (prefix + name for name in _BUFFERS)
        if flag not in state_dict and state_dict.keys() >= {*ranges}:  # a checkpoint of version 0.1
            changed = [
                (state_dict[name] != default.to(state_dict[name])).reshape(len(state_dict[name]), -1).any(dim=1)
                for name, default in zip(ranges, unit_calibration(), strict=True)
            ]
            state_dict[flag] = torch.stack(changed).any(dim=0)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forget_statistics(self) -> None:
        """Forget what was observed so far."""
        self._statistics = {}

    def observe(self, predictions: "ImageBatch | InferenceBatch | LabelledScores", class_index: Tensor) -> None:
        """Add B raw predictions, with labels and masks where known, to the statistics of their classes (B,)."""
        truth = [getattr(predictions, name, None) for name in ("gt_label", "gt_mask")]
        for index in class_index.unique().tolist():
            rows = (class_index == index).nonzero().flatten()
            self._statistics.setdefault(index, CategoryStatistics()).update(
                predictions.pred_score[rows],
                predictions.anomaly_map[rows],
                *(None if known is None else known[rows] for known in truth),
            )

    def calibrate_observed(
        self,
        class_names: list[str],
        *,
        unlabelled: bool = False,
        known_good: bool = False,
        good_options: KnownGood | None = None,
        false_alarms: float | None = None,
    ) -> None:
        """Calibrate each class that was observed, by any process, on its own statistics.

        Images are ``unlabelled``, or ``known_good``, or else have labels. Where all labels are normal, they are good,
        for which there may be options; ``false_alarms`` is for unlabelled ones.
        """
        observed = {class_names[index]: statistics for index, statistics in self._statistics.items()}
        for name, statistics in _joined(observed).items():
            if name not in class_names:
                continue
            options = good_options or KnownGood()
            if known_good:
                calibration: Calibration | None = calibrate_known_good(statistics, options, name)
            elif unlabelled:
                calibration = calibrate_unlabelled(statistics, name, false_alarms)
            else:
                calibration = calibrate_labelled(statistics, options, name)
            self.calibrate(class_names.index(name), calibration)
        self.forget_statistics()

    def forward(self, predictions: InferenceBatch, class_index: Tensor | None = None) -> InferenceBatch:
        """Turn raw class probabilities (B,) and maps (B, H, W) into scores, labels, maps and masks of these shapes.

        ``class_index`` is the class of each image (B,); ``None`` stands for the first class.
        """
        probability, anomaly_map = predictions.pred_score, predictions.anomaly_map
        ranges, image_threshold, pixel_range, pixel_threshold = self._calibration(class_index)
        fused = fuse(probability, anomaly_map.amax(dim=(-2, -1)), ranges)
        zero, one = torch.zeros_like(fused), torch.ones_like(fused)
        bounds = fused_bounds(ranges)
        normalised_score = rescale(fused, zero, image_threshold, one, bounds)
        low, middle, high, nothing, everything = (
            point[..., None, None] for point in (pixel_range[..., 0], pixel_threshold, pixel_range[..., 1], zero, one)
        )
        normalised_map = rescale(anomaly_map, low, middle, high, (nothing, everything))
        emitted = self.enable_normalization
        return InferenceBatch(
            pred_score=normalised_score if emitted else rescale(fused, zero, (zero + one) / 2, one, bounds),
            anomaly_map=normalised_map if emitted else anomaly_map,
            pred_label=normalised_score > 1 - self.image_sensitivity if self.enable_thresholding else None,
            pred_mask=normalised_map > 1 - self.pixel_sensitivity if self.enable_thresholding else None,
        )

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier, perhaps interrupted, validation."""
        del trainer, pl_module
        self.forget_statistics()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: ImageBatch, *args: Any, **kwargs: Any
    ) -> None:
        """Add a batch of raw predictions to the statistics of its categories."""
        del trainer, args, kwargs
        self.observe(outputs, pl_module.class_index(outputs))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Calibrate the categories that were validated."""
        del trainer
        self.calibrate_observed(pl_module.class_names, good_options=pl_module.known_good)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: ImageBatch, *args: Any, **kwargs: Any
    ) -> None:
        """Post-process a batch in place."""
        del trainer, args, kwargs
        raw = InferenceBatch(pred_score=outputs.pred_score, anomaly_map=outputs.anomaly_map)
        outputs.update(**self(raw, pl_module.class_index(outputs))._asdict())

    on_predict_batch_end = on_test_batch_end

    def _calibration(self, class_index: Tensor | None) -> Calibration:
        """Calibration of each image's class, or of the first class."""
        chosen = 0 if class_index is None else class_index
        return Calibration(*(getattr(self, name)[chosen] for name in _BUFFERS[:-1]))


class LabelledScores(NamedTuple):
    """Raw predictions of B images and whether each is anomalous: (B,), (B, H, W) and (B,)."""

    pred_score: Tensor
    anomaly_map: Tensor
    gt_label: Tensor


def calibrate_on(
    module: Any,
    scored: Iterable[tuple[ImageBatch | InferenceBatch | LabelledScores, Tensor]],
    known_good: KnownGood | None = None,
    false_alarms: float | None = None,
    *,
    labelled: bool = False,
) -> None:
    """Calibrate SDP or SDP+ on batches of raw predictions, each with the classes of its images (B,).

    They have no labels, and there may be a bound on ``false_alarms``; or they are ``known_good``, or ``labelled``.
    """
    post_processor = module.post_processor
    if not isinstance(post_processor, CategoryPostProcessor):
        msg = (
            "Expected post_processor to be a CategoryPostProcessor for calibration, but got "
            f"{type(post_processor).__name__}. Leave post_processor at its default."
        )
        raise RuntimeError(msg)
    post_processor.forget_statistics()
    for raw, class_index in scored:
        post_processor.observe(raw, class_index)
    good = known_good is not None
    post_processor.calibrate_observed(
        module.class_names,
        unlabelled=not good and not labelled,
        known_good=good,
        good_options=known_good,
        false_alarms=false_alarms,
    )


def post_process(
    post_processor: nn.Module | None, predictions: InferenceBatch, class_index: Tensor | None
) -> InferenceBatch:
    """Post-process raw predictions, of images of the classes (B,), with any post-processor; the host's know none."""
    if isinstance(post_processor, CategoryPostProcessor):
        return post_processor(predictions, class_index)
    return predictions if post_processor is None else post_processor(predictions)


def _stored(calibration: Calibration | None) -> tuple[Tensor, ...]:
    """Values of the buffers for a class; ``None`` for one that nothing is known about."""
    return *(calibration or unit_calibration()), torch.tensor(calibration is not None)


def _joined(statistics: dict[str, CategoryStatistics]) -> dict[str, CategoryStatistics]:
    """Join the statistics of all processes."""
    merged: dict[str, CategoryStatistics] = {}
    for part in gather(statistics):
        for name, seen in part.items():
            merged.setdefault(name, CategoryStatistics()).merge(seen)
    return merged
