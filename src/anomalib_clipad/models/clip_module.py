# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What SDP and SDP+ have in common as anomalib models: components, classes of images, checkpoints.

A mixin, because the host finds models by name among the direct subclasses of ``AnomalibModule`` only.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from anomalib.data import Batch, ImageBatch, InferenceBatch
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import EVAL_DATALOADERS
from torch import Tensor

from anomalib_clipad.checkpoint.clip_checkpoint import ClipCheckpoint
from anomalib_clipad.checkpoint.reader import CheckedReader
from anomalib_clipad.data.categories import UNNAMED, image_categories
from anomalib_clipad.data.image_check import ImageCheck
from anomalib_clipad.data.image_list import BATCH_SIZE, ReadImage, engine_transform, pre_process, read_ahead
from anomalib_clipad.deploy.clip_export import ClipExport
from anomalib_clipad.host.command_line import plain_errors
from anomalib_clipad.host.results import share_results_folder
from anomalib_clipad.host.trainer import attached_trainer
from anomalib_clipad.metrics.evaluator import CategoryEvaluator
from anomalib_clipad.models.collaborators import Collaborators, make_pre_processor
from anomalib_clipad.post_processing.post_processor import CategoryPostProcessor, calibrate_on, post_process
from anomalib_clipad.prediction.callback import PredictionReport
from anomalib_clipad.prediction.predictions import Images, Prediction, Predictions, in_batches, to_predictions
from anomalib_clipad.prediction.table import PredictionRow, describe_skipped, log_skipped, require_readable
from anomalib_clipad.prediction.visualizer import CategoryVisualizer
from anomalib_clipad.scoring.torch_model import SDPModel
from anomalib_clipad.training.borrowed import Borrowed

logger = logging.getLogger(__name__)

_GROWING = threading.Lock()
"""Held while names, text vectors and calibrations grow together. Of all models: one's own could not be copied."""

if TYPE_CHECKING:
    from typing import Self


