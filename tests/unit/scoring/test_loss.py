# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Focal and Dice loss, against golden tensors, torchvision, and loops over images and pixels."""

import math
import re

import pytest
import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from anomalib_clipad.scoring.loss import segmentation_loss


@pytest.fixture
def maps() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [3 * torch.randn(3, 6, 5, generator=generator) for _ in range(2)]


@pytest.fixture
def mask() -> Tensor:
    """Two images with defects, the last one without."""
    mask = (torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(4)) > 0.7).float()
    mask[2] = 0
    return mask


def test_parts_match_the_reference(golden):
    # In float64, since the recorded maps have been through a sigmoid already.
    logits = [layer.double().logit() for layer in golden.tensors["head_maps"]]
    result = segmentation_loss(logits, golden.tensors["mask"])
    expected = golden.tensors["loss_parts_step0_focal_dice"].float()
    torch.testing.assert_close(torch.stack(result, dim=1), expected, atol=2e-4, rtol=0)
    torch.testing.assert_close(result.total, expected.sum(), atol=1e-3, rtol=0)


def test_focal_loss_is_that_of_the_definition(maps, mask):
    for layer, focal in zip(maps, segmentation_loss(maps, mask).focal, strict=True):
        losses = []
        for logit, target in zip(layer.flatten().tolist(), mask.flatten().tolist(), strict=True):
            right = 1 / (1 + math.exp(-logit if target else logit))
            # As in the reference: the target clamped to [s, 1 - s], and s added to the probability.
            right = (1 - 1e-5) * right + 1e-5 * (1 - right) + 1e-5
            losses.append(-((1 - right) ** 2) * math.log(right))
        assert focal.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_focal_loss_is_close_to_that_of_torchvision(maps, mask):
    expected = [sigmoid_focal_loss(layer, mask, alpha=-1, gamma=2, reduction="mean") for layer in maps]
    torch.testing.assert_close(segmentation_loss(maps, mask).focal, torch.stack(expected), atol=0, rtol=2e-3)


def test_dice_loss_is_the_mean_over_images(maps, mask):
    for layer, dice in zip(maps, segmentation_loss(maps, mask).dice, strict=True):
        coefficients = []
        for logits, target in zip(layer.tolist(), mask.tolist(), strict=True):
            overlap = area = 0.0
            for logit, truth in zip(sum(logits, []), sum(target, []), strict=True):  # noqa: RUF017
                probability = 1 / (1 + math.exp(-logit))
                overlap += probability * truth
                area += probability + truth
            coefficients.append((2 * overlap + 1) / (area + 1))
        assert dice.item() == pytest.approx(1 - sum(coefficients) / 3, rel=1e-5)


def test_perfect_maps_cost_nothing(mask):
    result = segmentation_loss([1e4 * (2 * mask - 1)], mask)
    torch.testing.assert_close(torch.stack(result), torch.zeros(2, 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [50.0, 1e4, torch.finfo(torch.float32).max])
def test_wrong_maps_cost_a_bounded_amount_and_gradients_stay_finite(mask, size):
    logits = (size * (1 - 2 * mask)).requires_grad_()
    result = segmentation_loss([logits], mask)
    result.total.backward()
    assert result.focal.item() == pytest.approx(-math.log(2e-5), rel=1e-3)
    assert result.dice.item() <= 1
    assert logits.grad.isfinite().all()


def test_an_image_without_defects_teaches_to_be_silent():
    logits = torch.zeros(1, 4, 4, requires_grad=True)
    segmentation_loss([logits], torch.zeros(1, 4, 4)).dice.sum().backward()
    assert (logits.grad > 0).all()


def test_total_is_the_sum_over_layers_of_both_parts(maps, mask):
    result = segmentation_loss(maps, mask)
    assert result.focal.shape == result.dice.shape == (2,)
    one_by_one = [segmentation_loss([layer], mask).total for layer in maps]
    torch.testing.assert_close(result.total, sum(one_by_one))
    assert result.total.ndim == 0


def test_two_equal_halves_average_to_the_whole_batch(maps, mask):
    """What gradient accumulation and distributed training rely on."""
    maps, mask = [torch.cat([layer, -layer]) for layer in maps], torch.cat([mask, mask])
    halves = [segmentation_loss([layer[half] for layer in maps], mask[half]) for half in (slice(3), slice(3, 6))]
    torch.testing.assert_close(segmentation_loss(maps, mask).total, (halves[0].total + halves[1].total) / 2)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16])
def test_masks_may_be_of_any_type(maps, mask, dtype):
    torch.testing.assert_close(segmentation_loss(maps, mask.to(dtype)).total, segmentation_loss(maps, mask).total)


def test_half_precision_logits_give_float32_losses(maps, mask):
    with torch.autocast("cpu", torch.bfloat16):
        result = segmentation_loss([layer.bfloat16() for layer in maps], mask)
    assert result.total.dtype == torch.float32
    torch.testing.assert_close(result.total, segmentation_loss(maps, mask).total, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("shapes", "mask_shape"),
    [([(3, 6, 5)], (3, 1, 6, 5)), ([(3, 6, 5)], (6, 5)), ([(3, 6, 5), (3, 6, 1)], (3, 6, 5)), ([], (3, 6, 5))],
)
def test_maps_and_mask_must_have_one_shape(shapes, mask_shape):
    expected = re.escape(f"of the shape of the mask {mask_shape}, but got maps of shapes {shapes}. Resize the masks")
    with pytest.raises(ValueError, match=expected):
        segmentation_loss([torch.zeros(shape) for shape in shapes], torch.zeros(mask_shape))
