# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What each backbone is and costs, found without its weights."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import open_clip
import torch
from torch.utils.flop_counter import FlopCounterMode

from anomalib_clipad.clip.architectures import (
    inspect_backbone,
    known_backbones,
    look_up,
    meta_tower,
)
from anomalib_clipad.clip.backbone import DEFAULT_BACKBONE


class BackboneFacts(NamedTuple):
    """One line of the catalogue.

    ``pooling`` is "class token", or "other" where the image's embedding stands for it. ``size`` is the native height
    and width in pixels. ``parameters`` are those of the image tower, in millions; ``cost`` is its arithmetic for an
    image of the native size as a multiple of the default backbone's. ``tags`` are the published weights.
    """

    name: str
    family: str
    pooling: str
    width: int
    depth: int
    patch: str
    size: str
    parameters: float
    cost: float
    tags: str


def supported(match: str = "") -> Iterator[BackboneFacts]:
    """Describe the backbones whose names contain ``match``, in any case, in open_clip's order."""
    _, unit = _count(DEFAULT_BACKBONE)
    for name in known_backbones(match):
        info = inspect_backbone(name)
        if isinstance(info, str):
            continue
        parameters, operations = _count(name)
        yield BackboneFacts(
            name,
            info.family,
            "class token" if info.class_token else "other",
            info.width,
            info.depth,
            "x".join(map(str, info.patch_size)),
            "x".join(map(str, info.image_size)),
            round(parameters / 1e6, 1),
            round(operations / unit, 2),
            ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "-",
        )


def refused(match: str = "") -> dict[str, str]:
    """Why each other backbone, of those whose names contain ``match``, is not supported."""
    found = {name: inspect_backbone(name) for name in known_backbones(match)}
    return {name: problem for name, problem in found.items() if isinstance(problem, str)}


def _count(name: str) -> tuple[int, int]:
    """Parameters of an image tower, and floating-point operations for one image of its native size."""
    visual: Any = meta_tower(look_up(name) or {})
    height, width = visual.image_size  # which patches of 14 pixels need not divide
    # With gradients, since PyTorch's faster path without them is one operation that nobody counts.
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        visual(torch.empty(1, 3, height, width, device="meta"))
    return sum(weight.numel() for weight in visual.parameters()), counter.get_total_flops()
