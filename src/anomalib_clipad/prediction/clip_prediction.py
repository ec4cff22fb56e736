# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Prediction from Python, and what class an image is of."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

import torch
from anomalib.data import ImageBatch, InferenceBatch
from lightning.pytorch.trainer.states import RunningStage
from torch import Tensor

from anomalib_clipad.base.text import list_some
from anomalib_clipad.data.categories import UNNAMED, image_categories
from anomalib_clipad.data.image_loader import BATCH_SIZE, ListedImage, ReadImage, engine_transform, read_ahead
from anomalib_clipad.host.trainer import attached_trainer
from anomalib_clipad.post_processing.post_processor import CategoryPostProcessor, post_process
from anomalib_clipad.prediction.pool_pass import PooledRun
from anomalib_clipad.prediction.predictions import Images, Prediction, Predictions, by_size, in_batches, to_predictions
from anomalib_clipad.prediction.regions import Regions
from anomalib_clipad.prediction.table import PredictionRow, describe_skipped, log_skipped, require_readable
from anomalib_clipad.scoring.pool import Pool, PoolTokens
from anomalib_clipad.scoring.torch_model import SDPModel

logger = logging.getLogger(__name__)

_GROWING = threading.Lock()
"""Held while names, text vectors and calibrations grow together. Of all models: one's own could not be copied."""

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule as _Base
else:
    _Base = object


