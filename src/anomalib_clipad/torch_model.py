# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""SDP without anomalib's wiring: normalised images in, ``InferenceBatch`` out."""

from collections.abc import Sequence

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn

from anomalib_clipad.anomaly_map import class_probability, patch_scores, sdp_map
from anomalib_clipad.clip.surgery import Taps, normalise_layers, surgery_tokens
from anomalib_clipad.clip.vision_tower import check_tower


class SDPModel(nn.Module):
    """Staged dual path of CLIP-AD (https://arxiv.org/abs/2311.00453), without any training.

    Args:
        visual: Vision tower of an open_clip model, frozen by the caller. It is not altered.
        layers: Tapped layers, 1-based, negative ones from the end; ``None`` for the ends of the four stages.
        taps: What a tapped layer means, see :func:`~anomalib_clipad.clip.surgery.surgery_tokens`.
        sigma: Standard deviation of the Gaussian blur, in pixels of the input.

    Attributes:
        class_names: The K classes that text embeddings are known for.
        text_embeddings: (K, C, 2), columns normal and anomalous.

    Raises:
        TypeError: If the vision tower is not supported.
        ValueError: If ``layers`` is not valid for the tower.

    Example:
        >>> from anomalib_clipad.clip.backbone import load_backbone
        >>> backbone = load_backbone("clipad-tiny")
        >>> model = SDPModel(backbone.model.visual)
        >>> model.add_class("nut", torch.randn(backbone.embed_dim, 2))
        0
        >>> model(torch.randn(1, 3, 120, 120)).anomaly_map.shape
        torch.Size([1, 120, 120])
    """

    text_embeddings: Tensor

    def __init__(
        self,
        visual: nn.Module,
        layers: Sequence[int] | None = None,
        taps: Taps = "reference",
        sigma: float = 8.0,
    ) -> None:
        super().__init__()
        tower = check_tower(visual)
        self.visual = visual
        self.layers = normalise_layers(layers, depth=len(tower.transformer.resblocks))
        self.taps: Taps = taps
        self.sigma = sigma
        self.class_names: list[str] = []
        self.register_buffer("text_embeddings", torch.empty(0, tower.proj.shape[1], 2))

    def add_class(self, name: str, text_embeddings: Tensor) -> int:
        """Make a class known.

        Args:
            name: Name of the class; a known one gets new embeddings.
            text_embeddings: Unit text embeddings (C, 2), normal and anomalous.

        Returns:
            Index of the class.
        """
        row = text_embeddings.to(self.text_embeddings)[None]
        if name in self.class_names:
            index = self.class_names.index(name)
            self.text_embeddings = torch.cat([self.text_embeddings[:index], row, self.text_embeddings[index + 1 :]])
            return index
        self.class_names.append(name)
        self.text_embeddings = torch.cat([self.text_embeddings, row])
        return len(self.class_names) - 1

    def forward(self, image: Tensor, class_index: Tensor | None = None) -> InferenceBatch:
        """Score images.

        Args:
            image: Normalised images (B, 3, H, W).
            class_index: Class of each image (B,), an index into ``class_names``; ``None`` for the first class.

        Returns:
            ``pred_score`` (B,): probability of the class token that the image is anomalous, in [0, 1]. The
            post-processor fuses it with the maximum of the map. ``anomaly_map`` (B, H, W) in [0, 1].

        Raises:
            RuntimeError: If no class is known yet.
            ValueError: If the patch size does not divide the image size.
        """
        if not len(self.text_embeddings):
            msg = "Expected text embeddings of at least one class, but got none. Call add_class first."
            raise RuntimeError(msg)
        texts = self.text_embeddings[0] if class_index is None else self.text_embeddings[class_index]
        tokens = surgery_tokens(self.visual, image, self.layers, self.taps)
        size = (image.shape[-2], image.shape[-1])
        with torch.autocast(image.device.type, enabled=False):
            return InferenceBatch(
                pred_score=class_probability(tokens.surgery[-1], texts),
                anomaly_map=sdp_map(
                    [patch_scores(layer, texts) for layer in tokens.surgery], tokens.grid, size, self.sigma
                ),
            )
