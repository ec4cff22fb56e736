# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""anomalib model classes: wiring, no maths."""

import logging
from collections.abc import Sequence
from typing import Any, Literal

import torch
from anomalib import LearningType
from anomalib.data import Batch, ImageBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import EVAL_DATALOADERS
from torch import Tensor, nn
from torchvision.transforms.v2 import Compose, InterpolationMode, Normalize, Resize

from anomalib_clipad.clip.backbone import DEFAULT_BACKBONE, load_backbone
from anomalib_clipad.clip.embedded import NAMES as EMBEDDED
from anomalib_clipad.clip.prompt_ensemble import resolve_prompts
from anomalib_clipad.clip.surgery import Taps
from anomalib_clipad.clip.text_engine import TextEngine
from anomalib_clipad.clip.vision_tower import patch_grid
from anomalib_clipad.data.categories import image_categories
from anomalib_clipad.data.image_check import ImageCheck
from anomalib_clipad.evaluator import CategoryEvaluator
from anomalib_clipad.post_processor import CategoryPostProcessor
from anomalib_clipad.torch_model import SDPModel
from anomalib_clipad.visualizer import CategoryVisualizer

logger = logging.getLogger(__name__)

UNKNOWN_CLASS = "object"
"""What the prompts call an object that nobody has named."""

_PAPER_SIGMA = 8 / 240
"""The paper blurs with 8 pixels at an input of 240."""

_CHECKPOINT_KEY = "anomalib_clipad"
_NOT_SAVED = ("model.visual.", "evaluator.")
"""Frozen CLIP is loaded from where it came from; another evaluator must be able to load the checkpoint."""


