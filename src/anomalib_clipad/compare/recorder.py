# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""An evaluator that also keeps what the report shows: scores, maps and curves of the test images."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data import ImageBatch
from lightning.pytorch import LightningModule, Trainer
from torch.nn import functional

from anomalib_clipad.compare.curves import curves_of
from anomalib_clipad.compare.records import MAX_MAP_SIDE, Curves, Images
from anomalib_clipad.metrics.category_buffer import CategoryBuffer
from anomalib_clipad.metrics.evaluator import CategoryEvaluator

_FIELDS = ("pred_score", "gt_label", "anomaly_map", "gt_mask")


class RecordingEvaluator(CategoryEvaluator):
    """:class:`~anomalib_clipad.metrics.evaluator.CategoryEvaluator` for one category, whose images it keeps.

    As the evaluator it sees each batch after the model's post-processor, as the metrics do.

    Attributes:
        input_size: Height and width of the test images as the model sees them.
        seconds: Seconds from the start of the test to its last batch, without the metrics.
    """

    input_size: tuple[int, int]
    seconds: float

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock and forget an earlier test."""
        super().on_test_epoch_start(trainer, pl_module)
        self._kept = CategoryBuffer()
        self._paths: list[str] = []
        self._mask_paths: list[str] = []
        self._masks_of_dataset = _masks_by_image(getattr(trainer.test_dataloaders, "dataset", None))
        self._start = time.perf_counter()

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: ImageBatch, *args: Any, **kwargs: Any
    ) -> None:
        """Keep a batch, then let the metrics see it."""
        self.seconds = time.perf_counter() - self._start
        self.input_size = (batch.image.shape[-2], batch.image.shape[-1])
        self._paths += [str(path) for path in batch.image_path]
        # The host's collation drops the mask paths of a batch whose first image has none.
        given = zip(batch.image_path, batch.mask_path or [None] * batch.batch_size, strict=True)
        self._mask_paths += [_path(mask) or self._masks_of_dataset.get(str(image), "") for image, mask in given]
        self._kept.append({name: getattr(batch, name) for name in _FIELDS}, batch.image_path)
        super().on_test_batch_end(trainer, pl_module, outputs, batch, *args, **kwargs)

    def recorded(self) -> tuple[Images, Curves]:
        """Return what was kept of the test; full maps are let go."""
        columns = self._kept.joined()
        maps, masks = (None if columns[name] is None else _flat(columns[name]) for name in ("anomaly_map", "gt_mask"))
        scores, labels = columns["pred_score"], columns["gt_label"]
        if scores is None or labels is None:
            msg = "Expected the model to give a score and the dataset a label of each image, but got none."
            raise ValueError(msg)
        images = Images(
            image_path=np.array(self._paths, dtype=np.str_),
            mask_path=np.array(self._mask_paths, dtype=np.str_),
            gt_label=labels.bool().numpy(),
            pred_score=scores.float().flatten().numpy(),
            maps=np.zeros((len(scores), 1, 1), np.uint8) if maps is None else _reduced(maps),
        )
        self._kept = CategoryBuffer()
        return images, curves_of(scores.flatten(), labels, maps, masks)


def _masks_by_image(dataset: Any) -> dict[str, str]:
    """Path of the mask of each image of a dataset that has one; several masks of one image are left out."""
    samples = getattr(dataset, "samples", None)
    if samples is None or "mask_path" not in samples:
        return {}
    pairs = zip(samples["image_path"], samples["mask_path"], strict=True)
    return {str(image): _path(mask) for image, mask in pairs if isinstance(mask, str | Path)}


def _path(path: Any) -> str:
    """Path of a mask; the host has None or the word None for an image without one."""
    return "" if path in {None, "None"} else str(path)


def _flat(values: torch.Tensor | None) -> torch.Tensor:
    """(M, H, W) of (M, H, W) or (M, 1, H, W)."""
    assert values is not None
    return values.reshape(values.shape[0], *values.shape[-2:])


def _reduced(maps: torch.Tensor) -> np.ndarray:
    """Maps in [0, 1] as bytes, reduced to at most ``MAX_MAP_SIDE`` pixels a side."""
    height, width = maps.shape[-2:]
    scale = min(1.0, MAX_MAP_SIDE / max(height, width))
    size = (max(1, int(height * scale)), max(1, int(width * scale)))
    small = functional.interpolate(maps[:, None].float(), size=size, mode="area")[:, 0]
    return (small.clamp(0, 1) * 255).round().byte().numpy()
