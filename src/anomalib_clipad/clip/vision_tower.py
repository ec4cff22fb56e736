# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What the package needs to know about an open_clip vision tower: its layout, and how an image enters and leaves it.

Towers are recognised by their parts, not by their class, so this module does not import open_clip and works on any
object built like open_clip's ``VisionTransformer``.
"""

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

SUPPORTED_TOWERS = (
    "an open_clip VisionTransformer with a class token, class-token pooling and standard attention blocks, "
    "such as those of ViT-B-16, ViT-B-16-plus-240, ViT-L-14, ViT-L-14-336 and ViT-H-14"
)


class Attention(Protocol):
    """Parts of an attention with one packed projection: ``nn.MultiheadAttention``, and a class of open_clip's own."""

    in_proj_weight: Tensor  # (3 D, D)
    out_proj: nn.Module
    num_heads: int
    in_proj_bias: Tensor | None = None  # (3 D,)


class Block(Protocol):
    """Parts of a residual attention block."""

    ln_1: nn.Module
    attn: Attention
    ls_1: nn.Module
    ln_2: nn.Module
    mlp: nn.Module
    ls_2: nn.Module


class Transformer(Protocol):
    """Stack of blocks."""

    resblocks: Sequence[Block]


class VisionTower(Protocol):
    """Parts of a vision tower with a class token; D is its width, C the dimension of the joint embedding space."""

    conv1: nn.Conv2d
    grid_size: tuple[int, int]
    class_embedding: Tensor  # (D,)
    positional_embedding: Tensor  # (1 + N, D), of the native grid
    ln_pre: nn.Module
    transformer: Transformer
    ln_post: nn.Module
    proj: Tensor  # (D, C)


def check_tower(visual: nn.Module) -> VisionTower:
    """Return a vision tower if the surgery path is defined for it, else TypeError.

    It is a ViT with a class token, class-token pooling and standard attention.
    """
    problem = _find_problem(visual)
    if problem is not None:
        msg = f"Expected visual to be {SUPPORTED_TOWERS}, but got a {type(visual).__name__} {problem}."
        raise TypeError(msg)
    return cast("VisionTower", visual)


def _find_problem(visual: nn.Module) -> str | None:
    """Say what is unsupported about a vision tower, or return ``None``."""
    missing = [part for part in VisionTower.__annotations__ if getattr(visual, part, None) is None]
    if missing:
        return f"without {', '.join(missing)}"
    if getattr(visual, "attn_pool", None) is not None:
        return "with attentional pooling"
    # Only open_clip versions with a choice of pooling have the attribute.
    pool_type = getattr(visual, "pool_type", "tok")
    if pool_type != "tok":
        return f"with pool_type {pool_type!r}"
    for number, block in enumerate(cast("Any", visual).transformer.resblocks, start=1):
        problem = _find_difference(block, Block) or _find_difference(block.attn, Attention)
        if problem is not None:
            return f"whose block {number} has {problem}"
    return None


def _find_difference(module: nn.Module, parts: type) -> str | None:
    """Name the parts that are missing from a module, or that it has besides, of which the surgery knows nothing.

    Query and key norms, scaled cosines, scales of heads and gates all have weights, or a layer, of their own.
    """
    known = parts.__annotations__
    missing = [name for name in known if not hasattr(parts, name) and getattr(module, name, None) is None]
    if missing:
        return f"{type(module).__name__} without {', '.join(missing)}"
    layers = [name for name, layer in module.named_children() if not isinstance(layer, nn.Identity | nn.Dropout)]
    weights = [name for name, _ in module.named_parameters(recurse=False)]
    options = [name for name in ("add_zero_attn",) if getattr(module, name, False)]
    added = [name for name in (*layers, *weights, *options) if name not in known]
    return f"{type(module).__name__} with {', '.join(added)}" if added else None


def patch_grid(visual: VisionTower, image_size: tuple[int, int]) -> tuple[int, int]:
    """Count the patches along the height and the width of an image; ValueError if the patch size does not divide it."""
    height, width = image_size
    patch_height, patch_width = (int(side) for side in visual.conv1.kernel_size)
    if height < patch_height or width < patch_width or height % patch_height or width % patch_width:
        nearest = tuple(
            max(1, round(side / patch)) * patch
            for side, patch in zip(image_size, (patch_height, patch_width), strict=True)
        )
        msg = (
            f"Expected image_size to be a multiple of the patch size {patch_height}x{patch_width}, "
            f"but got {height}x{width}. The nearest valid size is {nearest[0]}x{nearest[1]}."
        )
        raise ValueError(msg)
    return height // patch_height, width // patch_width


def interpolate_positions(positions: Tensor, native: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Resize learnt position embeddings to another patch grid, as open_clip does when it loads weights.

    Those of the native grid ``(h, w)`` have the shape ``(1 + h * w, D)``, class token first; the wanted ones
    ``(1 + N, D)``. Where the grids are equal the input itself is returned.
    """
    if tuple(native) == tuple(grid):
        return positions
    spatial = positions[1:].unflatten(0, native).permute(2, 0, 1).unsqueeze(0)  # (1, D, h, w)
    spatial = functional.interpolate(spatial.float(), size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([positions[:1], spatial[0].flatten(1).T.to(positions.dtype)])


def embed_image(visual: VisionTower, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Turn normalised images ``(B, 3, H, W)`` into tokens ``(B, 1 + N, D)`` for the first block, and their grid.

    Patch dropout, a training regulariser, is left out: an anomaly map needs every patch.
    """
    grid = patch_grid(visual, (image.shape[-2], image.shape[-1]))
    patches = visual.conv1(image.to(visual.conv1.weight.dtype)).flatten(2).transpose(1, 2)  # (B, N, D)
    class_token = visual.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
    positions = interpolate_positions(visual.positional_embedding, visual.grid_size, grid)
    return visual.ln_pre(torch.cat([class_token, patches], dim=1) + positions.to(patches.dtype)), grid


def project_tokens(visual: VisionTower, tokens: Tensor) -> Tensor:
    """Map tokens ``(B, 1 + N, D)`` into the joint embedding space, ``(B, 1 + N, C)``; not normalised."""
    return visual.ln_post(tokens) @ visual.proj
