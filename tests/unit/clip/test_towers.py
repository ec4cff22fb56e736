# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Each family of towers is walked as it walks itself."""

import copy
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn

from anomalib_clipad.clip.open_clip_tower import OpenClipTower
from anomalib_clipad.clip.surgery import surgery_tokens
from anomalib_clipad.clip.towers import describe_tower
from anomalib_clipad.clip.vision_tower import interpolate_positions, native_size
from towers import DEPTH, SIZE, TOWERS, WIDTH, make_tower


def make_images(height: int = SIZE, width: int = SIZE) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def resize_tower(visual: nn.Module, height: int, width: int) -> nn.Module:
    """A tower of the same weights made for another size by its own library."""
    resized: Any = copy.deepcopy(visual)
    if isinstance(describe_tower(visual), OpenClipTower):
        grid = (height // 8, width // 8)
        state = {"visual.positional_embedding": resized.positional_embedding.data}
        other = type("Model", (), {"visual": type("Visual", (), {"grid_size": grid})})
        if grid[0] == grid[1]:
            open_clip.factory.resize_pos_embed(state, other)
            positions = state["visual.positional_embedding"]
        else:
            positions = interpolate_positions(resized.positional_embedding, resized.grid_size, grid)
        resized.positional_embedding = nn.Parameter(positions)
    else:
        resized.trunk.set_input_size((height, width))
    return resized.requires_grad_(False)


@pytest.mark.parametrize("name", TOWERS)
@pytest.mark.parametrize("size", [(SIZE, SIZE), (48, 48), (40, 24)], ids=str)
def test_original_path_is_the_tower_s_own(name: str, size: tuple[int, int]) -> None:
    visual, image = make_tower(name), make_images(*size)
    result = surgery_tokens(visual, image)
    expected = resize_tower(visual, *size)(image)
    torch.testing.assert_close(result.embeddings[-1][:, 0], expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.01


def values_of(attn: Any, x: Tensor) -> Tensor:
    """Values (B, T, D) of an attention module by its weights alone."""
    if getattr(attn, "v_proj", None) is not None:
        return attn.v_proj(x)
    weight, bias = (
        (attn.in_proj_weight, attn.in_proj_bias)
        if hasattr(attn, "in_proj_weight")
        else (attn.qkv.weight, attn.qkv.bias)
    )
    if bias is None:
        bias = getattr(attn, "v_bias", None)
        return x @ weight[-WIDTH:].T + (0 if bias is None else bias)
    return x @ weight[-WIDTH:].T + bias[-WIDTH:]


def attend_by_head(attn: Any, x: Tensor) -> Tensor:
    """Value-value attention (B, T, D), one head and one image after the other."""
    images = []
    for value in values_of(attn, x):
        heads = value.split(WIDTH // attn.num_heads, dim=-1)
        mixed = [(head @ head.T / head.shape[-1] ** 0.5).softmax(dim=-1) @ head for head in heads]
        images.append(torch.cat(mixed, dim=-1))
    mixed_images = torch.stack(images)
    inner = getattr(attn, "norm", nn.Identity())
    return attn.proj(inner(mixed_images)) if hasattr(attn, "proj") else attn.out_proj(mixed_images)


def after_attention(block: Any, residual: Tensor) -> Tensor:
    if type(block).__name__ == "EvaBlockPostNorm":
        return block.norm1(residual)
    if getattr(block, "gamma_1", None) is not None:
        return block.gamma_1 * residual
    return getattr(block, "ls_1", getattr(block, "ls1", nn.Identity()))(residual)


@pytest.mark.parametrize("name", TOWERS)
def test_surgery_path_is_value_value_attention_by_an_explicit_loop(name: str) -> None:
    visual: Any = make_tower(name)
    blocks = visual.trunk.blocks if hasattr(visual, "trunk") else visual.transformer.resblocks
    inputs: list[Tensor] = []
    for block in blocks:
        block.attn.register_forward_pre_hook(
            lambda _, arguments, named: inputs.append(arguments[0] if arguments else named["query"]), with_kwargs=True
        )
    image = make_images()
    visual(image)
    inputs = [x if len(x) == len(image) else x.transpose(0, 1) for x in inputs]  # as open_clip 2.24 has them
    tower = describe_tower(visual)
    contributions = [
        after_attention(block, attend_by_head(block.attn, x))[:, tower.prefix :]
        for block, x in zip(blocks, inputs, strict=True)
    ]
    result = surgery_tokens(visual, image, stages=2)
    assert result.layers == (2, 4)
    for embeddings, stage in zip(result.embeddings, (contributions[:2], contributions[2:]), strict=True):
        torch.testing.assert_close(embeddings[:, 1:], tower.project(sum(stage)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [name for name in TOWERS if not describe_tower(make_tower(name)).class_token])
def test_a_token_is_embedded_as_a_sequence_of_it_alone_is_pooled(name: str) -> None:
    tower: Any = describe_tower(make_tower(name))
    tokens = torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(2))
    # Average pooling leaves prefix tokens out, so they are put before; attentional pooling reads all.
    averaged = tower.prefix if getattr(tower.visual, "attn_pool", None) is None else 0
    averaged = averaged if getattr(getattr(tower.visual, "trunk", None), "attn_pool", None) is None else 0
    alone = tokens.flatten(0, 1)[:, None]
    expected = tower.pool(torch.cat([alone.new_zeros(len(alone), averaged, WIDTH), alone], dim=1))
    torch.testing.assert_close(tower.project(tokens).flatten(0, 1), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["SigLIP", "CLIPA", "CoCa", "Perception Encoder"])
@pytest.mark.parametrize("taps", ["reference", "block"])
def test_without_a_class_token_the_image_s_embedding_stands_at_every_layer(name: str, taps: Any) -> None:
    visual, image = make_tower(name), make_images()
    result = surgery_tokens(visual, image, [1, 2], taps)
    for embeddings in result.embeddings:
        torch.testing.assert_close(embeddings[:, 0], visual(image), atol=1e-5, rtol=0)
    both, alone = (surgery_tokens(visual, image, taps=taps, paths=paths) for paths in ("both", "surgery"))
    torch.testing.assert_close(both.embeddings, alone.embeddings)
    trained = surgery_tokens(visual, image, taps=taps, paths="original")
    assert all(map(torch.equal, trained.patches, both.patches))
    assert trained.patches[0].shape == (2, 16, WIDTH)


@pytest.mark.parametrize("name", TOWERS)
def test_towers_are_described_and_left_as_they_are(name: str) -> None:
    visual = make_tower(name)
    state, modules = copy.deepcopy(visual.state_dict()), list(visual.modules())
    tower = describe_tower(visual)
    assert (tower.width, tower.depth, tower.patch_size) == (WIDTH, DEPTH, (8, 8))
    assert tower.embed_dim == visual(make_images()).shape[1]
    assert native_size(tower) == (SIZE, SIZE)
    surgery_tokens(visual, make_images(40, 24))
    assert list(visual.modules()) == modules
    torch.testing.assert_close(visual.state_dict(), state, atol=0, rtol=0)
