# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What SDP and SDP+ have in common as anomalib models: components, classes of images, checkpoints.

A mixin, because the host finds models by name among the direct subclasses of ``AnomalibModule`` only.
"""

import logging
from typing import Any, NamedTuple

from anomalib.data import Batch, InferenceBatch
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import EVAL_DATALOADERS
from torch import Tensor

from anomalib_clipad.checkpoint.clip_checkpoint import ClipCheckpoint
from anomalib_clipad.checkpoint.reader import CheckedReader
from anomalib_clipad.data.image_check import ImageCheck
from anomalib_clipad.data.image_loader import pre_process
from anomalib_clipad.data.references import References
from anomalib_clipad.deploy.clip_export import ClipExport
from anomalib_clipad.host.command_line import plain_errors
from anomalib_clipad.host.prediction import list_dangling_links
from anomalib_clipad.host.results import share_results_folder
from anomalib_clipad.metrics.evaluator import CategoryEvaluator
from anomalib_clipad.models.collaborators import Collaborators, check_components
from anomalib_clipad.models.geometry import make_pre_processor
from anomalib_clipad.post_processing.known_good import KnownGood, check_bound
from anomalib_clipad.post_processing.post_processor import CategoryPostProcessor, post_process
from anomalib_clipad.prediction.callback import PredictionReport, ReportOfTest
from anomalib_clipad.prediction.clip_calibration import ClipCalibration
from anomalib_clipad.prediction.clip_encoding import ClipEncoding
from anomalib_clipad.prediction.clip_prediction import ClipPrediction
from anomalib_clipad.prediction.clip_references import ClipReferences
from anomalib_clipad.prediction.pool_pass import PoolPass
from anomalib_clipad.prediction.regions import Regions
from anomalib_clipad.prediction.visualizer import CategoryVisualizer
from anomalib_clipad.scoring.fusion import Weights
from anomalib_clipad.scoring.pool import Pool
from anomalib_clipad.scoring.torch_model import SDPModel
from anomalib_clipad.training.borrowed import Borrowed

logger = logging.getLogger(__name__)


class Evidence(NamedTuple):
    """What images are compared with besides texts, and what thresholds are set by."""

    references: References | None
    pool: Pool | None
    known_good: KnownGood | None
    labels: str | None
    weights: Weights

    @classmethod
    @plain_errors()
    def of(
        cls, references: Any, pool: Any, known_good: Any, labels: str | None, weights: Any, default: Weights
    ) -> "Evidence":
        """Evidence by the user's arguments, with their errors."""
        good = KnownGood.of(known_good)
        if labels is not None and good is not None and good.path is not None:
            msg = "Expected thresholds to be set by labels or by known_good images, but got both. Leave out one."
            raise ValueError(msg)
        return cls(References.of(references), Pool.of(pool), good, labels, Weights.of(weights, default))


class ClipModule(ClipExport, ClipCheckpoint, ClipReferences, ClipCalibration, ClipEncoding, ClipPrediction):
    """Wiring of a zero-shot model over a frozen CLIP; goes before ``AnomalibModule`` in a class's bases.

    The class that mixes this in makes ``Collaborators``, calls the host's constructor and then :meth:`_build`. It must
    call it itself, since the host reads the user's arguments off the caller.
    """

    model: SDPModel
    class_name: str | None
    calibrate_unlabelled: bool | float
    collaborators: Collaborators

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """The model asks nothing special of the trainer."""
        return {}

    @plain_errors()
    def _build(
        self,
        collaborators: Collaborators,
        class_name: str | None,
        calibrate_unlabelled: bool | float,
        sigma: float | None,
        evidence: Evidence,
        regions: Regions | bool,
        page: bool,
        **settings: Any,
    ) -> None:
        """Finish the construction of a model; ``settings`` are arguments of ``SDPModel``."""
        check_components(self.pre_processor, self.post_processor)
        list_dangling_links()
        self.collaborators = collaborators
        self.class_name = class_name
        self.calibrate_unlabelled = check_bound(calibrate_unlabelled)
        self.references, self.pool, self.known_good, self.labels, weights = evidence
        if self.labels is not None and calibrate_unlabelled is not False:
            msg = "Expected thresholds to be set by labels or by calibrate_unlabelled, but got both. Leave out one."
            raise ValueError(msg)
        self.regions, self.page = Regions.of(regions), page
        visual = collaborators.backbone.model.visual
        scales = {name: getattr(collaborators.backbone, name) for name in ("logit_scale", "map_scale")}
        blur = collaborators.sigma(sigma)
        looks = collaborators.geometry.looks
        self.model = SDPModel(visual, sigma=blur, **scales, weights=weights, looks=looks, **settings)
        self.borrowed = Borrowed()
        self._set_up_loading()

    @property
    def few_shot(self) -> bool:
        """Whether images are compared with others, references or those of a pool: then nothing is called zero-shot."""
        return self.references is not None or self.pool is not None or len(self.model.memory) > 0

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
        """Return the host's components, a check of the images, the tables and pages of runs, and what tidies up."""
        ours = [ImageCheck(), PoolPass(), PredictionReport(), ReportOfTest(), self.borrowed]
        return [*super().configure_callbacks(), *ours]

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

    def on_validation_start(self) -> None:
        """Remember the references that the user has named, where the model runs."""
        self.remember_given()

    def on_test_start(self) -> None:
        """The same as before validation."""
        self.remember_given()

    def on_predict_start(self) -> None:
        """The same, and calibrate on the good images that the user has named."""
        self.remember_given()
        self.calibrate_given()

    def on_test_end(self) -> None:
        """Say what scores rest on."""
        logger.info("Scores rest on: %s.", "; ".join(f"{name}: {self.evidence(name)}" for name in self.class_names))

    on_predict_end = on_test_end

    def forward(self, batch: Tensor, class_index: Tensor | None = None) -> InferenceBatch:
        """Score raw images (B, 3, H, W) in [0, 1] as the engine does: scores and labels (B,), maps and masks (B, H, W).

        ``class_index`` (B,) points into ``class_names``; with one class it may be left out.
        """
        raw = self.model(pre_process(self.pre_processor, batch), class_index)
        return post_process(self.post_processor, raw, class_index)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Batch:
        """Score a batch; in validation the post-processor calibrates itself on the result."""
        pool = self.pooled.of(dataloader_idx, batch_idx, batch.image.device) if self.pooled else None
        return batch.update(**self.model(batch.image, self.class_index(batch), pool)._asdict())

    validation_step = predict_step = test_step
