# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What runs do besides scoring: skip broken files, calibrate without labels, write tables and a page."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from types import MappingProxyType
from typing import Any

from anomalib.data import ImageBatch, PredictDataset
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from torch import Tensor

from anomalib_clipad.base.processes import gather
from anomalib_clipad.data.image_files import image_size
from anomalib_clipad.data.image_loader import (
    BATCH_SIZE,
    THREADS,
    ImageListDataset,
    ListedImage,
    ReadableLoader,
    engine_transform,
    load_images,
)
from anomalib_clipad.host.prediction import exchange_predict_loaders
from anomalib_clipad.post_processing.post_processor import calibrate_on
from anomalib_clipad.prediction.geometry import image_box
from anomalib_clipad.prediction.page import Gallery, Planes, write_page
from anomalib_clipad.prediction.pool_pass import run_batches
from anomalib_clipad.prediction.regions import locate, write_coco
from anomalib_clipad.prediction.table import (
    CSV_FILE,
    PredictionRow,
    describe,
    describe_skipped,
    log_skipped,
    ordered,
    require_readable,
    write_tables,
)

logger = logging.getLogger(__name__)


class PredictionReport(Callback):
    """Makes prediction on a user's own images robust, and writes ``predictions.csv``, ``.jsonl`` and ``report.html``.

    anomalib reads a folder image by image and stops at the first that is broken. Here files that cannot be read are
    logged, listed in the tables and left out.
    """

    def __init__(self) -> None:
        self._rows: list[PredictionRow] = []
        self._listed: dict[str, ListedImage] = {}
        self._gallery: Gallery | None = None

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Exchange the host's loader of a folder for one that survives broken files."""
        if stage != "predict":
            return
        if _on_the_command_line(trainer):
            # Nobody is there to receive all images and maps of the run.
            trainer.predict_loop.return_predictions = False
        exchange_predict_loaders(trainer, lambda loader: _robust(loader, trainer, pl_module))

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Calibrate on the images of the run, if the model asks for it."""
        self._rows, self._gallery = [], _gallery(trainer, pl_module)
        self._listed = {image.path: image for images in _lists(trainer) for image in images.images}
        bound = pl_module.calibrate_unlabelled
        if bound is not False:
            logger.info("Calibrating on the images of this run, without labels.")
            false_alarms = None if bound is True else bound
            calibrate_on(pl_module, _score(trainer, pl_module), false_alarms=false_alarms)
        for listed in _lists(trainer):  # read once for the scores, and not again for the page
            listed.keep_previews = self._gallery is not None

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: ImageBatch,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a post-processed batch to the tables."""
        del batch, batch_idx, dataloader_idx
        paths = outputs.image_path or [""] * outputs.batch_size
        images = [self._listed.get(path, ListedImage(path)) for path in paths]
        previews: dict[str, Tensor] = {}
        for listed in _lists(trainer):
            previews |= {path: listed.previews.pop(path) for path in paths if path in listed.previews}
        self._rows += _describe(images, outputs, pl_module, self._gallery, previews)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the tables, in the order of the list, and log which files were skipped."""
        for image in chain.from_iterable(images.skipped.values() for images in _lists(trainer)):
            row = describe_skipped(image)
            self._rows.append(row if row.class_name else replace(row, class_name=pl_module.class_name))
        self._rows = list(chain.from_iterable(gather(self._rows)))
        _write_page(trainer, pl_module, self._gallery, [row for row in self._rows if row.error is not None])
        self._gallery = None
        if trainer.is_global_zero:
            table, _ = write_tables(trainer.default_root_dir, self._rows)
            logger.info("Predictions: %s", table)
            if pl_module.regions and pl_module.regions.coco:
                logger.info("Regions: %s", write_coco(trainer.default_root_dir, ordered(self._rows)))
            log_skipped(self._rows)

    def on_predict_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Refuse files none of which could be read; on the command line any skipped file makes the exit code 1."""
        del pl_module
        skipped = sum(row.error is not None for row in self._rows)
        if skipped and _on_the_command_line(trainer):
            msg = f"{skipped} of {len(self._rows)} files could not be read, see {CSV_FILE}. The rest is done."
            raise SystemExit(msg)
        require_readable(self._rows)


