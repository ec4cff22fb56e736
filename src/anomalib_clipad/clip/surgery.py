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

from anomalib_clipad.clip.towers import describe_tower
from anomalib_clipad.clip.vision_tower import VisionTower

NUM_STAGES = 4

Taps = Literal["reference", "block"]
Paths = Literal["both", "surgery", "original"]


class SurgeryTokens(NamedTuple):
    """What the dual path yields at each tapped layer, ascending; a list that was not asked for is empty.

    ``embeddings`` (B, 1 + N, C) are in the joint embedding space, not normalised: the image's, by the original path,
    and those of its patches, by the surgery path. ``patches`` (B, N, D) are the tokens of the original path. N is the
    product of ``grid``.
    """

    layers: tuple[int, ...]
    embeddings: list[Tensor]
    patches: list[Tensor]
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
    *,
    architecture_surgery: bool = True,
) -> SurgeryTokens:
    """Run the original path and the surgery path of a vision tower side by side.

    Block l adds ``s_l = out_proj(softmax(v v^T / sqrt(d_head)) v)`` to the surgery path, with its own values v. The
    tokens at a tapped layer are the sum of s_l since the start of its stage. Work that no tapped layer needs is not
    done. Nothing is done in place: gradients flow wherever the caller allows them.

    Args:
        visual: Vision tower of an open_clip model: one that :func:`describe_tower` knows. It is not altered.
        image: Normalised images ``(B, 3, H, W)``; H and W need not be equal, nor those the tower was trained with,
            but the patch size must divide them.
        layers: Tapped layers, 1-based, negative ones from the end; ``None`` for the last one of each stage.
        taps: Which tensor stands for the original path at a tapped layer l before the last. ``"block"`` is the output
            z_l of block l. ``"reference"`` is z_l plus the attention residual of block l + 1: the additions of the
            authors' implementation are in place and reach the tensor it has stored, and the paper's results were
            made that way.
        stages: Number of stages; with one the surgery path never restarts.
        paths: What is wanted. Heads train on the patches of the ``"original"`` path; SDP without heads needs the
            embeddings of the ``"surgery"`` path, for which the last block of a tower with class-token pooling computes
            nothing but the class token of the original one.
        architecture_surgery: If False, an ablation, the embeddings of patches are those of the original path.

    Returns:
        What is wanted at the tapped layers.

    Raises:
        UnsupportedTowerError: If the tower is not supported; a TypeError.
        ValueError: If ``layers``, ``taps``, ``stages``, ``paths`` or the image size is invalid.
    """
    tower = describe_tower(visual)
    _check_choice("taps", taps, get_args(Taps))
    _check_choice("paths", paths, get_args(Paths))
    depth, prefix = tower.depth, tower.prefix
    tapped = normalise_layers(layers, depth, stages)
    stage_starts = {1, *(end + 1 for end in stage_ends(depth, stages))}
    embedded = paths != "original"
    contributing = _contributing_layers(tapped, depth, stages) if embedded and architecture_surgery else set()
    patches_wanted = paths != "surgery" or not architecture_surgery
    # The reference's tap needs the attention, and nothing else, of one more block; pooling needs all blocks.
    pooled = embedded and not tower.class_token

    tokens, grid = tower.embed(image)
    blocks = list(tower.blocks(grid))[: None if pooled else tapped[-1] + (taps == "reference")]
    surgery_path: list[Tensor] = []
    original_path: list[Tensor] = []
    stage_sum = tokens.new_zeros(())  # replaced by the first layer of every stage
    for layer, block in enumerate(blocks, start=1):
        query, key, value = block.project(tokens)
        bias = block.bias
        if layer == len(blocks) and not (patches_wanted or pooled):
            # The class token alone; no block follows that reads the patches.
            query, tokens, bias = query[:, :, :1], tokens[:, :1], None if bias is None else bias[:, :, :1]
        tokens = tokens + block.attend(query, key, value, bias)
        if taps == "reference" and layer - 1 in tapped:
            original_path.append(_kept(tokens, patches=patches_wanted))
        if layer > tapped[-1] and not pooled:
            break
        if layer in contributing:
            # Patches attend to the class token too, but only they are queries: it is that of the original path.
            contribution = block.attend(value[:, :, prefix:], value, value)
            stage_sum = contribution if layer in stage_starts else stage_sum + contribution
            surgery_path += [stage_sum] if layer in tapped else []
        tokens = tokens + block.feed_forward(tokens)
        if layer in tapped and (taps == "block" or layer == depth):
            original_path.append(_kept(tokens, patches=patches_wanted))

    patches = [tapped_tokens[:, prefix:] for tapped_tokens in original_path]
    embeddings: list[Tensor] = []
    if embedded:
        images = [tower.pool(tokens)[:, None]] * len(tapped) if pooled else _class_tokens(tower, original_path)
        pairs = zip(images, surgery_path if architecture_surgery else patches, strict=True)
        embeddings = [torch.cat([whole, tower.project(parts)], dim=1) for whole, parts in pairs]
    return SurgeryTokens(tapped, embeddings, patches if paths != "surgery" else [], grid)


def _kept(tokens: Tensor, *, patches: bool) -> Tensor:
    """What is kept of a tapped layer: all tokens, or a copy of the first one, which lets go of the others."""
    return tokens if patches else tokens[:, :1].clone()


def _class_tokens(tower: VisionTower, layers: list[Tensor]) -> list[Tensor]:
    return [tower.project(tokens[:, :1]) for tokens in layers]


def _check_choice(name: str, given: str, valid: Sequence[str]) -> None:
    if given not in valid:
        msg = f"Expected {name} to be one of {', '.join(valid)}, but got {given!r}."
        raise ValueError(msg)


def _contributing_layers(tapped: Sequence[int], depth: int, stages: int) -> set[int]:
    """Layers whose values reach a tapped layer: from the start of its stage up to itself."""
    ends = (0, *stage_ends(depth, stages))
    return {layer for tap in tapped for layer in range(max(end for end in ends if end < tap) + 1, tap + 1)}
