# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What the frozen tower makes of an image, before any word, and what it is compared with."""

from typing import NamedTuple

import torch
from torch import Tensor

from anomalib_clipad.clip.surgery import SurgeryTokens
from anomalib_clipad.scoring.fusion import Source
from anomalib_clipad.scoring.memory import Memory


class Sight(NamedTuple):
    """What one look at B images gives: tokens of the tower, patches (B, N, C) embedded by each head, and its size."""

    tokens: SurgeryTokens
    heads: list[Tensor]
    size: tuple[int, int]


class Seen(NamedTuple):
    """All looks at normalised images (B, 3, H, W), kept: the whole at each size, and tiles by tops and lefts.

    A look of 225 patches of width 896 takes 5.5 MB.
    """

    image: Tensor
    wholes: list[Sight]
    tiles: list[tuple[list[tuple[int, int]], Sight]]

    def patches(self) -> list[Tensor]:
        """Patch tokens (B, N, D) of each layer, of all looks."""
        looks = [sight.tokens.patches for sight in self.wholes]
        for places, sight in self.tiles:
            looks.append([of_image(layer, len(places)) for layer in sight.tokens.patches])
        return [torch.cat(layer, dim=1) for layer in zip(*looks, strict=True)]


class Yardstick(NamedTuple):
    """What B images are compared with.

    ``texts`` are those of each (B, C, 2) or of all (C, 2); ``class_index`` (B,) points into the ``memory`` of
    references, where there is one; ``others`` are further sources. With ``left_out`` an image that is a reference
    itself is compared with the others only.
    """

    texts: Tensor
    class_index: Tensor | None
    memory: Memory | None = None
    others: tuple[Source, ...] = ()
    left_out: bool = False

    @property
    def fused(self) -> bool:
        """Whether there is anything beside the text."""
        return self.memory is not None or bool(self.others)

    def of_tiles(self, places: int) -> "Yardstick":
        """The same for P tiles of each image, place by place."""
        if places == 1:
            return self
        texts = self.texts if self.texts.ndim == 2 else self.texts.repeat(places, 1, 1)
        return self._replace(
            texts=texts, class_index=None if self.class_index is None else self.class_index.repeat(places)
        )


def of_image(tokens: Tensor, places: int) -> Tensor:
    """Patch tokens (P * B, N, D) of tiles at P places as those of their images (B, P * N, D)."""
    return tokens.unflatten(0, (places, -1)).transpose(0, 1).flatten(1, 2)
