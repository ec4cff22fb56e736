# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Recognition of vision towers: which adapter describes one, or why there is none."""

from torch import nn

from anomalib_clipad.clip import open_clip_tower, timm_tower
from anomalib_clipad.clip.vision_tower import UnsupportedTowerError, VisionTower

SUPPORTED_TOWERS = (
    "a ViT of open_clip or timm with standard attention blocks, such as those of ViT-B-16-plus-240, ViT-L-14-336, "
    "EVA02-L-14, PE-Core-L-14-336 and ViT-B-16-SigLIP2"
)


def describe_tower(visual: nn.Module) -> VisionTower:
    """Return a description of a vision tower, for which the surgery path is defined.

    Raises:
        UnsupportedTowerError: If it is not, naming the part that is unknown; a TypeError.
    """
    of_timm = hasattr(visual, "trunk")
    problem = timm_tower.find_problem(visual) if of_timm else open_clip_tower.find_problem(visual)
    if problem is not None:
        msg = f"Expected visual to be {SUPPORTED_TOWERS}, but got a {problem}."
        raise UnsupportedTowerError(msg)
    return timm_tower.TimmTower(visual) if of_timm else open_clip_tower.OpenClipTower(visual)
