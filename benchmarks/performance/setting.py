# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What the measures have in common: the model, the batch, and how often each is repeated."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from anomalib_clipad.clip.architectures import build_model, find_config
from anomalib_clipad.clip.backbone import Backbone, load_backbone
from anomalib_clipad.clip.surgery import stage_ends
from anomalib_clipad.scoring.heads import LinearHeads
from anomalib_clipad.scoring.torch_model import SDPModel


@dataclass(frozen=True)
class Setting:
    """A random tower and a batch of noise: time does not depend on the weights.

    Attributes:
        backbone_name: open_clip architecture.
        batch_size: Images in a batch.
        rounds: Alternated runs of each function.
        smoke: Whether this is only to show that the suite runs: small sizes everywhere.
    """

    backbone_name: str = "ViT-B-16-plus-240"
    batch_size: int = 8
    rounds: int = 7
    smoke: bool = False

    @classmethod
    def for_smoke(cls) -> "Setting":
        """The smallest sizes."""
        return cls(backbone_name="clipad-tiny", batch_size=2, rounds=1, smoke=True)

    @cached_property
    def backbone(self) -> Backbone:
        """The random backbone."""
        return load_backbone(self.backbone_name, "random")

    def tower(self, side: int | None = None) -> nn.Module:
        """The bare image tower, without any of ours; another one of the same shape where images have another size."""
        if side is None:
            return self.backbone.model.visual
        config = find_config(self.backbone_name)
        return build_model({**config, "vision_cfg": {**config["vision_cfg"], "image_size": side}}).visual.eval()

    def images(self, batch_size: int | None = None, side: int | None = None) -> Tensor:
        """Normalised noise (B, 3, H, W)."""
        height, width = (side, side) if side else self.backbone.image_size
        generator = torch.Generator().manual_seed(0)
        return torch.randn(batch_size or self.batch_size, 3, height, width, generator=generator)

    def sdp(self, classes: int = 1) -> SDPModel:
        """SDP with random text vectors."""
        return with_texts(SDPModel(self.backbone.model.visual, sigma=self._sigma), self.backbone.embed_dim, classes)

    def sdp_plus(self) -> SDPModel:
        """SDP+ with random heads and text vectors."""
        clip = self.backbone
        heads = LinearHeads(clip.width, clip.embed_dim, len(stage_ends(clip.depth)))
        return with_texts(SDPModel(clip.model.visual, heads, sigma=self._sigma), clip.embed_dim, 1)

    @property
    def _sigma(self) -> float:
        return self.backbone.image_size[0] / 30


def with_texts(model: SDPModel, embed_dim: int, classes: int) -> SDPModel:
    """Give a model random text vectors of so many classes."""
    generator = torch.Generator().manual_seed(0)
    for index in range(classes):
        model.texts.add(f"class {index}", torch.randn(embed_dim, 2, generator=generator))
    return model.eval()


def model_options(setting: Setting, folder: Path) -> list[str]:
    """Options of a command of anomalib that runs SDP on the same random tower, its text kept in a folder."""
    return [
        *("--model", "anomalib_clipad.SDP", "--model.backbone", setting.backbone_name, "--model.pretrained", "random"),
        *("--model.strategy", "mean", "--model.text_cache_dir", str(folder / "text"), "--trainer.accelerator", "cpu"),
    ]
