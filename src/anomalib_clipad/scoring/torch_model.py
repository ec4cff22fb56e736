# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""SDP and SDP+ without anomalib's wiring: normalised images in, ``InferenceBatch`` out."""

from collections.abc import Sequence

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn

from anomalib_clipad.clip.surgery import NUM_STAGES, Taps, normalise_layers, surgery_tokens
from anomalib_clipad.clip.towers import describe_tower
from anomalib_clipad.scoring.anomaly_map import class_probability, head_logit_map, head_logits, patch_scores, sdp_map
from anomalib_clipad.scoring.class_texts import ClassTexts
from anomalib_clipad.scoring.fusion import (
    PoolScores,
    Source,
    Weights,
    distance_source,
    fuse_sources,
    pool_source,
    text_map,
)
from anomalib_clipad.scoring.heads import LinearHeads, TappedPatches
from anomalib_clipad.scoring.memory import Memory


class SDPModel(nn.Module):
    """Staged dual path of CLIP-AD (https://arxiv.org/abs/2311.00453): SDP, and with linear heads SDP+.

    The tower ``visual`` is frozen by the caller and not altered; there is one head for each tapped layer. Layers and
    taps are those of :func:`~anomalib_clipad.clip.surgery_tokens`; ``sigma`` is in pixels of the input; SDP's maps have
    weight 1, those of the heads ``head_weight``, which is 1 in the paper; ``logit_scale`` is that of the image's
    probability, see ``Backbone``; ``weights`` are those of the text and of what is put beside it. Each of the last
    three arguments makes an ablation if False: one stage, scores of the original path's tokens, texts of equal weight.

    ``memory`` holds the references of each class, none at first.
    """

    def __init__(
        self,
        visual: nn.Module,
        heads: LinearHeads | None = None,
        layers: Sequence[int] | None = None,
        taps: Taps = "reference",
        sigma: float = 8.0,
        head_weight: float = 1.0,
        logit_scale: float = 100.0,
        weights: Weights | None = None,
        *,
        staged: bool = True,
        architecture_surgery: bool = True,
        feature_surgery: bool = True,
    ) -> None:
        super().__init__()
        tower = describe_tower(visual)
        self.visual = visual
        self.heads = heads
        self.layers = normalise_layers(layers, depth=tower.depth)
        self.taps: Taps = taps
        self.sigma = sigma
        self.head_weight = head_weight
        self.logit_scale = logit_scale
        self.staged = staged
        self.architecture_surgery = architecture_surgery
        self.feature_surgery = feature_surgery
        self.texts = ClassTexts(tower.embed_dim)
        self.memory = Memory(len(self.layers), tower.width)
        self.weights = weights or Weights()

    def forward(
        self,
        image: Tensor,
        class_index: Tensor | None = None,
        pool: PoolScores | None = None,
        *,
        left_out: bool = False,
    ) -> InferenceBatch:
        """Score normalised images (B, 3, H, W), each of the class (B,) that points into ``texts.names``.

        ``pred_score`` (B,) is the class token's probability that the image is anomalous, which the post-processor fuses
        with the maximum of ``anomaly_map`` (B, H, W) in [0, 1]. With references in ``memory``, or what the other images
        of a ``pool`` say of these, both are means by ``weights``, see ``fusion``. ``left_out`` asks that an image which
        is a reference itself is compared with the others only.
        """
        texts = self.texts(class_index, image.shape[0])
        with_references = len(self.memory) > 0 and self.weights.references > 0
        tokens = surgery_tokens(
            self.visual,
            image,
            self.layers,
            self.taps,
            NUM_STAGES if self.staged else 1,
            "both" if self.heads is not None or with_references else "surgery",
            architecture_surgery=self.architecture_surgery,
        )
        patches = [] if self.heads is None else self.heads(tokens.patches)
        with torch.autocast(image.device.type, enabled=False):
            scores = [patch_scores(layer, texts, feature_surgery=self.feature_surgery) for layer in tokens.embeddings]
            logits = [head_logits(layer, texts) for layer in patches]
            size = (image.shape[-2], image.shape[-1])
            where = (tokens.grid, size, self.sigma)
            probability = class_probability(tokens.embeddings[-1], texts, self.logit_scale)
            anomaly_map = sdp_map(scores, *where, logits, self.head_weight)
            others = []
            if with_references:
                known = self.memory.knows(class_index, image.shape[0])
                distances = self.memory(tokens.patches, class_index, left_out=left_out)
                others.append(distance_source(distances, *where, known * self.weights.references))
            if pool is not None:
                others.append(pool_source(pool, *where, self.weights.pool))
            if others:
                by_text = text_map(scores, *where, logits, self.head_weight, self.logit_scale)
                text = Source(by_text, probability, torch.full_like(probability, self.weights.text))
                anomaly_map, probability = fuse_sources(text, others, anomaly_map)
            return InferenceBatch(pred_score=probability, anomaly_map=anomaly_map)

    @torch.no_grad()
    def tapped_patches(self, image: Tensor) -> TappedPatches:
        """What the heads are trained on, of normalised images (B, 3, H, W); no gradient."""
        tokens = surgery_tokens(self.visual, image, self.layers, self.taps, paths="original")
        return TappedPatches(tokens.patches, tokens.grid)

    @torch.no_grad()
    def pool_tokens(self, image: Tensor) -> tuple[TappedPatches, Tensor]:
        """What images of a pool are compared by: tapped patches, and image embeddings (B, C)."""
        tokens = surgery_tokens(self.visual, image, self.layers, self.taps)
        return TappedPatches(tokens.patches, tokens.grid), tokens.embeddings[-1][:, 0]

    def logit_maps(self, patches: TappedPatches, size: tuple[int, int], class_index: Tensor) -> list[Tensor]:
        """Logits (B, H, W) of each head before sigmoid and blur, from which the loss is computed."""
        if self.heads is None:
            msg = "Expected the model to have heads, but got none. Make it with heads=LinearHeads(...)."
            raise RuntimeError(msg)
        texts = self.texts(class_index)
        embeddings = self.heads(patches.layers)
        with torch.autocast(class_index.device.type, enabled=False):
            return [head_logit_map(head_logits(layer, texts), patches.grid, size) for layer in embeddings]
