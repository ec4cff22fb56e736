# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What SDP and SDP+ have in common as anomalib models: components, classes of images, checkpoints.

A mixin, because the host finds models by name among the direct subclasses of ``AnomalibModule`` only.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from anomalib.data import Batch, ImageBatch, InferenceBatch
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.types import EVAL_DATALOADERS
from torch import Tensor
from torchvision.transforms.v2 import Compose, InterpolationMode, Normalize, Resize

from anomalib_clipad.checkpoint.head_files import CHECKPOINT_KEY, CHECKPOINT_METADATA
from anomalib_clipad.checkpoint.reader import check_before_loading, check_checkpoint
from anomalib_clipad.checkpoint.settings import check_settings, describe_settings
from anomalib_clipad.checkpoint.transform import InputDescription, describe_input, reconcile_input, save_input
from anomalib_clipad.clip.backbone import Backbone
from anomalib_clipad.clip.embedded import NAMES as EMBEDDED
from anomalib_clipad.clip.text_engine import TextEngine
from anomalib_clipad.clip.vision_tower import patch_grid
from anomalib_clipad.data.categories import UNNAMED, image_categories
from anomalib_clipad.data.image_check import ImageCheck
from anomalib_clipad.data.image_list import BATCH_SIZE, ReadImage, engine_transform, pre_process, read_ahead
from anomalib_clipad.deploy.clip_export import ClipExport
from anomalib_clipad.metrics.evaluator import CategoryEvaluator
from anomalib_clipad.post_processing.post_processor import CategoryPostProcessor, calibrate_on, post_process
from anomalib_clipad.prediction.callback import PredictionReport
from anomalib_clipad.prediction.predictions import Images, Prediction, Predictions, in_batches, to_predictions
from anomalib_clipad.prediction.table import PredictionRow, describe_skipped, log_skipped, require_readable
from anomalib_clipad.prediction.visualizer import CategoryVisualizer
from anomalib_clipad.scoring.torch_model import SDPModel

logger = logging.getLogger(__name__)

_PAPER_SIGMA = 8 / 240
"""The paper blurs with 8 pixels at an input of 240."""

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

_NOT_SAVED = ("model.visual.", "evaluator.")
"""Frozen CLIP is loaded from where it came from; another evaluator must be able to load the checkpoint."""

_LEFT_OUT = r"Found keys .* but not in the checkpoint: \[('(model\.visual|evaluator)\.[^']*'(, )?)+\]"
"""Lightning's warning of each weight that is missing, where just those that are never saved are."""


class Collaborators(NamedTuple):
    """What a model uses that is no part of its state: not saved in checkpoints, and untouched by ``.to(device)``."""

    backbone: Backbone
    text_engine: TextEngine


if TYPE_CHECKING:
    from typing import Self


