# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What the heads of SDP+ are trained with: focal and Dice loss of each tapped layer's own map, in float32.

Both start from logits, not from probabilities, which would round to 0 and 1. Neither comes from a library.
``torchvision.ops.sigmoid_focal_loss`` lacks the smoothing below: on the reference's own example the losses agree to
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
    """Parts of the loss for each of the L tapped layers.

    Attributes:
        focal: Focal losses ``(L,)``.
        dice: Dice losses ``(L,)``.
    """

    focal: Tensor
    dice: Tensor

    @property
    def total(self) -> Tensor:
        """What is minimised: the sum of all parts, a scalar."""
        return (self.focal + self.dice).sum()


def segmentation_loss(logit_maps: Sequence[Tensor], mask: Tensor) -> SegmentationLoss:
    """Compare the maps of all layers, before any blur, with the mask.

    Args:
        logit_maps: Logits at input size, ``(B, H, W)`` for each of the L layers, see
            :func:`~anomalib_clipad.anomaly_map.head_logit_map`.
        mask: Binary masks ``(B, H, W)`` of any type, 1 where anomalous.

    Returns:
        Losses of each layer; their ``total`` is differentiable in the logits.

    Raises:
        ValueError: If there is no map, or a map and the mask differ in shape.

    Example:
        >>> loss = segmentation_loss([torch.zeros(2, 8, 8)], torch.zeros(2, 8, 8))
        >>> [round(float(part), 4) for part in (*loss.focal, *loss.dice)]
        [0.1733, 0.9697]
    """
    shapes = [tuple(logits.shape) for logits in logit_maps]
    # Tensors of other shapes could broadcast, and be compared all the same.
    if not shapes or mask.ndim != 3 or any(shape != mask.shape for shape in shapes):
        msg = (
            f"Expected logit_maps to be one or more maps (B, H, W) of the shape of the mask {tuple(mask.shape)}, "
            f"but got maps of shapes {shapes}. Resize the masks to the input as the images are."
        )
        raise ValueError(msg)
    logits = torch.stack([layer.float() for layer in logit_maps])  # (L, B, H, W)
    return SegmentationLoss(_focal_loss(logits, mask), _dice_loss(logits, mask))


def _focal_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Focal loss (https://arxiv.org/abs/1708.02002, eq. 4) of maps ``(L, B, H, W)``, ``(L,)``."""
    away_from_target = 1 - 2 * mask.to(logits)
    error = (1 - 2 * _FOCAL_SMOOTH) * (away_from_target * logits).sigmoid()  # 1 - p_t
    return -(error**_FOCAL_GAMMA * torch.log1p(-error)).mean(dim=(1, 2, 3))


def _dice_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """One minus the mean over the images of their soft Dice coefficients, of maps ``(L, B, H, W)``, ``(L,)``."""
    probability, mask = logits.sigmoid(), mask.to(logits)
    overlap = (probability * mask).sum(dim=(2, 3))
    area = probability.sum(dim=(2, 3)) + mask.sum(dim=(1, 2))
    return 1 - ((2 * overlap + _DICE_SMOOTH) / (area + _DICE_SMOOTH)).mean(dim=1)
