# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Adapter for towers built like open_clip's own ``VisionTransformer``.

With a class token, class-token, average (CLIPA) or attentional pooling (CoCa). They are recognised by their parts, not
by their class, so this module does not import open_clip.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from anomalib_clipad.clip.vision_tower import find_difference, interpolate_positions, patch_grid

_TOWER = ("conv1", "grid_size", "class_embedding", "positional_embedding", "ln_pre", "transformer", "ln_post", "proj")
_BLOCK = ("ln_1", "attn", "ls_1", "ln_2", "mlp", "ls_2")
_ATTENTION = ("in_proj_weight", "out_proj", "num_heads")
_POOLER = ("query", "attn", "ln_q", "ln_k")


@dataclass(frozen=True)
class OpenClipBlock:
    """Block with one packed projection: an ``nn.MultiheadAttention``, or a class of open_clip's own."""

    block: Any
    bias = None

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See ``Block``; positions are in the tokens."""
        attn = self.block.attn
        packed = functional.linear(self.block.ln_1(tokens), attn.in_proj_weight, attn.in_proj_bias)
        query, key, value = packed.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """See ``Block``."""
        mixed = functional.scaled_dot_product_attention(query, key, value, bias)
        return self.block.ls_1(self.block.attn.out_proj(mixed.transpose(1, 2).flatten(2)))

    def feed_forward(self, tokens: Tensor) -> Tensor:
        """See ``Block``."""
        return self.block.ls_2(self.block.mlp(self.block.ln_2(tokens)))


@dataclass(frozen=True)
class OpenClipTower:
    """Tower of open_clip's kind."""

    visual: Any
    family = "open_clip"
    prefix = 1

    @property
    def width(self) -> int:
        """Channels of the tokens."""
        return self.visual.conv1.out_channels

    @property
    def embed_dim(self) -> int:
        """Dimension of the joint embedding space."""
        return self.visual.proj.shape[1]

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.visual.conv1.kernel_size
        return height, width

    @property
    def grid_size(self) -> tuple[int, int]:
        """Patches of an image of the native size."""
        return tuple(self.visual.grid_size)

    @property
    def class_token(self) -> bool:
        """Whether the image's embedding is that of the class token."""
        return self.visual.attn_pool is None and _pool_type(self.visual) == "tok"

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.visual.transformer.resblocks)

    def blocks(self, grid: tuple[int, int]) -> list[OpenClipBlock]:
        """See ``VisionTower``; they are the same for every grid."""
        return [OpenClipBlock(block) for block in self.visual.transformer.resblocks]

    def embed(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """See ``VisionTower``."""
        visual = self.visual
        grid = patch_grid(self.patch_size, (image.shape[-2], image.shape[-1]))
        patches = visual.conv1(image.to(visual.conv1.weight.dtype)).flatten(2).transpose(1, 2)  # (B, N, D)
        class_token = visual.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        positions = interpolate_positions(visual.positional_embedding, visual.grid_size, grid)
        return visual.ln_pre(torch.cat([class_token, patches], dim=1) + positions.to(patches.dtype)), grid

    def pool(self, tokens: Tensor) -> Tensor:
        """See ``VisionTower``; only the first query of attentional pooling reaches the image's embedding."""
        visual = self.visual
        if visual.attn_pool is not None:
            pooler = visual.attn_pool
            query, keys = pooler.ln_q(pooler.query[:1]).expand(tokens.shape[0], -1, -1), pooler.ln_k(tokens)
            if pooler.attn.batch_first:
                pooled = pooler.attn(query, keys, keys, need_weights=False)[0][:, 0]
            else:  # up to open_clip 2.24
                query, keys = query.transpose(0, 1), keys.transpose(0, 1)
                pooled = pooler.attn(query, keys, keys, need_weights=False)[0][0]
            return visual.ln_post(pooled) @ visual.proj
        if self.class_token:
            return self.project(tokens[:, 0])
        after = getattr(visual, "final_ln_after_pool", False)
        patches = tokens[:, 1:]
        pooled = visual.ln_post(patches.mean(dim=1)) if after else visual.ln_post(patches).mean(dim=1)
        return pooled @ visual.proj

    def project(self, tokens: Tensor) -> Tensor:
        """See ``VisionTower``; attention to a token alone gives its value."""
        visual = self.visual
        if visual.attn_pool is not None:
            attn = visual.attn_pool.attn
            packed = attn.in_proj_weight is not None
            weight = attn.in_proj_weight.chunk(3)[2] if packed else attn.v_proj_weight
            bias = attn.in_proj_bias.chunk(3)[2] if attn.in_proj_bias is not None else None
            tokens = attn.out_proj(functional.linear(visual.attn_pool.ln_k(tokens), weight, bias))
        return visual.ln_post(tokens) @ visual.proj


def find_problem(visual: nn.Module) -> str | None:
    """Say what is unsupported about a tower of open_clip's kind, or return ``None``."""
    problem = find_difference(visual, _TOWER, ("attn_pool", "patch_dropout"))
    if problem is not None:
        return problem
    pool_type, pooler = _pool_type(visual), getattr(visual, "attn_pool", None)
    if pool_type not in {"tok", "avg"} or (pooler is not None and pool_type != "tok"):
        return f"{type(visual).__name__} with pool_type {pool_type!r}"
    if pooler is not None and (problem := find_difference(pooler, _POOLER)):
        return f"{type(visual).__name__} whose pooling has {problem}"
    tower: Any = visual
    for number, block in enumerate(tower.transformer.resblocks, start=1):
        problem = find_difference(block, _BLOCK) or find_difference(block.attn, _ATTENTION, ("in_proj_bias",))
        if problem is None and getattr(block.attn, "add_zero_attn", False):
            problem = f"{type(block.attn).__name__} with add_zero_attn"
        if problem is not None:
            return f"{type(visual).__name__} whose block {number} has {problem}"
    return None


def _pool_type(visual: nn.Module) -> str:
    # Only open_clip versions with a choice of pooling have these attributes; before, it was a flag.
    default = "avg" if getattr(visual, "global_average_pool", False) else "tok"
    return str(getattr(visual, "pool_type", default))