class ClipModule(ClipExport):
    """Wiring of a zero-shot model over a frozen CLIP; goes before ``AnomalibModule`` in a class's bases.

    The class that mixes this in sets ``model``, ``class_name``, ``calibrate_unlabelled`` and ``collaborators`` in its
    constructor.
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

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Bicubic resize to ``image_size`` (240 pixels by default) and CLIP's usual normalisation."""
        return make_pre_processor(image_size or (240, 240), _CLIP_MEAN, _CLIP_STD)

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
        """Return the host's components, a check of the images and the tables of prediction."""
        return [*super().configure_callbacks(), ImageCheck(), PredictionReport()]

    def val_dataloader(self) -> EVAL_DATALOADERS:
        """No validation where there is no datamodule: the host validates before it predicts on a folder."""
        return []

    def setup(self, stage: str) -> None:
        """Make the classes known that a datamodule, or the user, names beforehand; have a checkpoint checked first."""
        del stage
        check_before_loading(self.trainer)
        if self.trainer.world_size > 1:
            _share_results_folder(self.trainer)
        if self.class_name is not None:
            self._indices([self.class_name])
        else:
            self._indices(getattr(self._datamodule, "categories", ()))

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

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> Batch:
        """Score a batch; the post-processor calibrates itself on the result."""
        del args, kwargs
        return self._score(batch)

    def test_step(self, batch: Batch, batch_idx: int, *args: Any, **kwargs: Any) -> Batch:
        """Score a batch."""
        del batch_idx, args, kwargs
        return self._score(batch)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Batch:
        """Score a batch."""
        del batch_idx, dataloader_idx
        return self._score(batch)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, *args: Any, **kwargs: Any) -> "Self":
        """Load a model as the host does, but refuse other files with a word on what is wrong with them.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged or hostile, or does not fit the model.
        """
        check_checkpoint(checkpoint_path)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_LEFT_OUT)
            return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)

    @classmethod
    def load(cls, checkpoint: str | Path, **options: Any) -> "Self":
        """Open a checkpoint for use from Python; a new model is made by the class itself, ``SDP(...)``.

        Args:
            checkpoint: Checkpoint of anomalib.
            options: Arguments of the class that differ from when it was saved.

        Raises:
            FileNotFoundError: If the checkpoint does not exist.
            ValueError: If it is damaged or hostile, does not fit the model, or an option is invalid.
        """
        return cls.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True, **options).eval()

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
        if self.class_name is not None:
            names = [self.class_name] * len(paths)
        else:
            names = image_categories(self._datamodule, paths) or [UNNAMED] * len(paths)
        return torch.tensor(self._indices(names), device=batch.image.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save text vectors, calibration and settings, but not the frozen CLIP."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["state_dict"] = {
            key: value for key, value in checkpoint["state_dict"].items() if not key.startswith(_NOT_SAVED)
        }
        # The components are callbacks besides: Lightning has saved them a second time, and would load them strictly.
        components = {type(self.evaluator), type(self.post_processor), type(self.pre_processor), type(self.visualizer)}
        checkpoint["callbacks"] = {
            key: value
            for key, value in checkpoint.get("callbacks", {}).items()
            if key not in {component.__qualname__ for component in components}
        }
        backbone = self.collaborators.backbone
        checkpoint[CHECKPOINT_KEY] = {
            "class_names": list(self.class_names),
            "backbone": backbone.name,
            "fingerprint": backbone.fingerprint,
            "settings": describe_settings(self.model, self.collaborators.text_engine),
        }
        save_input(checkpoint[CHECKPOINT_KEY], self._describe_input())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make room for the checkpoint's classes.

        Raises:
            ValueError: If the checkpoint is of another model or was made with another backbone, input or settings.
        """
        saved, backbone = checkpoint.get(CHECKPOINT_KEY), self.collaborators.backbone
        if saved is None:
            msg = f"Expected a checkpoint of {type(self).__name__}, but got one without '{CHECKPOINT_KEY}'."
            raise ValueError(msg)
        ours, theirs = self.model.heads is not None, CHECKPOINT_METADATA in saved
        if ours != theirs:
            names = {True: "SDPPlus", False: "SDP"}
            msg = (
                f"Expected a checkpoint of {names[ours]}, but got one of {names[theirs]}. "
                f"Use it with --model anomalib_clipad.{names[theirs]}."
            )
            raise ValueError(msg)
        if saved["fingerprint"] != backbone.fingerprint:
            msg = (
                f"Expected a checkpoint made with the weights of this model's backbone ({backbone.name}, "
                f"pretrained={backbone.pretrained!r}), but got one made with other weights of {saved['backbone']}. "
                "Pass the same backbone and pretrained as when it was saved."
            )
            raise ValueError(msg)
        actual = self._describe_input()
        usual = make_pre_processor(actual.image_size, backbone.mean, backbone.std)
        default = describe_input(usual, actual.image_size)
        reconcile_input(checkpoint, saved, actual, default, attached=self._trainer is not None)
        check_settings(saved.get("settings", {}), describe_settings(self.model, self.collaborators.text_engine))
        super().on_load_checkpoint(checkpoint)
        self.model.texts.replace(saved["class_names"], checkpoint["state_dict"]["model.texts.embeddings"])
        self._resize_post_processor()

    def _describe_input(self) -> InputDescription:
        size = resolve_size(self.hparams.get("image_size"), self.collaborators.backbone)
        return describe_input(self.pre_processor, size)

    @property
    def _datamodule(self) -> Any:
        """The trainer's datamodule; None without a trainer, or where dataloaders were passed."""
        return getattr(self._trainer, "datamodule", None)

    def _score(self, batch: Batch) -> Batch:
        predictions = self.model(batch.image, self.class_index(batch))
        return batch.update(**predictions._asdict())

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
        known = self.class_names
        for name in dict.fromkeys(names):
            if name not in known:
                if name == UNNAMED and self.class_name is None:
                    logger.info("No class name given and none known to the datamodule: the prompts say %r.", UNNAMED)
                self.model.texts.add(name, self.collaborators.text_engine.text_embeddings(name))
                self._resize_post_processor()
        return [known.index(name) for name in names]

    def _resize_post_processor(self) -> None:
        if isinstance(self.post_processor, CategoryPostProcessor):
            self.post_processor.resize(max(1, len(self.class_names)))


def _share_results_folder(trainer: Trainer) -> None:
    """Let all processes use the results folder of the first; the host's engine has made one for each."""
    own = Path(trainer.default_root_dir)
    shared = Path(trainer.strategy.broadcast(str(own)))
    if own == shared:
        return
    cast("Any", trainer)._default_root_dir = str(shared)  # it has no setter
    latest = own.parent / "latest"
    if latest.is_symlink() and latest.resolve() == own.resolve():
        latest.unlink()
        latest.symlink_to(shared, target_is_directory=True)
    if own.is_dir() and not any(own.iterdir()):
        own.rmdir()


def make_pre_processor(size: tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> PreProcessor:
    """Bicubic resize to ``size`` (height, width), whatever the aspect ratio, and normalisation."""
    resize = Resize(size, interpolation=InterpolationMode.BICUBIC, antialias=True)
    return PreProcessor(transform=Compose([resize, Normalize(mean=list(mean), std=list(std))]))


def resolve_size(image_size: int | Sequence[int] | None, backbone: Backbone) -> tuple[int, int]:
    """Height and width of the input from what the user gave; ``None`` stands for the backbone's own.

    Raises:
        ValueError: If the patch size does not divide it.
    """
    if image_size is None:
        return backbone.image_size
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    patch_grid(backbone.model.visual, (height, width))
    return height, width


def resolve_sigma(sigma: float | None, size: tuple[int, int]) -> float:
    """Standard deviation of the blur in pixels; ``None`` stands for the paper's, scaled to the input."""
    return _PAPER_SIGMA * min(size) if sigma is None else sigma


def warn_of_stand_in(backbone: Backbone) -> None:
    """Say that an embedded model is no detector for real products."""
    if backbone.name in EMBEDDED:
        logger.warning(
            "%s is a small stand-in for tests and first contact. For real products choose a backbone such as "
            "ViT-B-16-plus-240 (weights laion400m_e31 from the network, or a local file as `pretrained`).",
            backbone.name,
        )