class ClipPrediction(_Base):
    """Prediction without a trainer; part of ``ClipModule``.

    The class that mixes this in has ``model``, ``class_name`` and ``collaborators``.
    """

    model: SDPModel
    class_name: str | None
    collaborators: Any
    evidence: Callable[[str], str]
    add_to_pool: Callable[[PoolTokens, Tensor, Tensor], None]
    regions: Regions | None
    pool: Pool | None
    pooled: PooledRun | None
    loaded_classes: tuple[str, ...] = ()
    """Classes of the checkpoint that was loaded."""

    @property
    def class_names(self) -> list[str]:
        """Classes that text vectors are known for; ``class_index`` points into them."""
        return self.model.texts.names

    @torch.no_grad()
    def predict(
        self,
        images: Images,
        class_name: str | Sequence[str] | None = None,
        batch_size: int = BATCH_SIZE,
        *,
        pool: Pool | bool | None = None,
    ) -> Predictions:
        """Score images; the results are those of ``anomalib predict``.

        Files that cannot be read are logged and skipped. The model runs where it lies (``clipad.to("cuda")``), in
        evaluation mode.

        Args:
            images: Folder, CSV file of paths and class names, image file, Pillow image, array or tensor, see
                docs/predict.md; or any number of images.
            class_name: What the images show, one name for all or one for each; by default as in :meth:`usual_class`.
            batch_size: Images in a batch.
            pool: Whether the images of each class score each other, or how; ``None`` for the model's own setting.

        Returns:
            Scores, labels, maps and masks; they stay in main memory. For very many images ``anomalib predict`` keeps
            none.

        Raises:
            FileNotFoundError: If there is no such folder or CSV file.
            OSError: If none of the files can be read.
            RuntimeError: If SDP+ has no heads.
            TypeError: If something is not an image.
            ValueError: If an image in memory or another argument is not valid, or the model knows several classes and
                ``class_name`` is not given.

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
        for read, classes, raw in self._score_images(images, class_name, batch_size, skipped, pool):
            outputs = post_process(self.post_processor, raw, classes)
            transform = engine_transform(self.pre_processor)
            found += to_predictions(read, transform, outputs, self.post_processor, classes, self.evidence, self.regions)
        return Predictions(sorted(found, key=attrgetter("position")), skipped)

    def class_index(self, batch: ImageBatch) -> Tensor:
        """Tell the class of each image of a batch.

        The name is the model's ``class_name``, else the datamodule's category of the image, else that of
        :meth:`usual_class`. A class not seen before is made known: its prompts are encoded, or read from the cache.

        Returns:
            Indices (B,) into ``class_names``.

        Raises:
            ValueError: If nothing names the class, and the model knows several.
        """
        names = self._names(batch.image_path or [""] * batch.batch_size)
        return torch.tensor(self._indices(names), device=batch.image.device)

    def add_classes(self, names: Sequence[str]) -> None:
        """Make classes known: their text vectors are computed, or read from the cache."""
        self._indices(names)

    def usual_class(self) -> str:
        """Tell what images show that nobody names.

        That is the model's ``class_name``, else the class that was calibrated, else the only one of the checkpoint that
        was loaded, else "object". Where there are labels, an earlier run says nothing: only a checkpoint counts.

        Raises:
            ValueError: If there are several.
        """
        if self.class_name is not None:
            return self.class_name
        post_processor = self.post_processor
        with _GROWING:
            known = [
                name
                for index, name in enumerate(self.class_names)
                if isinstance(post_processor, CategoryPostProcessor) and post_processor.is_calibrated(index)
            ]
        trainer = attached_trainer(self)
        if trainer is not None and trainer.state.stage not in {None, RunningStage.PREDICTING}:
            known = [name for name in known if name in self.loaded_classes]
        else:
            known = known or list(self.loaded_classes)
        if len(known) > 1:
            msg = (
                f"Expected class_name to be given to a model of {len(known)} classes, but got none. "
                f"Name what the images show (class_name=..., --model.class_name): {list_some(known, 20)}."
            )
            raise ValueError(msg)
        return known[0] if known else UNNAMED

    @property
    def _datamodule(self) -> Any:
        """The trainer's datamodule; None without a trainer, or where dataloaders were passed."""
        return getattr(attached_trainer(self), "datamodule", None)

    def _score_images(
        self,
        images: Images,
        class_name: str | Sequence[str] | None,
        batch_size: int,
        skipped: list[PredictionRow],
        pool: Pool | bool | None,
        *,
        left_out: bool = False,
    ) -> Iterator[tuple[list[ReadImage], Tensor, InferenceBatch]]:
        """Score batches: the images with their class names, their classes (B,), raw predictions; and list the rest."""
        self.on_predict_start()  # refuses what `anomalib predict` refuses
        self.eval()
        named: Iterable[list[ListedImage]] = self._name_images(images, class_name, batch_size)
        options, self.pooled = self.pool if pool is None else Pool.of(pool), None
        if options is not None:
            named = list(named)
            self._pool_images(named, options)
        for number, (read, classes, pixels) in enumerate(self._read_images(named, skipped)):
            others = self.pooled.of(0, number, self.device) if self.pooled else None
            yield read, classes, self.model(pixels, classes, others, left_out=left_out)
        log_skipped(skipped)

    def _name_images(
        self, images: Images, class_name: str | Sequence[str] | None, batch_size: int
    ) -> Iterator[list[ListedImage]]:
        """List images in batches, each with its class."""
        for batch in in_batches(images, class_name, batch_size):
            yield [image if image.class_name else image._replace(class_name=self.usual_class()) for image in batch]

    def _pool_images(self, named: Sequence[Sequence[ListedImage]], options: Pool) -> PoolTokens:
        """Let images of each class score each other; return what they did it by."""
        tokens = PoolTokens(options, sum(map(len, named)), Path(gettempdir()))
        rows, seen = dict[tuple[int, int], slice](), 0
        for number, (read, classes, pixels) in enumerate(self._read_images(named, [])):
            self.add_to_pool(tokens, pixels, classes)
            rows[0, number], seen = slice(seen, seen + len(read)), seen + len(read)
        self.pooled = PooledRun(tokens.scores(self.class_names, self.device), rows)
        return tokens

    def _read_images(
        self, named: Iterable[Sequence[ListedImage]], skipped: list[PredictionRow]
    ) -> Iterator[tuple[list[ReadImage], Tensor, Tensor]]:
        """Read batches: the images, their classes (B,) and pixels for the tower (B, 3, H, W); and list the rest."""
        n_read = 0
        for read, unreadable in read_ahead(named, engine_transform(self.pre_processor)):
            skipped += map(describe_skipped, unreadable)
            n_read += len(read)
            for images in by_size(read):
                names = [str(image.source.class_name) for image in images]
                classes = torch.tensor(self._indices(names), device=self.device)
                yield images, classes, torch.stack([image.pixels for image in images]).to(self.device)
        if not n_read:
            log_skipped(skipped)
            require_readable(skipped)

    def _names(self, paths: Sequence[str]) -> list[str]:
        """Name the class of each image file, by the model, the datamodule or what is usual."""
        told = None if self.class_name is not None else image_categories(self._datamodule, paths)
        names = told or [UNNAMED] * len(paths)
        if UNNAMED not in names:
            return names
        usual = self.usual_class()
        return [usual if name == UNNAMED else name for name in names]

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
