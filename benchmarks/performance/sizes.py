# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""SDP and SDP+ against the bare tower on single images: at the tower's own size, 518 px and 1,024 px."""

from dataclasses import replace

import torch

from benchmarks.performance.setting import Setting
from benchmarks.performance.table import Row
from benchmarks.performance.timing import alternate, ratio

PLACES = (("ViT-B-16-plus-240", None), ("ViT-L-14", 518), ("ViT-B-16-plus-240", 1024))
"""Backbones and sides of what they see: 14 divides 518, 16 divides 1,024."""
SMOKE = (("clipad-tiny", None), ("clipad-tiny", 240))


@torch.inference_mode()
def measure(setting: Setting) -> list[Row]:
    """Time single images; the bare tower is given a position embedding of the image's size."""
    rows = []
    for name, side in SMOKE if setting.smoke else PLACES:
        rows += _rows(replace(setting, backbone_name=name, batch_size=1), side)
    return rows


def _rows(setting: Setting, side: int | None) -> list[Row]:
    image = setting.images(side=side)
    sdp, plus, tower = setting.sdp(), setting.sdp_plus(), setting.tower(side)
    seconds = alternate(
        {"tower": lambda: tower(image), "SDP": lambda: sdp(image), "SDP+": lambda: plus(image)},
        rounds=1 if setting.smoke else setting.rounds if side is None else min(3, setting.rounds),  # takes seconds
    )
    bare = seconds["tower"]
    note = f"tower: {1000 * sorted(bare)[len(bare) // 2]:.0f} ms"
    where = f"{setting.backbone_name}, one image of {image.shape[-1]} px"
    return [
        Row(f"{name} forward ÷ bare image tower, {where}", ratio(seconds[name], bare), note=note)
        for name in ("SDP", "SDP+")
    ]
