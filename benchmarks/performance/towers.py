# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""SDP against the bare tower where the image is pooled over its tokens: no block may leave the patches out."""

from dataclasses import replace

import torch

from benchmarks.performance.setting import Setting
from benchmarks.performance.table import Row
from benchmarks.performance.timing import alternate, ratio

NAMES = ("ViT-B-16-SigLIP2", "PE-Core-B-16")


def measure(setting: Setting) -> list[Row]:
    """Time SDP against the tower of each."""
    note = "its pooling head embeds every patch of every tapped layer"
    names = NAMES[:1] if setting.smoke else NAMES
    return [
        Row(f"SDP forward ÷ bare image tower, {name}", _slowdown(replace(setting, backbone_name=name)), 1.2, note=note)
        for name in names
    ]


@torch.inference_mode()
def _slowdown(setting: Setting) -> float:
    clip, image, sdp = setting.backbone, setting.images(), setting.sdp()
    seconds = alternate(
        {"tower": lambda: clip.model.encode_image(image), "SDP": lambda: sdp(image)},
        rounds=1 if setting.smoke else 2 * setting.rounds,
    )
    return ratio(seconds["SDP"], seconds["tower"])
