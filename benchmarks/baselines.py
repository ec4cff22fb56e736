# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Baselines that can be compared offline, for ``configs/compare_synthetic.yaml``."""

from unittest.mock import patch

from anomalib.models import WinClip

from anomalib_clipad.clip.backbone import load_backbone
from anomalib_clipad.models.collaborators import make_pre_processor

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
