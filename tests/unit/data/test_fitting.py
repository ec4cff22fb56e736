# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""How images come to the input: sizes, masks and boxes agree, and what is fitted stays."""

import pytest
import torch
from torchvision.tv_tensors import Image, Mask

from anomalib_clipad.data.fitting import FitResize, UnfitImageError, check_fit
from anomalib_clipad.prediction.geometry import image_box, to_image

SIZE, PATCH = (120, 120), (8, 8)
FILL = (0.5, 0.25, 0.75)


@pytest.mark.parametrize(
    ("size", "kept"), [((60, 200), (32, 120)), ((300, 100), (120, 40)), ((37, 91), (48, 120)), ((120, 120), SIZE)]
)
def test_the_longer_side_fills_the_input(size, kept):
    image = torch.rand(3, *size)
    assert FitResize(SIZE, "keep", PATCH)(image).shape == (3, *kept)
    padded = FitResize(SIZE, "pad", PATCH, FILL)(image)
    assert padded.shape == (3, *SIZE)
    if size != SIZE:
        assert padded[:, 0, 0].tolist() == list(FILL)


@pytest.mark.parametrize("fit", ["keep", "pad"])
def test_what_is_fitted_is_not_changed(fit):
    transform = FitResize(SIZE, fit, PATCH)
    fitted = transform(torch.rand(2, 3, 90, 50))
    assert torch.equal(transform(fitted), fitted)


@pytest.mark.parametrize("fit", ["keep", "pad"])
@pytest.mark.parametrize("size", [(90, 50), (40, 111)])
def test_mask_and_box_lie_where_the_image_does(fit, size):
    transform = FitResize(SIZE, fit, PATCH)
    mask = torch.zeros(size, dtype=torch.bool)
    mask[10:30, 20:40] = True

    image, fitted = transform(Image(mask.float().expand(3, *size)), Mask(mask))

    assert isinstance(image, Image)
    assert ((image[0] > 0.5) == fitted).float().mean() > 0.99
    back = to_image(fitted.float(), image_box(transform, size), size) > 0.5
    assert (back == mask).float().mean() > 0.98


def test_no_mask_stays_none():
    assert FitResize(SIZE, "pad", PATCH)(torch.rand(3, 90, 50), None)[1] is None


def test_an_image_of_its_own_size_must_hold_a_tile():
    transform = FitResize(SIZE, "own", PATCH)
    image = torch.rand(3, 130, 500)
    assert torch.equal(transform(image), image)
    with pytest.raises(UnfitImageError, match=r"at least 120x120 pixels, the size of a tile, but got one of 130x100"):
        transform(torch.rand(3, 130, 100))


@pytest.mark.parametrize("fit", ["keep", "pad"])
def test_a_strip_is_refused(fit):
    with pytest.raises(UnfitImageError, match="got one of 8000x20, which is too narrow"):
        FitResize(SIZE, fit, PATCH).target((8000, 20))


def test_only_what_there_is_can_be_chosen():
    with pytest.raises(ValueError, match="Expected resize to be one of squash, keep, pad, own, but got 'crop'"):
        check_fit("crop")
