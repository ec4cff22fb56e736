# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What the heads of SDP+ are trained with: focal and Dice loss of each tapped layer's own map, in float32.

Both start from logits, not from probabilities, which would round to 0 and 1. Neither comes from a library.
``torchvision.ops.sigmoid_focal_loss`` has not the smoothing below: on the reference's own example the losses agree to
2e-3, but after three steps of Adam a few weights, whose gradients are near zero, differ by more than twice the learning
rate. ``kornia.losses.dice_loss`` has no smoothing in the numerator, without which an image without defects teaches
nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_FOCAL_GAMMA = 2
# The reference clamps targets to [s, 1 - s] and adds s to the probability p_t of the true class, with s = 1e-5. For
# binary targets both together are 1 - p_t -> (1 - 2 s)(1 - p_t): a pixel costs no more than -log(2 s) = 10.8.
_FOCAL_SMOOTH = 1e-5
_DICE_SMOOTH = 1.0


class SegmentationLoss(NamedTuple):
    """Focal and Dice losses (L,), one of each tapped layer."""

    focal: Tensor
    dice: Tensor

    @property
    def total(self) -> Tensor:
        """What is minimised: the sum of all parts, a scalar."""
        return (self.focal + self.dice).sum()


def segmentation_loss(logit_maps: Sequence[Tensor], mask: Tensor) -> SegmentationLoss:
    """Compare the logit maps (B, H, W) of all layers, before any blur, with masks (B, H, W), 1 where anomalous."""
    shapes = [tuple(logits.shape) for logits in logit_maps]
    # Tensors of other shapes could broadcast, and be compared all the same.
    if not shapes or mask.ndim != 3 or any(shape != mask.shape for shape in shapes):
        msg = (
            f"Expected logit_maps to be one or more maps (B, H, W) of the shape of the mask {tuple(mask.shape)}, "
            f"but got maps of shapes {shapes}. Resize the masks to the input as the images are."
        )
        raise ValueError(msg)
    truth = mask.as_subclass(Tensor).float()
    away, area = 1 - 2 * truth, truth.sum(dim=(1, 2))
    # Layer by layer, since the maps of one are small enough for a processor's cache.
    errors = [(away * layer.float()).sigmoid() for layer in logit_maps]
    return SegmentationLoss(
        focal=torch.stack([_focal_loss(error) for error in errors]),
        dice=torch.stack([_dice_loss(error, truth, area) for error in errors]),
    )


def _focal_loss(error: Tensor) -> Tensor:
    """Focal loss (https://arxiv.org/abs/1708.02002, eq. 4) from ``1 - p_t`` of each pixel, a scalar."""
    error = (1 - 2 * _FOCAL_SMOOTH) * error
    return -(error * error * torch.log1p(-error)).mean()


def _dice_loss(error: Tensor, truth: Tensor, area: Tensor) -> Tensor:
    """One minus the mean over the images of their soft Dice coefficients, a scalar.

    ``error`` (B, H, W) is ``1 - p_t`` of each pixel: what is missing where anomalous, and too much where normal.
    ``area`` (B,) counts the anomalous pixels of each mask.
    """
    missed = (error * truth).sum(dim=(1, 2))
    overlap = area - missed
    total = area + overlap + (error.sum(dim=(1, 2)) - missed)
    return 1 - ((2 * overlap + _DICE_SMOOTH) / (total + _DICE_SMOOTH)).mean()