class ClipModule(ClipExport, ClipCheckpoint):
    """Wiring of a zero-shot model over a frozen CLIP; goes before ``AnomalibModule`` in a class's bases.

    The class that mixes this in makes ``Collaborators``, calls the host's constructor and then :meth:`_build`. It must
    call it itself, since the host reads the user's arguments off the caller.
    """

    model: SDPModel
    class_name: str | None
    calibrate_unlabelled: bool
    collaborators: Collaborators

    @property
    def class_names(self) -> list[str]:
        """Classes that text vectors are known for; ``class_index`` points into them."""
        return self.model.texts.names

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """The model asks nothing special of the trainer."""
        return {}

    @plain_errors()
    def _build(
        self,
        collaborators: Collaborators,
        class_name: str | None,
        calibrate_unlabelled: bool,
        sigma: float | None,
        **settings: Any,
    ) -> None:
        """Finish the construction of a model; ``settings`` are arguments of ``SDPModel``."""
        self.collaborators = collaborators
        self.class_name = class_name
        self.calibrate_unlabelled = calibrate_unlabelled
        visual = collaborators.backbone.model.visual
        self.model = SDPModel(visual, sigma=collaborators.sigma(sigma), **settings)
        self.borrowed = Borrowed()
        self._set_up_loading()

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Bicubic resize to ``image_size`` (240 pixels by default) and CLIP's usual normalisation."""
        return make_pre_processor(image_size or (240, 240))

    @staticmethod
    def configure_post_processor() -> CategoryPostProcessor:
        """Score fusion and calibration per category."""
        return CategoryPostProcessor()

    @staticmethod
    def configure_evaluator() -> CategoryEvaluator:
        """Image and pixel metrics per category, and their mean."""
        return CategoryEvaluator()

    @staticmethod
    def configure_visualizer() -> CategoryVisualizer:
        """The host's pictures, one folder a category."""
        return CategoryVisualizer()

    def configure_callbacks(self) -> list[Callback]:
        """Return the host's components, a check of the images, the tables of prediction, and what tidies up."""
        return [*super().configure_callbacks(), ImageCheck(), PredictionReport(), self.borrowed]

    def val_dataloader(self) -> EVAL_DATALOADERS:
        """No validation where there is no datamodule: the host validates before it predicts on a folder."""
        return []

    def setup(self, stage: str) -> None:
        """Make the classes known that a datamodule, or the user, names beforehand; have a checkpoint checked first."""
        del stage
        strategy = self.trainer.strategy
        self.borrowed.replace(strategy, "checkpoint_io", CheckedReader(strategy.checkpoint_io))
        share_results_folder(self.trainer)
        known = getattr(self._datamodule, "categories", ()) if self.class_name is None else [self.class_name]
        self._indices(known)

    def forward(self, batch: Tensor, class_index: Tensor | None = None) -> InferenceBatch:
        """Run pre-processing, model and post-processing on raw images, with the engine's results.

        Args:
            batch: Images (B, 3, H, W) in [0, 1].
            class_index: Class of each image (B,), an index into ``class_names``; ``None`` where there is one.

        Returns:
            Scores (B,), labels (B,), maps (B, H, W) and masks (B, H, W).

        Raises:
            ValueError: If ``class_index`` is missing, or there is no such class.
        """
        raw = self.model(pre_process(self.pre_processor, batch), class_index)
        return post_process(self.post_processor, raw, class_index)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Batch:
        """Score a batch; in validation the post-processor calibrates itself on the result."""
        del batch_idx, dataloader_idx
        return batch.update(**self.model(batch.image, self.class_index(batch))._asdict())

    validation_step = predict_step = test_step

    @torch.no_grad()
    def predict(
        self, images: Images, class_name: str | Sequence[str] | None = None, batch_size: int = BATCH_SIZE
    ) -> Predictions:
        """Score images; the results are those of ``anomalib predict``.

        Files that cannot be read are logged and skipped. The model runs where it lies (``clipad.to("cuda")``), in
        evaluation mode.

        Args:
            images: Folder, CSV file of paths and class names, image file, Pillow image, array or tensor, see
                docs/predict.md; or any number of images.
            class_name: What the images show, one name for all or one for each; by default the model's ``class_name``,
                else "object".
            batch_size: Images in a batch.

        Returns:
            Scores, labels, maps and masks; they stay in main memory. For very many images ``anomalib predict`` keeps
            none.

        Raises:
            FileNotFoundError: If there is no such folder or CSV file.
            OSError: If none of the files can be read.
            RuntimeError: If SDP+ has no heads.
            TypeError: If something is not an image.
            ValueError: If an image in memory or another argument is not valid.

        Example:
            >>> import numpy as np
            >>> from anomalib_clipad import SDP
            >>> clipad = SDP(backbone="clipad-tiny")  # backbone="ViT-B-16-plus-240" for real products
            >>> images = [np.zeros((90, 120, 3), dtype=np.uint8), np.ones((3, 64, 64))]
            >>> clipad.predict(images, class_name="nut").pred_score.shape
            torch.Size([2])
        """
        found: list[Prediction] = []
        skipped: list[PredictionRow] = []
        for read, classes, raw in self._score_images(images, class_name, batch_size, skipped):
            outputs = post_process(self.post_processor, raw, classes)
            found += to_predictions(read, outputs, self.post_processor, classes)
        return Predictions(found, skipped)

    @torch.no_grad()
    def calibrate(
        self, images: Images, class_name: str | Sequence[str] | None = None, batch_size: int = BATCH_SIZE
    ) -> "Self":
        """Set ranges and thresholds of each class from images without labels, see docs/thresholds.md.

        Arguments and errors are those of :meth:`predict`.

        Returns:
            The model.
        """
        scored = self._score_images(images, class_name, batch_size, [])
        calibrate_on(self, ((raw, classes) for _, classes, raw in scored))
        return self

    def class_index(self, batch: ImageBatch) -> Tensor:
        """Tell the class of each image of a batch.

        The name is the model's ``class_name``, else the datamodule's category of the image, else "object". A class
        not seen before is made known: its prompts are encoded, or read from the cache.

        Returns:
            Indices (B,) into ``class_names``.
        """
        paths = batch.image_path or [""] * batch.batch_size
        known = image_categories(self._datamodule, paths) if self.class_name is None else None
        names = known or [self.class_name or UNNAMED] * len(paths)
        return torch.tensor(self._indices(names), device=batch.image.device)

    @property
    def _datamodule(self) -> Any:
        """The trainer's datamodule; None without a trainer, or where dataloaders were passed."""
        return getattr(attached_trainer(self), "datamodule", None)

    def _score_images(
        self, images: Images, class_name: str | Sequence[str] | None, batch_size: int, skipped: list[PredictionRow]
    ) -> Iterator[tuple[list[ReadImage], Tensor, InferenceBatch]]:
        """Score batches: the images with their class names, their classes (B,), raw predictions; and list the rest."""
        self.on_predict_start()  # refuses what `anomalib predict` refuses
        self.eval()
        named = (
            [image if image.class_name else image._replace(class_name=self.class_name or UNNAMED) for image in batch]
            for batch in in_batches(images, class_name, batch_size)
        )
        n_read = 0
        for read, unreadable in read_ahead(named, engine_transform(self.pre_processor)):
            skipped += map(describe_skipped, unreadable)
            n_read += len(read)
            if read:
                classes = torch.tensor(
                    self._indices([str(image.source.class_name) for image in read]), device=self.device
                )
                pixels = torch.stack([image.pixels for image in read]).to(self.device)
                yield read, classes, self.model(pixels, classes)
        log_skipped(skipped)
        if not n_read:
            require_readable(skipped)

    def _indices(self, names: Sequence[str]) -> list[int]:
        """Index of each class; text vectors of new ones are computed."""
        with _GROWING:
            known = self.class_names
            for name in dict.fromkeys(names):
                if name not in known:
                    if name == UNNAMED and self.class_name is None:
                        logger.info("No class name given or known to the datamodule: the prompts say %r.", UNNAMED)
                    self.model.texts.add(name, self.collaborators.text_engine.text_embeddings(name))
                    self._resize_post_processor()
            return [known.index(name) for name in names]

    def _resize_post_processor(self) -> None:
        if isinstance(self.post_processor, CategoryPostProcessor):
            self.post_processor.resize(max(1, len(self.class_names)))
