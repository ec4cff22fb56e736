# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Architecture surgery of CLIP-AD: value-value attention beside the unmodified vision tower, restarted at each stage.

https://arxiv.org/abs/2311.00453, section on the staged dual path. The tower's blocks are walked part by part, which
costs less than observing them with hooks (the projection of the values is shared by both paths) and leaves the model
that is handed in untouched.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from anomalib_clipad.clip.vision_tower import Block, check_tower, embed_image, project_tokens

NUM_STAGES = 4

Taps = Literal["reference", "block"]
Paths = Literal["both", "surgery", "original"]


class SurgeryTokens(NamedTuple):
    """What the dual path yields at each tapped layer, ascending; the list of a path left out is empty.

    ``surgery`` holds tokens of the surgery path in the joint embedding space, not normalised, ``(B, 1 + N, C)``, with
    the class token of the original path; ``original`` those of the original path, ``(B, 1 + N, D)``. N is the product
    of ``grid``.
    """

    layers: tuple[int, ...]
    surgery: list[Tensor]
    original: list[Tensor]
    grid: tuple[int, int]


def stage_ends(depth: int, stages: int = NUM_STAGES) -> tuple[int, ...]:
    """Last layer of each stage of a tower of ``depth`` blocks, ascending from 1; their lengths differ by 1 at most."""
    if not 1 <= stages <= depth:
        msg = f"Expected stages to be between 1 and the depth of the tower ({depth}), but got {stages}."
        raise ValueError(msg)
    return tuple(depth * stage // stages for stage in range(1, stages + 1))


def normalise_layers(layers: Sequence[int] | None, depth: int, stages: int = NUM_STAGES) -> tuple[int, ...]:
    """Turn the layers a user asks for into ascending numbers between 1 and ``depth``, else ValueError.

    Negative ones count from the end. ``None`` stands for the last layer of every stage, as in the paper.
    """
    if layers is None:
        return stage_ends(depth, stages)
    given = list(layers)
    valid = f"Valid layers are 1 to {depth}, or -{depth} to -1 counted from the end."
    for layer in given:
        if isinstance(layer, bool) or not isinstance(layer, int) or not 1 <= abs(layer) <= depth:
            msg = f"Expected layers to be numbers of blocks of a tower of depth {depth}, but got {layer!r}. {valid}"
            raise ValueError(msg)
    normalised = sorted(layer if layer > 0 else depth + 1 + layer for layer in given)
    if not normalised or len(set(normalised)) < len(normalised):
        msg = f"Expected layers to name at least one layer and none twice, but got {given}. {valid}"
        raise ValueError(msg)
    return tuple(normalised)


def surgery_tokens(
    visual: nn.Module,
    image: Tensor,
    layers: Sequence[int] | None = None,
    taps: Taps = "reference",
    stages: int = NUM_STAGES,
    paths: Paths = "both",
) -> SurgeryTokens:
    """Run the original path and the surgery path of a vision tower side by side.

    Block l adds ``s_l = out_proj(softmax(v v^T / sqrt(d_head)) v)`` to the surgery path, with its own values v. The
    tokens at a tapped layer are the sum of s_l since the start of its stage. Work that no tapped layer needs is not
    done. Nothing is done in place: gradients flow wherever the caller allows them.

    Args:
        visual: open_clip ``VisionTransformer``. It is not altered.
        image: Normalised images ``(B, 3, H, W)``; H and W need not be equal, nor those the tower was trained with,
            but the patch size must divide them.
        layers: Tapped layers, 1-based, negative ones from the end; ``None`` for the last one of each stage.
        taps: Which tensor stands for the original path at a tapped layer l before the last. ``"block"`` is the output
            z_l of block l. ``"reference"`` is z_l plus the attention residual of block l + 1: the additions of the
            authors' implementation are in place and reach the tensor it has stored, and the paper's results were
            made that way.
        stages: Number of stages; with one the surgery path never restarts.
        paths: Which tokens are wanted. Heads train on the ``"original"`` ones; SDP without heads needs those of the
            ``"surgery"`` path, for which the last block computes nothing but the class token of the original one.

    Returns:
        Tokens of the wanted paths at the tapped layers.

    Raises:
        TypeError: If the tower is not supported.
        ValueError: If ``layers``, ``taps``, ``stages``, ``paths`` or the image size is invalid.
    """
    tower = check_tower(visual)
    _check_choice("taps", taps, get_args(Taps))
    _check_choice("paths", paths, get_args(Paths))
    depth = len(tower.transformer.resblocks)
    tapped = normalise_layers(layers, depth, stages)
    stage_starts = {1, *(end + 1 for end in stage_ends(depth, stages))}
    contributing = set() if paths == "original" else _contributing_layers(tapped, depth, stages)
    # The reference's tap needs the attention, and nothing else, of one more block.
    blocks = list(tower.transformer.resblocks)[: tapped[-1] + (taps == "reference")]

    tokens, grid = embed_image(tower, image)
    surgery_path: list[Tensor] = []
    original_path: list[Tensor] = []
    stage_sum = tokens.new_zeros(())  # replaced by the first layer of every stage
    for layer, block in enumerate(blocks, start=1):
        query, key, value = _project(block, tokens)
        if paths == "surgery" and layer == len(blocks):
            query, tokens = query[:, :, :1], tokens[:, :1]  # the class token; no block follows that reads the patches
        tokens = tokens + _attend(block, query, key, value)
        if taps == "reference" and layer - 1 in tapped:
            original_path.append(_tapped(tokens, paths))
        if layer > tapped[-1]:
            break
        if layer in contributing:
            # Patches attend to the class token, but its own row is replaced below, so only patches are queries.
            contribution = _attend(block, value[:, :, 1:], value, value)
            stage_sum = contribution if layer in stage_starts else stage_sum + contribution
        tokens = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
        if layer in tapped:
            if layer in contributing:
                surgery_path.append(stage_sum)
            if taps == "block" or layer == depth:
                original_path.append(_tapped(tokens, paths))

    embeddings = [
        project_tokens(tower, torch.cat([original[:, :1], patches], dim=1))
        for original, patches in zip(original_path, surgery_path, strict=paths != "original")
    ]
    return SurgeryTokens(tapped, embeddings, [] if paths == "surgery" else original_path, grid)


def _tapped(tokens: Tensor, paths: Paths) -> Tensor:
    """What is kept of a tapped layer: all tokens, or a copy of the class token, which lets go of the others."""
    return tokens[:, :1].clone() if paths == "surgery" else tokens


def _check_choice(name: str, given: str, valid: Sequence[str]) -> None:
    if given not in valid:
        msg = f"Expected {name} to be one of {', '.join(valid)}, but got {given!r}."
        raise ValueError(msg)


def _contributing_layers(tapped: Sequence[int], depth: int, stages: int) -> set[int]:
    """Layers whose values reach a tapped layer: from the start of its stage up to itself."""
    ends = (0, *stage_ends(depth, stages))
    return {layer for tap in tapped for layer in range(max(end for end in ends if end < tap) + 1, tap + 1)}


def _project(block: Block, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute queries, keys and values of a block's input ``(B, 1 + N, D)``, each ``(B, heads, 1 + N, D / heads)``."""
    attn = block.attn
    packed = functional.linear(block.ln_1(tokens), attn.in_proj_weight, attn.in_proj_bias)
    query, key, value = packed.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return query, key, value


def _attend(block: Block, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute the attention residual of a block for queries ``(B, heads, M, D / heads)``, of shape ``(B, M, D)``."""
    mixed = functional.scaled_dot_product_attention(query, key, value)
    return block.ls_1(block.attn.out_proj(mixed.transpose(1, 2).flatten(2)))
