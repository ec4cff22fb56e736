# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Adapter for towers of timm in open_clip's ``TimmModel``: ``VisionTransformer`` and ``Eva``.

SigLIP, SigLIP 2, MobileCLIP-B; EVA-01, EVA-02 and Perception Encoder. Both kinds of trunk name their parts alike; they
differ in projections, positions and LayerScale.
"""

import copy
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import apply_rot_embed_cat
from torch import Tensor, nn
from torch.nn import functional

from anomalib_clipad.clip.vision_tower import find_difference, interpolate_positions, patch_grid

_TRUNK = ("patch_embed", "blocks", "norm", "fc_norm", "head")
_TRUNK_OPTIONS = ("cls_token", "reg_token", "pos_embed", "norm_pre", "patch_drop", "attn_pool", "rope")
_BLOCK = ("norm1", "attn", "norm2", "mlp")
_BLOCK_OPTIONS = ("ls1", "ls2", "gamma_1", "gamma_2")
_ATTENTION = ("proj", "num_heads")
_ATTENTION_OPTIONS = ("qkv", "q_proj", "k_proj", "v_proj", "q_bias", "v_bias", "q_norm", "k_norm", "norm", "rel_pos")
_POOLER = ("latent", "kv", "proj")
_POOLER_OPTIONS = ("q", "q_norm", "k_norm", "norm", "mlp")
# What a block does with its parts is not written in them.
_PRE_NORM = {"Block", "EvaBlock", "RelPosBlock"}
_POST_NORM = {"ResPostBlock", "EvaBlockPostNorm", "ResPostRelPosBlock"}
_POOLINGS = {"token", "avg", "map"}


@dataclass(frozen=True)
class TimmBlock:
    """Block whose norms come before attention and feed-forward layer, or after them (``EvaBlockPostNorm``)."""

    block: Any
    prefix: int
    rotation: Tensor | None
    bias: Tensor | None

    @property
    def _post_norm(self) -> bool:
        return type(self.block).__name__ in _POST_NORM

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See ``Block``; prefix tokens are not rotated."""
        attn = self.block.attn
        tokens = tokens if self._post_norm else self.block.norm1(tokens)
        if attn.qkv is not None:
            bias = attn.qkv.bias
            if getattr(attn, "q_bias", None) is not None:  # Eva's keys have none
                bias = torch.cat([attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias])
            packed = functional.linear(tokens, attn.qkv.weight, bias).unflatten(-1, (3, attn.num_heads, -1))
            query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        else:
            query, key, value = (
                layer(tokens).unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)
                for layer in (attn.q_proj, attn.k_proj, attn.v_proj)
            )
        query, key = attn.q_norm(query), attn.k_norm(key)
        if self.rotation is not None:
            half = {"half": True} if getattr(attn, "rotate_half", False) else {}
            query, key = (
                torch.cat([rest, apply_rot_embed_cat(rotated, self.rotation, **half)], dim=2)
                for rest, rotated in (x.tensor_split([self.prefix], dim=2) for x in (query, key))
            )
        return query.type_as(value), key.type_as(value), value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """See ``Block``."""
        attn = self.block.attn
        mixed = functional.scaled_dot_product_attention(query, key, value, bias).transpose(1, 2).flatten(2)
        norm = getattr(attn, "norm", None)
        return self._scaled(attn.proj(mixed if norm is None else norm(mixed)), "norm1", "ls1", "gamma_1")

    def feed_forward(self, tokens: Tensor) -> Tensor:
        """See ``Block``."""
        tokens = tokens if self._post_norm else self.block.norm2(tokens)
        return self._scaled(self.block.mlp(tokens), "norm2", "ls2", "gamma_2")

    def _scaled(self, residual: Tensor, norm: str, layer: str, weight: str) -> Tensor:
        """Apply what comes after attention or feed-forward layer: a norm, or LayerScale, a layer or a weight."""
        if self._post_norm:
            return getattr(self.block, norm)(residual)
        if getattr(self.block, layer, None) is not None:
            return getattr(self.block, layer)(residual)
        gamma = getattr(self.block, weight, None)
        return residual if gamma is None else gamma * residual


