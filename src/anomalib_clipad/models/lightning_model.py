# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""SDP as an anomalib model class: wiring, no maths."""

from typing import Any, Literal

from anomalib import LearningType
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from torch import nn

from anomalib_clipad.clip.backbone import DEFAULT_BACKBONE
from anomalib_clipad.clip.surgery import Taps
from anomalib_clipad.data.fitting import Fit
from anomalib_clipad.data.references import References
from anomalib_clipad.models.clip_module import ClipModule, Evidence
from anomalib_clipad.models.collaborators import find_collaborators
from anomalib_clipad.post_processing.known_good import KnownGood
from anomalib_clipad.prediction.regions import Regions
from anomalib_clipad.scoring.fusion import Weights
from anomalib_clipad.scoring.looks import Tiles
from anomalib_clipad.scoring.pool import Pool


class SDP(ClipModule, AnomalibModule):
    """SDP of CLIP-AD (https://arxiv.org/abs/2311.00453): zero-shot anomaly detection and segmentation.

    A frozen CLIP compares the patches of an image with text vectors of the object's name, "flawless" against
    "damaged". Nothing is trained. Validation, where there is data for it, only calibrates scores and thresholds.

    Args:
        backbone: open_clip architecture with a ViT, one of `anomalib-clipad backbones`; the default is the paper's.
            ``clipad-tiny`` ships with the package, to try the pipeline without network; it is **not meant for real
            products**.
        pretrained: open_clip tag, local weights file or ``"random"``; ``None`` for the backbone's default weights, of
            the paper's ``laion400m_e31``.
        class_name: What the images show. By default the datamodule's category, in a test set over several categories
            each image's own, else "object".
        prompts: Name of a ready prompt set (industrial, medical), YAML file or mapping of states, templates and class
            names, see README.md. ``None`` for the paper's.
        strategy: How representative text vectors are selected: mean, pca, kde, dbscan or mean_shift.
        strategy_params: Parameters of the strategy that differ from the paper's, such as ``{"eps": 1.5}``.
        layers: Tapped layers, 1-based; ``None`` for the ends of the four stages.
        taps: What a tapped layer is: ``"reference"`` as in the published results, ``"block"`` as in the textbook.
        sigma: Gaussian blur in pixels of the input; ``None`` for the paper's 8 pixels at 240, scaled to the input.
        image_size: Height and width of the input in pixels, or one number for both; ``None`` for the backbone's own.
        resize: How images come to that size: ``"squash"`` as in the paper, ``"keep"`` the aspect ratio, ``"pad"`` it,
            ``"own"`` to leave them as they are, which is for tiles and their default. See docs/large_images.md.
        scales: Sizes at which the whole image is scored; the map is their mean, the input as large as the largest.
        tiles: Whether overlapping tiles of large images are scored too; or ``Tiles`` with further options.
        calibrate_unlabelled: In prediction, first set ranges and thresholds of each class from the images of the run,
            which need no labels; each image is scored twice. A number bounds the share of good images that are flagged.
            See docs/thresholds.md.
        references: Images known to be good, with which others are compared: a folder, a CSV file of paths and class
            names, a folder for each class, or ``References`` with further options. See docs/memory.md.
        pool: Whether the images of each class in a run, which need no labels, score each other; or ``Pool`` with
            further options. See docs/memory.md.
        known_good: Good images to set thresholds by before prediction: a folder or a CSV file, or ``KnownGood`` with
            the share of them that may be flagged. See docs/thresholds.md.
        labels: Marked images to set thresholds by before prediction: a CSV file of paths, class names and labels, good
            or bad, as ``report.html`` saves it.
        weights: Weights of the text and of what is put beside it; ``None`` for those of the backbone, see
            docs/memory.md.
        regions: Whether prediction reports the connected parts of the mask, in pixels of the image; or ``Regions`` with
            further options. See docs/predict.md.
        page: Whether tests and predictions write ``report.html``, to look through their images.
        text_cache_dir: Folder where text vectors are kept; ``None`` for the user's cache folder, ``False`` for none.
        pre_processor: Pre-processor, or whether to use the default one.
        post_processor: Post-processor, or whether to use the default, ``CategoryPostProcessor``. Without one
            ``pred_score`` is the class token's probability alone.
        evaluator: Evaluator, or whether to use the default, ``CategoryEvaluator``.
        visualizer: Visualizer, or whether to use the default, ``CategoryVisualizer``.
        staged: Restart the surgery path at each of the four stages. False is an ablation: one stage of all blocks.
        architecture_surgery: Score value-value attention. False is an ablation: the patch tokens of the plain tower.
        feature_surgery: Weight both texts by the class token. False is an ablation: both weigh the same.

    Raises:
        FileNotFoundError: If a weights or prompts file does not exist.
        RuntimeError: If weights cannot be downloaded.
        TypeError: If the vision tower is not supported.
        ValueError: If any other argument is invalid; the message names the valid values.

    Example:
        >>> from anomalib_clipad import SDP
        >>> model = SDP("clipad-tiny", class_name="nut")
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
        resize: Fit | None = None,
        scales: list[int | tuple[int, int]] | None = None,
        tiles: Tiles | bool = False,
        calibrate_unlabelled: bool | float = False,
        references: References | dict[str, str] | str | None = None,
        pool: Pool | bool = False,
        known_good: KnownGood | str | None = None,
        labels: str | None = None,
        weights: Weights | dict[str, float] | None = None,
        regions: Regions | bool = True,
        page: bool = True,
        staged: bool = True,
        architecture_surgery: bool = True,
        feature_surgery: bool = True,
        text_cache_dir: str | Literal[False] | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        geometry = (image_size, resize, scales, tiles)
        parts = find_collaborators(
            backbone, pretrained, class_name, prompts, strategy, strategy_params, geometry, text_cache_dir
        )
        super().__init__(parts.pre_processor(pre_processor), post_processor, evaluator, visualizer)
        ablations = {"architecture_surgery": architecture_surgery, "feature_surgery": feature_surgery}
        settings = {"layers": layers, "taps": taps, "staged": staged, **ablations}
        evidence = Evidence.of(references, pool, known_good, labels, weights, parts.weights("SDP"))
        self._build(parts, class_name, calibrate_unlabelled, sigma, evidence, regions, page, **settings)

    @property
    def learning_type(self) -> LearningType:
        """Zero-shot, with references or a pool few-shot: the host never fits the model."""
        return LearningType.FEW_SHOT if self.few_shot else LearningType.ZERO_SHOT

    def configure_optimizers(self) -> None:
        """Nothing is trained."""
