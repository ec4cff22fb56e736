# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What a model is made with and does not save: the frozen CLIP, the engine of its texts, the size of its input."""

import logging
from typing import Any, Literal, NamedTuple

from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from torch import nn
from torchvision.transforms.v2 import Transform

from anomalib_clipad.clip.backbone import DEFAULT_BACKBONE, Backbone, load_backbone
from anomalib_clipad.clip.embedded import EVIDENCE_WEIGHTS
from anomalib_clipad.clip.embedded import NAMES as EMBEDDED
from anomalib_clipad.clip.prompt_ensemble import resolve_prompts
from anomalib_clipad.clip.text_engine import TextEngine
from anomalib_clipad.data.image_loader import engine_transform
from anomalib_clipad.host.command_line import plain_errors
from anomalib_clipad.models.geometry import Geometry
from anomalib_clipad.scoring.fusion import Weights

logger = logging.getLogger(__name__)

_PAPER_SIGMA = 8 / 240
"""The paper blurs with 8 pixels at an input of 240."""


class Collaborators(NamedTuple):
    """What a model uses that is no part of its state: not saved in checkpoints, and untouched by ``.to(device)``."""

    backbone: Backbone
    text_engine: TextEngine
    geometry: Geometry

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the input, of images of their own size the least."""
        return self.geometry.image_size

    def pre_processor(self, given: nn.Module | bool = True) -> nn.Module | bool:
        """The pre-processor that was given, or the default one for ``True``."""
        clip = self.backbone
        return self.geometry.pre_processor(clip.patch_size, clip.mean, clip.std) if given is True else given

    def weights(self, model: str) -> Weights:
        """What text, references and pool weigh by default in ``"SDP"`` or ``"SDP+"``."""
        chosen = EVIDENCE_WEIGHTS.get(self.backbone.name, {}) if self.backbone.pretrained is None else {}
        return Weights(**chosen.get(model, {}))

    def sigma(self, sigma: float | None) -> float:
        """Standard deviation of the blur in pixels; ``None`` stands for the paper's, scaled to what the tower sees."""
        return _PAPER_SIGMA * min(self.geometry.seen) if sigma is None else sigma


@plain_errors()
def find_collaborators(
    backbone: str,
    pretrained: str | None,
    class_name: str | None,
    prompts: str | dict[str, Any] | None,
    strategy: str,
    strategy_params: dict[str, Any] | None,
    geometry: tuple[Any, Any, Any, Any],
    text_cache_dir: str | Literal[False] | None,
) -> Collaborators:
    """Make the collaborators of the user's arguments, see ``anomalib_clipad.SDP``, with its errors.

    ``geometry`` are ``image_size``, ``resize``, ``scales`` and ``tiles``.
    """
    clip = load_backbone(backbone, pretrained)
    if clip.name in EMBEDDED:
        logger.warning(
            "%s is a small stand-in for tests and first contact. For real products use the default backbone (%s).",
            clip.name,
            DEFAULT_BACKBONE,
        )
    resolved = Geometry.of(*geometry, clip)
    ensemble = resolve_prompts(prompts)
    if class_name is not None:
        ensemble.class_words(class_name)  # refuses a blank name before anything runs
    return Collaborators(clip, TextEngine(clip, ensemble, strategy, strategy_params, text_cache_dir), resolved)


def check_components(pre_processor: nn.Module | None, post_processor: nn.Module | None) -> None:
    """Refuse, by TypeError, components that anomalib's engine would leave out without a word, or could not call."""
    for name, component, kind in (
        ("pre_processor", pre_processor, PreProcessor),
        ("post_processor", post_processor, PostProcessor),
    ):
        if not isinstance(component, kind | None):
            msg = (
                f"Expected {name} to be a {kind.__name__} of anomalib, but got {type(component).__name__}, which its "
                f"engine would leave out. Derive it from {kind.__name__}"
                + ("." if name == "post_processor" else ", or give a transform as PreProcessor(transform=...).")
            )
            raise TypeError(msg)
    transform = engine_transform(pre_processor)
    if not isinstance(transform, Transform | None):
        msg = (
            "Expected the transform of pre_processor to be of torchvision.transforms.v2, which transforms images and "
            f"masks together, but got {type(transform).__name__}. Put several into a Compose."
        )
        raise TypeError(msg)
