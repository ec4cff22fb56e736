# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What ``anomalib predict`` does besides scoring: skip broken files, calibrate without labels, write tables."""

import logging
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, Protocol, cast

from anomalib.data import ImageBatch, PredictDataset
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from anomalib_clipad.base.processes import gather
from anomalib_clipad.data.image_list import BATCH_SIZE, ImageListDataset, ListedImage, ReadableLoader, load_images
from anomalib_clipad.post_processing.post_processor import require_calibratable
from anomalib_clipad.prediction.table import CSV_FILE, PredictionRow, describe, describe_unreadable, write_tables

logger = logging.getLogger(__name__)

_WORKERS = 8


class PredictingModule(Protocol):
    """What the report asks of the Lightning module."""

    class_name: str | None
    calibrate_unlabelled: bool
    pre_processor: nn.Module | None
    post_processor: nn.Module | None

    @property
    def class_names(self) -> list[str]:
        """Classes known so far."""

    def class_index(self, batch: ImageBatch) -> Tensor:
        """Class of each image (B,), an index into ``class_names``."""


class PredictionReport(Callback):
    """Makes prediction on a user's own images robust, and writes ``predictions.csv`` and ``predictions.jsonl``.

    anomalib reads a folder image by image and stops at the first that is broken. Here images are read in batches, and
    files that cannot be read are logged, listed in the tables and left out. On the command line the exit code then
    is 1.

    With the model's ``calibrate_unlabelled`` all images are scored once before, and each class is calibrated on its
    own.
    """

    def __init__(self) -> None:
        self._rows: list[PredictionRow] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Exchange the host's loader of a folder for one that survives broken files."""
        if stage != "predict":
            return
        loop = trainer.predict_loop
        if _on_the_command_line(trainer):
            loop.return_predictions = False  # nobody is there to receive all images and maps of the run
        source: Any = loop._data_source  # what was given to `predict`; Lightning has no public name for it
        if isinstance(source.instance, DataLoader):
            source.instance = _robust(source.instance, trainer, pl_module)
        elif isinstance(source.instance, list | tuple):
            source.instance = [_robust(loader, trainer, pl_module) for loader in source.instance]

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Calibrate on the images of the run, if the model asks for it."""
        self._rows = []
        module = _predicting(pl_module)
        if module.calibrate_unlabelled:
            _calibrate(trainer, pl_module)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: ImageBatch,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a post-processed batch to the tables."""
        del trainer, batch, batch_idx, dataloader_idx
        module = _predicting(pl_module)
        index = module.class_index(outputs).tolist()
        self._rows += describe(
            outputs.image_path or [""] * outputs.batch_size,
            [module.class_names[i] for i in index],
            outputs.pred_score,
            outputs.pred_label,
            module.post_processor,
            index,
        )

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the tables, in the order of the list, and log which files were skipped."""
        datasets = [loader.dataset for loader in _loaders(trainer) if isinstance(loader, ReadableLoader)]
        lists = [dataset for dataset in datasets if isinstance(dataset, ImageListDataset)]
        named = _predicting(pl_module).class_name
        names = {image.path: image.class_name or named for images in lists for image in images.images}
        unreadable = [file for images in lists for file in images.unreadable.values()]
        rows = self._rows + [describe_unreadable(file, names.get(file.path)) for file in unreadable]
        position = {path: place for place, path in enumerate(names)}
        self._rows = sorted(chain.from_iterable(gather(rows)), key=lambda row: position.get(row.path, 0))
        if trainer.is_global_zero:
            table, _ = write_tables(trainer.default_root_dir, self._rows)
            logger.info("Predictions: %s", table)
            for row in self._rows:
                if row.error is not None:
                    logger.warning("Skipped %s: %s", row.path, row.error)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the command with exit code 1 if files were skipped; in Python the predictions are returned.

        Raises:
            OSError: In Python, if nothing could be read.
            SystemExit: On the command line, if anything could not be read.
        """
        del pl_module
        skipped = [row for row in self._rows if row.error is not None]
        if skipped and _on_the_command_line(trainer):
            msg = f"{len(skipped)} of {len(self._rows)} files could not be read, see {CSV_FILE}. The rest is done."
            raise SystemExit(msg)
        if skipped and len(skipped) == len(self._rows):
            msg = f"Expected images that can be read, but got none. {skipped[0].path}: {skipped[0].error}"
            raise OSError(msg)


def _robust(loader: Any, trainer: Trainer, pl_module: LightningModule) -> Any:
    """Make a loader that skips broken files of the host's for a folder; leave any other as it is."""
    dataset: Any = getattr(loader, "dataset", None)
    if type(dataset) is not PredictDataset or dataset.transform is not None:
        return loader
    batch_size, num_workers = loader.batch_size, loader.num_workers
    if batch_size == 1 and _on_the_command_line(trainer):  # the host's default; there is no option for it
        batch_size, num_workers = BATCH_SIZE, _WORKERS
    images = [ListedImage(str(path)) for path in dataset.image_filenames]
    return load_images(images, _transform(pl_module), batch_size, num_workers)


def _calibrate(trainer: Trainer, pl_module: LightningModule) -> None:
    """Score all images of the run without keeping their maps, and calibrate each class on what was seen.

    Raises:
        RuntimeError: If the model has no post-processor that can be calibrated.
    """
    module = _predicting(pl_module)
    post_processor = require_calibratable(module.post_processor)
    post_processor.forget_statistics()
    transform = _transform(pl_module)
    logger.info("Calibrating on the images of this run, without labels.")
    for limit, loader in zip(trainer.predict_loop.max_batches, _loaders(trainer), strict=True):
        for number, read in enumerate(islice(loader, None if limit == float("inf") else int(limit))):
            batch = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(read))
            if transform is not None:
                batch.image = transform(batch.image)
            outputs = trainer.strategy.predict_step(batch, number)
            post_processor.observe(outputs, module.class_index(batch))
    post_processor.calibrate_observed(module.class_names, unlabelled=True)


def _loaders(trainer: Trainer) -> Iterator[Any]:
    loaders = trainer.predict_dataloaders
    yield from loaders if isinstance(loaders, list | tuple) else [loaders]


def _on_the_command_line(trainer: Trainer) -> bool:
    """Whether anomalib's command line runs this trainer, which alone adds this callback."""
    return any(isinstance(callback, SaveConfigCallback) for callback in cast("Any", trainer).callbacks)


def _transform(module: LightningModule) -> Any:
    return getattr(_predicting(module).pre_processor, "transform", None)


def _predicting(module: LightningModule) -> PredictingModule:
    return cast("PredictingModule", module)
