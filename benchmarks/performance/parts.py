# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Where the time of SDP+ goes: each of its parts by itself, in turn with the bare image tower."""

import torch
from torch.nn import functional

from anomalib_clipad.clip.surgery import surgery_tokens
from benchmarks.performance.setting import Setting
from benchmarks.performance.table import Row
from benchmarks.performance.timing import alternate, ratio


@torch.inference_mode()
def measure(setting: Setting) -> list[Row]:
    """Time the parts on tokens of noise, as many as a batch of images has."""
    clip, image, plus = setting.backbone, setting.images(), setting.sdp_plus()
    tower, visual = clip.tower, setting.tower()
    tokens, grid = tower.embed(image)
    patches = [tokens[:, tower.prefix :]] * len(plus.layers)
    blocks = tower.blocks(grid)
    _, _, value = blocks[0].project(tokens)
    query = value[:, :, tower.prefix :]
    parts = {
        "the original path as SDP+ walks it": lambda: surgery_tokens(visual, image, plus.layers, paths="original"),
        "attention of values to values": lambda: [
            functional.scaled_dot_product_attention(query, value, value) for _ in blocks
        ],
        "attention of values to values, with its output projections": lambda: [
            block.attend(query, value, value) for block in blocks
        ],
        "four heads": lambda: plus.heads(patches),
        "four layers into the joint space": lambda: [tower.project(layer) for layer in patches],
    }
    seconds = alternate({"tower": lambda: visual(image), **parts}, 1 if setting.smoke else 2 * setting.rounds)
    return [Row(f"{name} ÷ bare image tower", ratio(seconds[name], seconds["tower"])) for name in parts]
