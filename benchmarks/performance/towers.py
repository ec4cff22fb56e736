# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""SDP against the bare tower where the image is pooled over its tokens: no block may leave the patches out."""

from dataclasses import replace

import torch

from benchmarks.performance.setting import Setting
from benchmarks.performance.table import Row
from benchmarks.performance.timing import alternate, ratio

NAMES = ("ViT-B-16-SigLIP2", "PE-Core-B-16")


@torch.inference_mode()
def measure(setting: Setting) -> list[Row]:
    """Time SDP against the tower of each."""
    rows = []
    for name in NAMES[: 1 if setting.smoke else None]:
        other = replace(setting, backbone_name=name)
        clip, image, sdp = other.backbone, other.images(), other.sdp()
        seconds = alternate(
            {"tower": lambda: clip.model.encode_image(image), "SDP": lambda: sdp(image)},  # noqa: B023, called below
            rounds=1 if setting.smoke else 2 * setting.rounds,
        )
        note = "its pooling head embeds every tapped token"
        rows.append(
            Row(f"SDP forward ÷ bare image tower, {name}", ratio(seconds["SDP"], seconds["tower"]), 1.2, note=note)
        )
    return rows