class ReportOfTest(Callback):
    """Writes ``report.html`` of a test."""

    def __init__(self) -> None:
        self._gallery: Gallery | None = None

    def on_test_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Begin a gallery."""
        self._gallery = _gallery(trainer, pl_module)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: ImageBatch, *args: Any, **kwargs: Any
    ) -> None:
        """Add a post-processed batch to the gallery."""
        del trainer, args, kwargs
        if self._gallery is None or outputs.image_path is None:
            return
        start = len(self._gallery.shown)
        images = [ListedImage(path, position=start + number) for number, path in enumerate(outputs.image_path)]
        _describe(images, outputs, pl_module, self._gallery)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the page."""
        _write_page(trainer, pl_module, self._gallery)
        self._gallery = None


def _describe(
    images: Sequence[ListedImage],
    outputs: ImageBatch,
    module: Any,
    gallery: Gallery | None,
    previews: Mapping[str, Tensor] = MappingProxyType({}),
) -> list[PredictionRow]:
    """Rows of a post-processed batch, which is added to a gallery; ``previews`` by path are small pictures of it."""
    classes = module.class_index(outputs)
    named = [
        image._replace(class_name=module.class_names[index])
        for image, index in zip(images, classes.tolist(), strict=True)
    ]
    rows = describe(named, outputs, module.post_processor, classes, module.evidence)
    wanted = module.regions or gallery is not None
    sizes = [image_size(image.path) if wanted and image.path else None for image in images]
    transform = engine_transform(module.pre_processor)
    found = locate(outputs, sizes, transform, module.regions)
    rows = [
        replace(row, original_size=size, regions=regions) for row, size, regions in zip(rows, sizes, found, strict=True)
    ]
    if gallery is not None and outputs.anomaly_map is not None:
        fields = (getattr(outputs, name) for name in ("anomaly_map", "pred_mask", "gt_mask", "gt_label"))
        columns = [[None] * len(rows) if values is None else values.cpu() for values in fields]
        for row, anomaly_map, mask, truth, label in zip(rows, *columns, strict=True):
            box = None if row.original_size is None else image_box(transform, row.original_size)
            planes = Planes(anomaly_map, mask, truth, box)
            gallery.add(row, planes, None if label is None else bool(label), previews.get(row.path))
    return rows


def _gallery(trainer: Trainer, module: Any) -> Gallery | None:
    return Gallery(trainer.default_root_dir) if module.page else None


def _write_page(trainer: Trainer, module: Any, gallery: Gallery | None, skipped: Sequence[PredictionRow] = ()) -> None:
    """Write the page of all processes; each must call it."""
    if gallery is None:
        return
    joined = Gallery.joined(gather(gallery))
    if trainer.is_global_zero and (joined.shown or skipped):
        pro = getattr(module.evaluator, "pro_curves", {})
        logger.info("Page: %s", write_page(joined, skipped, module.name, pro))


def _robust(loader: Any, trainer: Trainer, pl_module: Any) -> Any:
    """Make a loader that skips broken files of the host's for a folder; leave any other as it is."""
    dataset: Any = getattr(loader, "dataset", None)
    if type(dataset) is not PredictDataset or dataset.transform is not None:
        return loader
    batch_size, num_workers = loader.batch_size, loader.num_workers
    if batch_size == 1 and _on_the_command_line(trainer):  # the host's default; there is no option for it
        batch_size, num_workers = BATCH_SIZE, THREADS
    images = [ListedImage(str(path), position=position) for position, path in enumerate(dataset.image_filenames)]
    return load_images(images, engine_transform(pl_module.pre_processor), batch_size, num_workers)


def _score(trainer: Trainer, module: Any) -> Iterator[tuple[ImageBatch, Tensor]]:
    """Score all images of the run: raw predictions, which are not kept, and classes (B,)."""
    for loader, number, batch in run_batches(trainer, module):
        yield trainer.strategy.predict_step(batch, number, loader), module.class_index(batch)


def _lists(trainer: Trainer) -> Iterator[ImageListDataset]:
    yield from (loader.dataset for loader in _loaders(trainer) if isinstance(loader, ReadableLoader))


def _loaders(trainer: Trainer) -> Iterator[Any]:
    loaders = trainer.predict_dataloaders
    yield from loaders if isinstance(loaders, list | tuple) else [loaders]


def _on_the_command_line(trainer: Any) -> bool:
    """Whether anomalib's command line runs this trainer, which alone adds this callback."""
    return any(isinstance(callback, SaveConfigCallback) for callback in trainer.callbacks)
