# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""SDP and SDP+ without anomalib's wiring: normalised images in, ``InferenceBatch`` out."""

from collections.abc import Sequence

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn

from anomalib_clipad.clip.surgery import NUM_STAGES, Taps, normalise_layers, surgery_tokens
from anomalib_clipad.clip.towers import describe_tower
from anomalib_clipad.clip.vision_tower import patch_grid
from anomalib_clipad.scoring.anomaly_map import (
    class_probability,
    head_logit_map,
    head_logits,
    patch_scores,
    resample,
    sdp_map,
)
from anomalib_clipad.scoring.class_texts import ClassTexts
from anomalib_clipad.scoring.fusion import (
    PoolScores,
    Source,
    Weights,
    distance_map,
    fuse_sources,
    pool_map,
    text_map,
)
from anomalib_clipad.scoring.heads import LinearHeads, TappedPatches
from anomalib_clipad.scoring.looks import Look, Looks, combine, look_at_tiles, tile_batches, without_padding
from anomalib_clipad.scoring.memory import Memory


class SDPModel(nn.Module):
    """Staged dual path of CLIP-AD (https://arxiv.org/abs/2311.00453): SDP, and with linear heads SDP+.

    The tower ``visual`` is frozen by the caller and not altered; there is one head for each tapped layer. Layers and
    taps are those of :func:`~anomalib_clipad.clip.surgery_tokens`; ``sigma`` is in pixels of what the tower sees; SDP's
    maps have weight 1, those of the heads ``head_weight``, which is 1 in the paper; ``logit_scale`` is that of the
    image's probability and ``map_scale`` that of the text's map where it is fused with others, see ``Backbone``;
    ``weights`` are those of the text and of what is put beside it; ``looks`` are the sizes and tiles in which images
    are seen, by default as they come. Each of the last three arguments makes an ablation if False: one stage, scores of
    the original path's tokens, texts of equal weight.

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
        map_scale: float = 100.0,
        weights: Weights | None = None,
        looks: Looks | None = None,
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
        self.map_scale = map_scale
        self.staged = staged
        self.architecture_surgery = architecture_surgery
        self.feature_surgery = feature_surgery
        self.texts = ClassTexts(tower.embed_dim)
        self.memory = Memory(len(self.layers), tower.width)
        self.weights = weights or Weights()
        self.looks = looks or Looks()

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
        n_images, size = image.shape[0], (image.shape[-2], image.shape[-1])
        texts = self.texts(class_index, n_images)
        with_references = len(self.memory) > 0 and self.weights.references > 0
        fused = with_references or pool is not None
        options = {"fused": fused, "with_references": with_references, "left_out": left_out}
        wholes = [self._look(pixels, texts, class_index, **options) for pixels in self.looks.wholes(image)]
        tiled = None
        if self.looks.tiles is not None:

            def look(pixels: Tensor, places: int) -> Look:
                index = None if class_index is None else class_index.repeat(places)
                return self._look(pixels, texts if index is None else self.texts(index), index, **options)

            tiled = look_at_tiles(image, self.looks.tiles, look)
        with torch.autocast(image.device.type, enabled=False):
            maps, scores = combine(wholes, tiled, size)
            anomaly_map, probability = maps[0], scores[0]
            if fused:
                others = []
                if with_references:
                    known = self.memory.knows(class_index, n_images)
                    others.append(Source(maps[2], scores[1], known * self.weights.references))
                if pool is not None:
                    others.append(self._pool_source(pool, image))
                text = Source(maps[1], probability, torch.full_like(probability, self.weights.text))
                anomaly_map, probability = fuse_sources(text, others, anomaly_map)
            if self.looks.padded:
                anomaly_map = without_padding(anomaly_map, image)
            return InferenceBatch(pred_score=probability, anomaly_map=anomaly_map)

    def _look(
        self,
        image: Tensor,
        texts: Tensor,
        class_index: Tensor | None,
        *,
        fused: bool,
        with_references: bool,
        left_out: bool,
    ) -> Look:
        """Score what the tower sees (B, 3, h, w): a map and the class token's probability.

        Where these are fused with other sources, the text's map as a probability follows, and where there are
        references, their map and their score.
        """
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
            where = (tokens.grid, (image.shape[-2], image.shape[-1]), self.sigma)
            maps = [sdp_map(scores, *where, logits, self.head_weight)]
            of_images = [class_probability(tokens.embeddings[-1], texts, self.logit_scale)]
            if fused:
                maps.append(maps[0] if logits else text_map(scores, *where, self.map_scale))
            if with_references:
                by_distance = distance_map(self.memory(tokens.patches, class_index, left_out=left_out), *where)
                maps.append(by_distance[0])
                of_images.append(by_distance[1])
            return Look(torch.stack(maps), torch.stack(of_images))

    def _pool_source(self, pool: PoolScores, image: Tensor) -> Source:
        """What other images say of the whole at its first size, which is what they were compared by."""
        seen, size = self.looks.first_size(image), (image.shape[-2], image.shape[-1])
        maps, scores = pool_map(pool, patch_grid(describe_tower(self.visual).patch_size, seen), seen, self.sigma)
        return Source(maps if seen == size else resample(maps, size), scores, pool.known * self.weights.pool)

    @torch.no_grad()
    def tapped_patches(self, image: Tensor) -> TappedPatches:
        """What heads are trained on, of normalised images (B, 3, H, W) at their first size; no gradient."""
        tokens = surgery_tokens(self.visual, self.looks.first(image), self.layers, self.taps, paths="original")
        return TappedPatches(tokens.patches, tokens.grid)

    @torch.no_grad()
    def reference_patches(self, image: Tensor) -> list[Tensor]:
        """Patch tokens (B, N, D) of each layer of references, of all looks at them: all are compared with all."""

        def tap(pixels: Tensor) -> list[Tensor]:
            return surgery_tokens(self.visual, pixels, self.layers, self.taps, paths="original").patches

        looks = [tap(pixels) for pixels in self.looks.wholes(image)]
        if self.looks.tiles is not None:
            for places, tiles in tile_batches(image, self.looks.tiles):
                looks.append(
                    [layer.unflatten(0, (len(places), -1)).transpose(0, 1).flatten(1, 2) for layer in tap(tiles)]
                )
        return [torch.cat(layer, dim=1) for layer in zip(*looks, strict=True)]

    @torch.no_grad()
    def pool_tokens(self, image: Tensor) -> tuple[TappedPatches, Tensor]:
        """What images of a pool are compared by, at their first size: tapped patches, and image embeddings (B, C)."""
        tokens = surgery_tokens(self.visual, self.looks.first(image), self.layers, self.taps)
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
