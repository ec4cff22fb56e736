# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What the surgery needs of a vision tower, whatever library it comes from, and how patches and positions are counted.

Each family of towers has an adapter, which is the only place that knows how its modules are called.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(Protocol):
    """Residual block of a tower of width D, for one patch grid: attention, then a feed-forward layer."""

    @property
    def bias(self) -> Tensor | None:
        """What relative positions add to the products of queries and keys, (1, heads, T, T)."""

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute queries, keys and values of tokens (B, T, D), each (B, heads, T, D / heads).

        Norms of queries and keys, and the rotation that stands for positions, leave the values as they are.
        """

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute what attention adds to the tokens of queries (B, heads, M, D / heads), of shape (B, M, D)."""

    def feed_forward(self, tokens: Tensor) -> Tensor:
        """Compute what the feed-forward layer adds to tokens (B, M, D)."""


class VisionTower(Protocol):
    """Staged ViT of width D whose embeddings have C dimensions.

    Before its N patches lie P = ``prefix`` tokens: a class token, registers, or none. ``class_token`` says whether the
    image's embedding is that of the first of them. Otherwise it is pooled over all tokens, which the paper does not
    have: then ``pool`` stands where it takes the class token, at each layer the same, and ``project`` embeds a token as
    the pooling head does a sequence of this token alone. This is an extension of ours beyond the paper.
    """

    @property
    def family(self) -> str:
        """Which adapter describes the tower."""

    @property
    def width(self) -> int:
        """Channels D of the tokens."""

    @property
    def embed_dim(self) -> int:
        """Dimension C of the joint embedding space."""

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""

    @property
    def grid_size(self) -> tuple[int, int]:
        """Patches along the height and the width of an image of the size that the tower was made for."""

    @property
    def prefix(self) -> int:
        """Number P of tokens before the patches."""

    @property
    def class_token(self) -> bool:
        """Whether the image's embedding is that of the first token."""

    @property
    def depth(self) -> int:
        """Number of blocks."""

    def blocks(self, grid: tuple[int, int]) -> Sequence[Block]:
        """All blocks, the first one first, for images of this many patches."""

    def embed(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Turn normalised images (B, 3, H, W) into tokens (B, P + N, D) for the first block, and give their grid.

        Patch dropout, a training regulariser, is left out: an anomaly map needs every patch.
        """

    def pool(self, tokens: Tensor) -> Tensor:
        """Embed images (B, C) by the tokens (B, P + N, D) of the last block; not normalised."""

    def project(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, M, D), each by itself, into the joint embedding space, (B, M, C); not normalised."""


class UnsupportedTowerError(TypeError):
    """The surgery path is not defined for a tower; the message names the part that is unknown."""


def native_size(tower: VisionTower) -> tuple[int, int]:
    """Height and width in pixels of the images that a tower was made for."""
    (rows, columns), (height, width) = tower.grid_size, tower.patch_size
    return rows * height, columns * width


def patch_grid(patch_size: tuple[int, int], image_size: tuple[int, int], name: str = "image_size") -> tuple[int, int]:
    """Count the patches along the height and the width of an image.

    Raises:
        ValueError: If the patch size does not divide it; the message calls it by ``name``.
    """
    (height, width), (patch_height, patch_width) = image_size, patch_size
    if height < patch_height or width < patch_width or height % patch_height or width % patch_width:
        nearest = tuple(max(1, round(side / patch)) * patch for side, patch in zip(image_size, patch_size, strict=True))
        msg = (
            f"Expected {name} to be a multiple of the patch size {patch_height}x{patch_width}, "
            f"but got {height}x{width}. The nearest valid size is {nearest[0]}x{nearest[1]}."
        )
        raise ValueError(msg)
    return height // patch_height, width // patch_width


def interpolate_positions(positions: Tensor, native: tuple[int, int], grid: tuple[int, int], prefix: int = 1) -> Tensor:
    """Resize learnt position embeddings to another patch grid, as open_clip and timm do when they load weights.

    Those of the native grid ``(h, w)`` have the shape ``(prefix + h * w, D)``, the wanted ones ``(prefix + N, D)``.
    Where the grids are equal the input itself is returned.
    """
    if tuple(native) == tuple(grid):
        return positions
    spatial = positions[prefix:].unflatten(0, native).permute(2, 0, 1).unsqueeze(0)  # (1, D, h, w)
    spatial = functional.interpolate(spatial.float(), size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([positions[:prefix], spatial[0].flatten(1).T.to(positions.dtype)])


def find_difference(module: nn.Module, required: Iterable[str], optional: Iterable[str] = ()) -> str | None:
    """Name the parts that are missing from a module, or that it has besides, of which an adapter knows nothing.

    Parts are layers and weights; what does nothing at inference is not one. So query and key norms, scaled cosines,
    scales of heads and gates are found, whatever they are called.
    """
    required = tuple(required)
    missing = [name for name in required if getattr(module, name, None) is None]
    if missing:
        return f"{type(module).__name__} without {', '.join(missing)}"
    known = {*required, *optional}
    idle = nn.Identity | nn.Dropout
    layers = [name for name, layer in module.named_children() if not isinstance(layer, idle)]
    weights = [name for name, _ in module.named_parameters(recurse=False)]
    added = [name for name in (*layers, *weights) if name not in known and not name.startswith("drop_path")]
    return f"{type(module).__name__} with {', '.join(added)}" if added else None
