# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Layout of vision towers: other image sizes against open_clip's own loader, and what is refused."""

import copy

import open_clip
import pytest
import torch
from open_clip.model import resize_pos_embed
from torch import nn

from anomalib_clipad.clip.surgery import surgery_tokens
from anomalib_clipad.clip.towers import describe_tower
from anomalib_clipad.clip.vision_tower import interpolate_positions, patch_grid


@pytest.mark.parametrize("size", [(64, 64), (24, 56), (48, 16), (8, 8)])
def test_other_image_sizes_match_a_model_that_open_clip_resized(make_tiny_clip, tiny_clip, size):
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
    resized = make_tiny_clip(image_size=size)
    weights = dict(tiny_clip.state_dict())
    resize_pos_embed(weights, resized)
    resized.load_state_dict(weights)

    result = surgery_tokens(tiny_clip.visual, image)
    expected = surgery_tokens(resized.visual, image)

    assert result.grid == (size[0] // 8, size[1] // 8)
    torch.testing.assert_close(result.embeddings, expected.embeddings, atol=1e-5, rtol=0)
    torch.testing.assert_close(result.embeddings[-1][:, 0], resized.encode_image(image), atol=1e-5, rtol=0)


def test_native_size_of_a_tower_that_is_not_square(make_tiny_clip):
    model = make_tiny_clip(image_size=(16, 40))
    image = torch.randn(1, 3, 16, 40)

    result = surgery_tokens(model.visual, image)

    assert result.grid == (2, 5)
    torch.testing.assert_close(result.embeddings[-1][:, 0], model.encode_image(image), atol=1e-5, rtol=0)


def test_positions_of_the_native_grid_are_not_touched():
    positions = torch.randn(1 + 6, 4)
    assert interpolate_positions(positions, (2, 3), (2, 3)) is positions
    assert not torch.equal(interpolate_positions(positions, (2, 3), (3, 2)), positions)


def test_every_patch_is_kept_in_training(make_tiny_clip, tiny_images):
    visual = make_tiny_clip(patch_dropout=0.5).visual.train()
    tokens, _ = describe_tower(visual).embed(tiny_images)
    assert tokens.shape == (2, 17, 32)


@pytest.mark.parametrize(("size", "nearest"), [((30, 32), "32x32"), ((32, 41), "32x40"), ((4, 32), "8x32")])
def test_patch_size_must_divide_the_image(size, nearest):
    expected = (
        f"Expected image_size to be a multiple of the patch size 8x8, but got {size[0]}x{size[1]}. "
        f"The nearest valid size is {nearest}."
    )
    with pytest.raises(ValueError, match=expected):
        patch_grid((8, 8), size)


class Attention(nn.Module):
    """What open_clip's own class of that name is made of, its options switched off, from version 4 on."""

    def __init__(self, like: nn.MultiheadAttention) -> None:
        super().__init__()
        self.in_proj_weight, self.in_proj_bias = like.in_proj_weight, like.in_proj_bias
        self.q_proj_weight = self.k_proj_weight = self.v_proj_weight = None
        self.num_heads, self.head_dim = like.num_heads, like.head_dim
        self.scaled_cosine, self.logit_scale = False, None
        self.scale_heads, self.head_scale = False, None
        self.ln_q, self.ln_k, self.ln_inner = nn.Identity(), nn.Identity(), nn.Identity()
        self.attn_drop, self.out_drop = nn.Dropout(0.0), nn.Dropout(0.0)
        self.out_proj = nn.Linear(*like.out_proj.weight.shape)
        self.out_proj.load_state_dict(like.out_proj.state_dict())


def with_own_attention(clip: open_clip.CLIP) -> nn.Module:
    visual = copy.deepcopy(clip.visual)
    for block in visual.transformer.resblocks:
        block.attn = Attention(block.attn)
    return visual


def test_open_clips_own_attention_gives_the_same_tokens(tiny_clip, tiny_images):
    expected = surgery_tokens(tiny_clip.visual, tiny_images)

    result = surgery_tokens(with_own_attention(tiny_clip), tiny_images)

    assert all(map(torch.equal, result.embeddings + result.patches, expected.embeddings + expected.patches))


@pytest.mark.parametrize(
    ("part", "layer"),
    [
        ("ln_q", nn.LayerNorm(16)),
        ("ln_k", nn.RMSNorm(16, elementwise_affine=False)),
        ("ln_inner", nn.LayerNorm(32)),
        ("logit_scale", nn.Parameter(torch.ones(2, 1, 1))),
        ("head_scale", nn.Parameter(torch.ones(2, 1, 1))),
        ("gate", nn.Linear(32, 32)),
        ("add_zero_attn", True),
    ],
)
def test_attention_that_does_more_is_refused_by_name(tiny_clip, tiny_images, part, layer):
    visual = with_own_attention(tiny_clip)
    setattr(visual.transformer.resblocks[2].attn, part, layer)
    with pytest.raises(TypeError, match=f"VisionTransformer whose block 3 has Attention with {part}"):
        surgery_tokens(visual, tiny_images)


def test_blocks_that_do_more_are_refused_by_name(tiny_clip, tiny_images):
    visual = copy.deepcopy(tiny_clip.visual)
    visual.transformer.resblocks[0].ln_attn = nn.LayerNorm(32)
    with pytest.raises(TypeError, match="whose block 1 has ResidualAttentionBlock with ln_attn"):
        surgery_tokens(visual, tiny_images)


def make_unsupported(kind: str, make_tiny_clip) -> nn.Module:
    if kind == "ResNet":
        config = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}
        return open_clip.CLIP(16, config, {"width": 16, "heads": 2, "layers": 1, "vocab_size": 8}).visual
    if kind == "no pooling":
        return make_tiny_clip(pool_type="none").visual
    if kind == "two poolings":
        return make_tiny_clip(attentional_pool="parallel").visual
    visual = make_tiny_clip().visual
    if kind == "no class token":
        visual.class_embedding = None
    if kind == "no projection":
        visual.proj = None
    if kind == "other attention":
        visual.transformer.resblocks[2].attn = nn.MultiheadAttention(32, 2, kdim=16)
    if kind == "other block":
        del visual.transformer.resblocks[1].mlp
    return visual


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("ResNet", "ModifiedResNet without grid_size, class_embedding"),
        ("no pooling", "VisionTransformer with pool_type 'none'"),
        ("two poolings", "VisionTransformer with attn_pool_contrastive"),
        ("no class token", "VisionTransformer without class_embedding"),
        ("no projection", "VisionTransformer without proj"),
        ("other attention", "whose block 3 has MultiheadAttention without in_proj_weight"),
        ("other block", "whose block 2 has ResidualAttentionBlock without mlp"),
    ],
)
def test_unsupported_towers_are_refused(make_tiny_clip, kind, problem):
    visual = make_unsupported(kind, make_tiny_clip)
    with pytest.raises(TypeError, match=f"Expected visual to be a ViT of open_clip or timm.*ViT-B-16.*{problem}"):
        surgery_tokens(visual, torch.zeros(1, 3, 32, 32))