class SDP(AnomalibModule):
    """SDP of CLIP-AD (https://arxiv.org/abs/2311.00453): zero-shot anomaly detection and segmentation.

    A frozen CLIP compares the patches of an image with text vectors of the object's name, "flawless" against
    "damaged". Nothing is trained. Validation, where there is data for it, only calibrates scores and thresholds.

    Args:
        backbone: open_clip architecture with a ViT and a class token. The default is a small stand-in that ships with
            the package and **is not meant for real products**; the paper uses ``ViT-B-16-plus-240``.
        pretrained: open_clip tag, local weights file or ``"random"``; ``None`` for the backbone's default weights.
        class_name: What the images show. By default the datamodule's category, in a test set over several categories
            each image's own, else "object".
        prompts: Name of a ready prompt set, YAML file or mapping of states, templates and class names, see
            :func:`~anomalib_clipad.clip.prompt_ensemble.resolve_prompts`. ``None`` for the paper's.
        strategy: How representative text vectors are selected: mean, pca, kde, dbscan or mean_shift.
        strategy_params: Parameters of the strategy that differ from the paper's, such as ``{"eps": 1.5}``.
        layers: Tapped layers, 1-based; ``None`` for the ends of the four stages.
        taps: ``"reference"`` or ``"block"``, see :func:`~anomalib_clipad.clip.surgery.surgery_tokens`.
        sigma: Gaussian blur in pixels of the input; ``None`` for the paper's 8 pixels at 240, scaled to the input.
        image_size: Height and width of the input in pixels, or one number for both; ``None`` for the backbone's own.
        cache_dir: Folder where text vectors are kept; ``None`` for the user's cache folder, ``False`` for none.
        pre_processor: Pre-processor, or whether to use the default one.
        post_processor: Post-processor, or whether to use the default,
            :class:`~anomalib_clipad.post_processor.CategoryPostProcessor`. Without one ``pred_score`` is the class
            token's probability alone.
        evaluator: Evaluator, or whether to use :class:`~anomalib_clipad.evaluator.CategoryEvaluator`.
        visualizer: Visualizer, or whether to use :class:`~anomalib_clipad.visualizer.CategoryVisualizer`.

    Raises:
        FileNotFoundError: If a weights or prompts file does not exist.
        RuntimeError: If weights cannot be downloaded.
        TypeError: If the vision tower is not supported.
        ValueError: If any other argument is invalid; the message names the valid values.

    Example:
        >>> from anomalib_clipad import SDP
        >>> model = SDP(class_name="nut")
        >>> model.learning_type.value
        'zero_shot'
    """

    def __init__(
        self,
        backbone: str = DEFAULT_BACKBONE,
        pretrained: str | None = None,
        class_name: str | None = None,
        prompts: str | dict[str, Any] | None = None,
        strategy: str = "dbscan",
        strategy_params: dict[str, Any] | None = None,
        layers: list[int] | None = None,
        taps: Taps = "reference",
        sigma: float | None = None,
        image_size: int | tuple[int, int] | None = None,
        cache_dir: str | Literal[False] | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        clip = load_backbone(backbone, pretrained)
        size = _resolve_size(image_size, clip.image_size)
        patch_grid(clip.model.visual, size)  # refuse an invalid size here, not at the first image
        if pre_processor is True:
            pre_processor = _pre_processor(size, clip.mean, clip.std)
        super().__init__(
            pre_processor=pre_processor, post_processor=post_processor, evaluator=evaluator, visualizer=visualizer
        )
        self.class_name = class_name
        self.model = SDPModel(
            clip.model.visual, layers=layers, taps=taps, sigma=_PAPER_SIGMA * min(size) if sigma is None else sigma
        )
        # Not a submodule: the text tower takes no part in inference, nor in checkpoints and exports.
        self._text_engine = (TextEngine(clip, resolve_prompts(prompts), strategy, strategy_params, cache_dir),)
        self._backbone = (clip,)
        self.strict_loading = False
        if backbone in EMBEDDED:
            logger.warning(
                "%s is a small stand-in for tests and first contact. For real products choose a backbone such as "
                "ViT-B-16-plus-240 (weights laion400m_e31 from the network, or a local file as `pretrained`).",
                backbone,
            )

    @property
    def class_names(self) -> list[str]:
        """Classes that text vectors are known for; ``class_index`` points into them."""
        return self.model.class_names

    @property
    def learning_type(self) -> LearningType:
        """Zero-shot: the host never fits the model."""
        return LearningType.ZERO_SHOT

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """The model asks nothing special of the trainer."""
        return {}

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Bicubic resize to ``image_size`` (240 pixels by default) and CLIP's usual normalisation."""
        return _pre_processor(image_size or (240, 240), _CLIP_MEAN, _CLIP_STD)

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
        """Return the host's components, and a check of the images."""
        return [*super().configure_callbacks(), ImageCheck()]

    def configure_optimizers(self) -> None:
        """Nothing is trained."""

    def val_dataloader(self) -> EVAL_DATALOADERS:
        """No validation where there is no datamodule: the host validates before it predicts on a folder."""
        return []

    def setup(self, stage: str) -> None:
        """Make the classes known that a datamodule, or the user, names beforehand."""
        del stage
        datamodule = getattr(self._trainer, "datamodule", None)
        if self.class_name is not None:
            self._indices([self.class_name])
        else:
            self._indices(getattr(datamodule, "categories", ()))

    def forward(self, batch: Tensor, class_index: Tensor | None = None) -> Any:
        """Run pre-processing, model and post-processing on raw images; this is what is exported.

        Args:
            batch: Images (B, 3, H, W) in [0, 1].
            class_index: Class of each image (B,), an index into ``model.class_names``; ``None`` for the first class.

        Returns:
            ``InferenceBatch`` of scores, labels, maps and masks.
        """
        image = self.pre_processor(batch) if self.pre_processor else batch
        predictions = self.model(image, class_index)
        return self.post_processor(predictions, class_index) if self.post_processor else predictions

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

    def class_index(self, batch: ImageBatch) -> Tensor:
        """Tell the class of each image of a batch.

        The name is the model's ``class_name``, else the datamodule's category of the image, else "object". A class
        not seen before is made known: its prompts are encoded, or read from the cache.

        Returns:
            Indices (B,) into ``model.class_names``.
        """
        names: list[str] | None = [self.class_name] * batch.batch_size if self.class_name is not None else None
        if names is None:
            paths = batch.image_path or [""] * batch.batch_size
            names = image_categories(getattr(self._trainer, "datamodule", None), paths)
        if names is None:
            names = [UNKNOWN_CLASS] * batch.batch_size
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
        checkpoint[_CHECKPOINT_KEY] = {
            "class_names": list(self.model.class_names),
            "backbone": self._backbone[0].name,
            "fingerprint": self._backbone[0].fingerprint,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make room for the checkpoint's classes.

        Raises:
            ValueError: If the checkpoint is of another model or was made with another backbone.
        """
        super().on_load_checkpoint(checkpoint)
        saved, clip = checkpoint.get(_CHECKPOINT_KEY), self._backbone[0]
        if saved is None:
            msg = f"Expected a checkpoint of {type(self).__name__}, but got one without '{_CHECKPOINT_KEY}'."
            raise ValueError(msg)
        if saved["fingerprint"] != clip.fingerprint:
            msg = (
                f"Expected a checkpoint made with the weights of this model's backbone ({clip.name}, "
                f"pretrained={clip.pretrained!r}), but got one made with other weights of {saved['backbone']}. "
                "Pass the same backbone and pretrained as when it was saved."
            )
            raise ValueError(msg)
        self.model.class_names = list(saved["class_names"])
        self.model.text_embeddings = checkpoint["state_dict"]["model.text_embeddings"].to(self.model.text_embeddings)
        self._resize_post_processor()

    def _score(self, batch: Batch) -> Batch:
        predictions = self.model(batch.image, self.class_index(batch))
        return batch.update(**predictions._asdict())

    def _indices(self, names: Sequence[str]) -> list[int]:
        """Index of each class; text vectors of new ones are computed."""
        known = self.model.class_names
        for name in dict.fromkeys(names):
            if name not in known:
                if name == UNKNOWN_CLASS and self.class_name is None:
                    logger.info("No class name given and none known to the datamodule: the prompts say 'object'.")
                self.model.add_class(name, self._text_engine[0].text_embeddings(name))
                self._resize_post_processor()
        return [known.index(name) for name in names]

    def _resize_post_processor(self) -> None:
        if isinstance(self.post_processor, CategoryPostProcessor):
            self.post_processor.resize(max(1, len(self.model.class_names)))


_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def _pre_processor(size: tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> PreProcessor:
    resize = Resize(size, interpolation=InterpolationMode.BICUBIC, antialias=True)
    return PreProcessor(transform=Compose([resize, Normalize(mean=list(mean), std=list(std))]))


def _resolve_size(image_size: int | Sequence[int] | None, native: tuple[int, int]) -> tuple[int, int]:
    """Height and width from what the user gave."""
    if image_size is None:
        return native
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return height, width
