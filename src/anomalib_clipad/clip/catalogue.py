# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What each backbone is and costs, found without its weights."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import open_clip
import torch
from torch.utils.flop_counter import FlopCounterMode

from anomalib_clipad.clip import embedded
from anomalib_clipad.clip.architectures import find_config, find_problem, meta_tower
from anomalib_clipad.clip.backbone import DEFAULT_BACKBONE
from anomalib_clipad.clip.towers import describe_tower
from anomalib_clipad.clip.vision_tower import native_size


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
    """Describe the backbones whose names contain ``match``, in any case, in the order of ``list_backbones``."""
    unit = _flops(DEFAULT_BACKBONE)
    for name in _known(match):
        if find_problem(name) is None:
            visual = meta_tower(find_config(name))
            tower = describe_tower(visual)
            yield BackboneFacts(
                name,
                tower.family,
                "class token" if tower.class_token else "other",
                tower.width,
                tower.depth,
                "x".join(map(str, tower.patch_size)),
                "x".join(map(str, native_size(tower))),
                round(sum(weight.numel() for weight in visual.parameters()) / 1e6, 1),
                round(_flops(name) / unit, 2),
                ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "-",
            )


def refused(match: str = "") -> dict[str, str]:
    """Why each other backbone, of those whose names contain ``match``, is not supported."""
    problems = {name: find_problem(name) for name in _known(match)}
    return {name: problem for name, problem in problems.items() if problem is not None}


def _known(match: str) -> Iterable[str]:
    names = (*embedded.NAMES, *(name for name in open_clip.list_models() if name not in embedded.NAMES))
    return (name for name in names if match.lower() in name.lower())


def _flops(name: str) -> int:
    """Floating-point operations of an image tower for one image of its native size."""
    visual = meta_tower(find_config(name))
    height, width = native_size(describe_tower(visual))
    # With gradients, since PyTorch's faster path without them is one operation that nobody counts.
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        visual(torch.empty(1, 3, height, width, device="meta"))
    return counter.get_total_flops()
