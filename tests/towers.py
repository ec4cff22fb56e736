# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Small vision towers with random weights, one of each family and kind of pooling."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import open_clip
import torch
from open_clip import CLIP
from open_clip.timm_model import TimmModel
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem, HybridEmbed
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import nn

SIZE, WIDTH, EMBED_DIM, DEPTH = 32, 32, 16, 4
_TRUNK = {"img_size": SIZE, "patch_size": 8, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": 2}
_TEXT = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}


def open_clip_tower(**options: Any) -> nn.Module:
    """Tower of open_clip."""
    vision = {"image_size": SIZE, "patch_size": 8, "width": WIDTH, "layers": DEPTH, "head_width": 16, **options}
    return CLIP(EMBED_DIM, vision, _TEXT).visual


def timm_tower(kind: Callable[..., nn.Module], pool: str, *, proj: str | None = None, **options: Any) -> nn.Module:
    """Tower of timm: a trunk of some kind, in what open_clip puts it."""
    with torch.device("meta"):
        visual = TimmModel("vit_tiny_patch16_224", EMBED_DIM, pool="token", proj="linear")
    visual.trunk = kind(**{**_TRUNK, **options}, global_pool=pool, num_classes=0 if proj else EMBED_DIM)
    visual.head = nn.Sequential(nn.Linear(WIDTH, EMBED_DIM, bias=False)) if proj == "linear" else nn.Sequential()
    return visual


def _hybrid(**options: Any) -> VisionTransformer:
    stem = ConvStem(depth=2, channels=(WIDTH // 4, WIDTH), stride=(4, 2), kernel_size=(4, 2), padding=0)
    return VisionTransformer(
        **{**options, "patch_size": 1}, embed_layer=partial(HybridEmbed, backbone=stem, proj=False)
    )


TOWERS: dict[str, Callable[[], nn.Module]] = {
    "class token": open_clip_tower,
    "CLIPA": lambda: open_clip_tower(pool_type="avg", no_ln_pre=True, final_ln_after_pool=True),
    "average": lambda: open_clip_tower(pool_type="avg"),
    "CoCa": lambda: open_clip_tower(attentional_pool=True, attn_pooler_heads=2, attn_pooler_queries=4),
    "LayerScale": lambda: open_clip_tower(ls_init_value=0.1),
    "SigLIP": lambda: timm_tower(VisionTransformer, "map", proj="none", class_token=False),
    "timm average": lambda: timm_tower(
        VisionTransformer, "avg", proj="linear", class_token=False, fc_norm=False, qkv_bias=False
    ),
    "timm CLIP": lambda: timm_tower(VisionTransformer, "token", pre_norm=True, init_values=0.1, qk_norm=True),
    "timm registers": lambda: timm_tower(VisionTransformer, "token", reg_tokens=2, no_embed_class=True),
    "MobileCLIP": lambda: timm_tower(_hybrid, "token", no_embed_class=True),
    "relative positions": lambda: timm_tower(
        VisionTransformerRelPos, "token", proj="linear", class_token=True, fc_norm=False, rel_pos_dim=8
    ),
    "EVA-01": lambda: timm_tower(Eva, "token"),
    "EVA-02": lambda: timm_tower(
        Eva,
        "token",
        qkv_fused=False,
        swiglu_mlp=True,
        scale_mlp=True,
        scale_attn_inner=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(2, 2),
    ),
    "EVA-02 post-norm": lambda: timm_tower(Eva, "token", use_post_norm=True),
    "Eva LayerScale": lambda: timm_tower(Eva, "avg", init_values=0.1, num_reg_tokens=1),
    "Perception Encoder": lambda: timm_tower(
        Eva,
        "map",
        attn_type="rope",
        use_pre_transformer_norm=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(4, 4),
        rope_grid_offset=1.0,
        rope_grid_indexing="xy",
        attn_pool_num_heads=2,
        attn_pool_mlp_ratio=2.0,
        class_token=False,
    ),
    "Perception Encoder, class token": lambda: timm_tower(
        Eva, "map", attn_type="rope", use_rot_pos_emb=True, attn_pool_num_heads=2, attn_pool_mlp_ratio=2.0
    ),
}
"""Constructors by what is particular about each."""


def make_tower(name: str, seed: int = 0) -> nn.Module:
    """One of ``TOWERS`` in evaluation mode, with random weights of which none is zero or one for all."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = TOWERS[name]()
        for weight in tower.parameters():
            if weight.unique().numel() <= 2 or weight.std() < 0.05:
                weight.data.add_(0.1 * torch.randn_like(weight))
    return tower.requires_grad_(False).eval()


REFUSED = {
    r"RN\d+": "a ResNet image tower",
    "convnext": "a ConvNeXt without patch_embed, blocks, norm, fc_norm",
    "swin": "a SwinTransformer without blocks, fc_norm",
    "ViTamin": "a VisionTransformer with MbConvStages before its blocks: a hybrid",
    r"MobileCLIP2?-S": "a FastVit without patch_embed, blocks, norm, fc_norm",
}
"""What the names of those begin with that have no staged ViT to operate on."""


SIZES = ("image_size", "patch_size", "layers", "width", "head_width", "mlp_ratio")
SIZE_WORDS = (
    "tiny",
    "small",
    "medium",
    "base",
    "large",
    "giant",
    "giantopt",
    "gigantic",
    "enormous",
    "so",
    "m",
    "patch",
)


def supported_architectures() -> list[str]:
    """The names that open_clip lists of all others."""
    return [name for name in open_clip.list_models() if not any(re.match(pattern, name) for pattern in REFUSED)]


def kind_of(name: str) -> tuple[str, ...]:
    """What is particular about the tower of an architecture, other than its sizes."""
    config = open_clip.get_model_config(name)
    vision = {key: value for key, value in config["vision_cfg"].items() if key not in SIZES}
    family = vision.pop("timm_model_name", "")
    words = [word for word in re.split(r"_|\d+", family) if word and word not in SIZE_WORDS]
    return (*words, *(f"{key}={value}" for key, value in sorted(vision.items())), str(config.get("quick_gelu", False)))


def one_of_each_kind() -> list[str]:
    """For each kind the smallest architecture that is of it."""
    smallest: dict[tuple[str, ...], str] = {}
    for name in sorted(supported_architectures(), key=lambda name: open_clip.get_model_config(name)["embed_dim"]):
        smallest.setdefault(kind_of(name), name)
    return list(smallest.values())
