# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""SDP and SDP+ without anomalib's wiring: normalised images in, ``InferenceBatch`` out."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn

from anomalib_clipad.clip.surgery import NUM_STAGES, Paths, Taps, normalise_layers, surgery_tokens
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
from anomalib_clipad.scoring.sight import Seen, Sight, Yardstick


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
        n_images = image.shape[0]
        yardstick = Yardstick(
            self.texts(class_index, n_images),
            class_index,
            self.memory if len(self.memory) > 0 and self.weights.references > 0 else None,
            () if pool is None else (self._pool_source(pool, image),),
            left_out,
        )
        paths: Paths = "both" if self.heads is not None or yardstick.memory is not None else "surgery"

        def look(pixels: Tensor, places: int = 1) -> Look:
            return self._compare_look(self._see(pixels, paths), yardstick.of_tiles(places))

        return self._combined(image, map(look, self.looks.wholes(image)), look, None, yardstick)

    @torch.no_grad()
    def see(self, image: Tensor, paths: Paths = "both") -> Seen:
        """Run the tower over normalised images (B, 3, H, W) in all looks, and keep what it makes of them.

        References are taken of the ``"original"`` path, and images that have no patches kept, of the ``"surgery"``
        path, are not compared with any.
        """
        wholes = [self._see(pixels, paths) for pixels in self.looks.wholes(image)]
        batches = () if self.looks.tiles is None else tile_batches(image, self.looks.tiles)
        return Seen(image, wholes, [(places, self._see(tiles, paths)) for places, tiles in batches])

    @torch.no_grad()
    def compare(self, seen: Seen, yardstick: Yardstick) -> InferenceBatch:
        """Score images that were seen: the same as :meth:`forward`, which forgets what it sees."""

        def look(sight: Sight, places: int = 1) -> Look:
            return self._compare_look(sight, yardstick.of_tiles(places))

        return self._combined(seen.image, map(look, seen.wholes), look, seen.tiles, yardstick)

    def _combined(
        self, image: Tensor, wholes: Iterable[Look], look: Callable[[Any, int], Look], tiles: Any, yardstick: Yardstick
    ) -> InferenceBatch:
        """One map and score of all looks; ``look`` takes what the ``tiles`` are, by default their pixels."""
        size, wholes = (image.shape[-2], image.shape[-1]), list(wholes)
        tiled = None if self.looks.tiles is None else look_at_tiles(image, self.looks.tiles, look, tiles)
        with torch.autocast(image.device.type, enabled=False):
            maps, scores = combine(wholes, tiled, size)
            anomaly_map, probability = maps[0], scores[0]
            if yardstick.fused:
                others = list(yardstick.others)
                if yardstick.memory is not None:
                    known = yardstick.memory.knows(yardstick.class_index, image.shape[0])
                    others.insert(0, Source(maps[2], scores[1], known * self.weights.references))
                text = Source(maps[1], probability, torch.full_like(probability, self.weights.text))
                anomaly_map, probability = fuse_sources(text, others, anomaly_map)
            if self.looks.padded:
                anomaly_map = without_padding(anomaly_map, image)
            return InferenceBatch(pred_score=probability, anomaly_map=anomaly_map)

    def _see(self, pixels: Tensor, paths: Paths) -> Sight:
        """Run the tower over pixels (B, 3, h, w), and the heads over its patches."""
        tokens = surgery_tokens(
            self.visual,
            pixels,
            self.layers,
            self.taps,
            NUM_STAGES if self.staged else 1,
            paths,
            architecture_surgery=self.architecture_surgery,
        )
        embedded = [] if self.heads is None or paths == "original" else self.heads(tokens.patches)
        return Sight(tokens, embedded, (pixels.shape[-2], pixels.shape[-1]))

    def _compare_look(self, sight: Sight, yardstick: Yardstick) -> Look:
        """Score what the tower has seen of B images: a map and the class token's probability.

        Where these are fused with other sources, the text's map as a probability follows, and where there are
        references, their map and their score.
        """
        tokens, texts = sight.tokens, yardstick.texts
        with torch.autocast(texts.device.type, enabled=False):
            scores = [patch_scores(layer, texts, feature_surgery=self.feature_surgery) for layer in tokens.embeddings]
            logits = [head_logits(layer, texts) for layer in sight.heads]
            where = (tokens.grid, sight.size, self.sigma)
            maps = [sdp_map(scores, *where, logits, self.head_weight)]
            of_images = [class_probability(tokens.embeddings[-1], texts, self.logit_scale)]
            if yardstick.fused:
                maps.append(maps[0] if logits else text_map(scores, *where, self.map_scale))
            if yardstick.memory is not None:
                distances = yardstick.memory(tokens.patches, yardstick.class_index, left_out=yardstick.left_out)
                for found, of_references in zip((maps, of_images), distance_map(distances, *where), strict=True):
                    found.append(of_references)
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
        return self.see(image, "original").patches()

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
