# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The only trained part of SDP+: one linear head for each tapped layer, from vision width to joint embedding space."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn


class TappedPatches(NamedTuple):
    """What heads read: patches (B, N, D) of the original path, without the class token, of L layers, and their grid."""

    layers: list[Tensor]
    grid: tuple[int, int]


class LinearHeads(nn.Module):
    """Linear heads of SDP+ (CLIP-AD, https://arxiv.org/abs/2311.00453), from vision width D to joint dimension C.

    They read the original path before CLIP's own last norm and projection, which they replace for patches. The names
    in the state dict, ``fc.{i}.weight`` (C, D) and ``fc.{i}.bias`` (C,), are those of the authors' files.
    """

    def __init__(self, width: int, embed_dim: int, num_layers: int = 4) -> None:
        super().__init__()
        for name, value in (("width", width), ("embed_dim", embed_dim), ("num_layers", num_layers)):
            if value < 1:
                msg = f"Expected {name} to be a positive number, but got {value}. Take it from the backbone and layers."
                raise ValueError(msg)
        self.width = width
        self.embed_dim = embed_dim
        self.fc = nn.ModuleList(nn.Linear(width, embed_dim) for _ in range(num_layers))

    @property
    def num_layers(self) -> int:
        """Number L of tapped layers."""
        return len(self.fc)

    def forward(self, patches: Sequence[Tensor]) -> list[Tensor]:
        """Embed the patches (B, N, D) of L layers: (B, N, C) each, in float32, not normalised.

        Outside autocast patches are converted to the heads' precision: a tower in half precision goes with heads in
        float32.
        """
        widths = [tokens.shape[-1] for tokens in patches]
        if widths != [self.width] * self.num_layers:
            msg = (
                f"Expected patches to be those of {self.num_layers} layers of width {self.width}, "
                f"but got {len(widths)} layers of widths {widths}. Use heads made for this backbone and these layers."
            )
            raise ValueError(msg)
        precision = next(self.parameters()).dtype
        # Under autocast the products come in half precision, too little for lengths and for cosines times 100.
        return [fc(tokens.to(precision)).float() for fc, tokens in zip(self.fc, patches, strict=True)]