@dataclass(frozen=True)
class TimmTower:
    """Tower of timm: the trunk, and the head that open_clip puts on it."""

    visual: Any

    @property
    def trunk(self) -> Any:
        """Model of timm."""
        return self.visual.trunk

    @property
    def family(self) -> str:
        """Which of the two kinds of trunk."""
        return "timm Eva" if hasattr(self.trunk, "rope") else "timm VisionTransformer"

    @property
    def width(self) -> int:
        """Channels of the tokens."""
        return self.trunk.embed_dim

    @property
    def embed_dim(self) -> int:
        """Dimension of the joint embedding space."""
        linear = [layer for head in (self.trunk.head, self.visual.head) for layer in head.modules()]
        last = [layer.out_features for layer in linear if isinstance(layer, nn.Linear)]
        return last[-1] if last else self.trunk.embed_dim

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        (height, width), (rows, columns) = self.trunk.patch_embed.img_size, self.grid_size
        return height // rows, width // columns

    @property
    def grid_size(self) -> tuple[int, int]:
        """Patches of an image of the native size."""
        return tuple(self.trunk.patch_embed.grid_size)

    @property
    def prefix(self) -> int:
        """Class token and registers."""
        return self.trunk.num_prefix_tokens

    @property
    def class_token(self) -> bool:
        """Whether the image's embedding is that of the class token."""
        return self.trunk.global_pool == "token"

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.trunk.blocks)

    def blocks(self, grid: tuple[int, int]) -> list[TimmBlock]:
        """See ``VisionTower``."""
        rope = getattr(self.trunk, "rope", None)
        rotation = None if rope is None else _remade(rope, grid).get_embed()
        positions = [getattr(block.attn, "rel_pos", None) for block in self.trunk.blocks]
        biases = [None if each is None else _resized(each, grid, self.grid_size).get_bias() for each in positions]
        return [
            TimmBlock(block, self.prefix, rotation, bias) for block, bias in zip(self.trunk.blocks, biases, strict=True)
        ]

    def embed(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """See ``VisionTower``."""
        trunk, grid = self.trunk, patch_grid(self.patch_size, (image.shape[-2], image.shape[-1]))
        stem = getattr(trunk.patch_embed, "backbone", nn.Identity())  # MobileCLIP's patches are embedded in steps
        image = image.to(next(trunk.patch_embed.parameters()).dtype)
        patches = trunk.patch_embed.proj(stem(image)).flatten(2).transpose(1, 2)  # (B, N, D)
        patches = getattr(trunk.patch_embed, "norm", nn.Identity())(patches)
        given: list[Any] = [getattr(trunk, name, None) for name in ("cls_token", "reg_token")]
        prefix: list[Tensor] = [token.expand(patches.shape[0], -1, -1) for token in given if token is not None]
        if getattr(trunk, "pos_embed", None) is None:
            tokens = torch.cat([*prefix, patches], dim=1)
        else:
            # Prefix tokens have positions too, or are put before the patches afterwards.
            embedded = 0 if trunk.no_embed_class else self.prefix
            positions = interpolate_positions(trunk.pos_embed[0], self.grid_size, grid, embedded)
            before, after = (prefix, []) if embedded else ([], prefix)
            tokens = torch.cat([*after, torch.cat([*before, patches], dim=1) + positions], dim=1)
        return getattr(trunk, "norm_pre", nn.Identity())(tokens), grid

    def pool(self, tokens: Tensor) -> Tensor:
        """See ``VisionTower``."""
        return self.visual.head(self.trunk.forward_head(self.trunk.norm(tokens)))

    def project(self, tokens: Tensor) -> Tensor:
        """See ``VisionTower``; attention to a token alone gives its value."""
        trunk = self.trunk
        tokens = trunk.norm(tokens)
        pooler = getattr(trunk, "attn_pool", None)
        if pooler is not None:
            weight, bias = pooler.kv.weight.chunk(2)[1], None if pooler.kv.bias is None else pooler.kv.bias.chunk(2)[1]
            tokens = pooler.proj(functional.linear(tokens, weight, bias))
            if pooler.mlp is not None:
                tokens = tokens + pooler.mlp(pooler.norm(tokens))
        return self.visual.head(trunk.head(trunk.fc_norm(tokens)))


def _remade(rope: Any, grid: tuple[int, int]) -> Any:
    """Rotary positions, which are kept for one grid: for another one a new module of the same arguments."""
    if tuple(rope.feat_shape) == grid:
        return rope
    names = inspect.signature(type(rope)).parameters
    arguments = {name: getattr(rope, name) for name in names if hasattr(rope, name)}
    return type(rope)(**{**arguments, "feat_shape": list(grid)}).to(rope.pos_embed)


def _resized(positions: Any, grid: tuple[int, int], native: tuple[int, int]) -> Any:
    """Relative positions, which are kept for one grid: for another one a resized copy, for the tower is not ours."""
    if grid == native:
        return positions
    positions = copy.deepcopy(positions)
    positions.set_window_size(grid)
    return positions


def find_problem(visual: nn.Module) -> str | None:
    """Say what is unsupported about a tower of timm, or return ``None``."""
    trunk: Any = visual.trunk
    name = type(trunk).__name__
    problem = find_difference(trunk, _TRUNK, _TRUNK_OPTIONS)
    if problem is not None:
        return problem
    stem = getattr(trunk.patch_embed, "backbone", None)
    if stem is not None and type(stem).__name__ != "ConvStem":
        return f"{name} with {type(stem).__name__} before its blocks: a hybrid"
    if getattr(trunk, "rope_mixed", False) or (getattr(trunk, "rope", None) and not hasattr(trunk.rope, "feat_shape")):
        return f"{name} with {type(trunk.rope).__name__}, which differs by layer or knows no grid"
    problem = _find_pooling_problem(trunk)
    if problem is not None:
        return f"{name} {problem}"
    for number, block in enumerate(trunk.blocks, start=1):
        problem = _find_block_problem(block)
        if problem is not None:
            return f"{name} whose block {number} has {problem}"
    return None


def _find_pooling_problem(trunk: Any) -> str | None:
    if trunk.global_pool not in _POOLINGS:
        return f"with global_pool {trunk.global_pool!r}"
    pooler = getattr(trunk, "attn_pool", None)
    if pooler is None:
        return None
    problem = find_difference(pooler, _POOLER, _POOLER_OPTIONS)
    if problem is None and (pooler.pos_embed is not None or pooler.latent_len != 1):
        problem = f"{type(pooler).__name__} with positions or several queries"
    return problem and f"whose pooling has {problem}"


def _find_block_problem(block: Any) -> str | None:
    if type(block).__name__ not in _PRE_NORM | _POST_NORM:
        return f"the unknown type {type(block).__name__}"
    problem = find_difference(block, _BLOCK, _BLOCK_OPTIONS)
    if problem is None:
        problem = find_difference(block.attn, _ATTENTION, _ATTENTION_OPTIONS)
    if problem is None and getattr(block.attn, "num_kv_groups", 1) != 1:
        problem = f"{type(block.attn).__name__} with fewer values than queries"
    return problem
