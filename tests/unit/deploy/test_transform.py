# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Transforms of exported models do what torchvision's do."""

import pytest
import torch
from anomalib.data.transforms import ExportableCenterCrop
from torchvision.transforms.v2 import CenterCrop, Compose, InterpolationMode, Normalize, Resize

from anomalib_clipad.data.fitting import FitResize
from anomalib_clipad.deploy.transform import exportable_transform

BICUBIC, BILINEAR = InterpolationMode.BICUBIC, InterpolationMode.BILINEAR


def make_image(height: int, width: int) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mode", [BICUBIC, BILINEAR])
@pytest.mark.parametrize("size", [(900, 700), (31, 47), (121, 119), (24, 500), (1, 1), (5, 2)])
def test_resizing_equals_torchvisions(mode, size):
    image, resize = make_image(*size), Resize((48, 40), interpolation=mode, antialias=True)

    resized = exportable_transform(resize)(image)

    torch.testing.assert_close(resized, resize(image), atol=3e-6, rtol=0)


def test_an_image_of_the_right_size_is_left_as_it_is():
    image = make_image(48, 40)

    resized = exportable_transform(Resize((48, 40), interpolation=BICUBIC, antialias=True))(image)

    torch.testing.assert_close(resized, image, atol=0, rtol=0)


def test_without_antialiasing_the_result_would_be_another():
    image, size = make_image(300, 200), (24, 24)
    smooth, rough = (Resize(size, interpolation=BICUBIC, antialias=antialias) for antialias in (True, False))

    assert (exportable_transform(smooth)(image) - rough(image)).abs().max() > 0.1


def test_the_parts_of_a_composition_follow_each_other():
    transform = Compose(
        [
            Resize((60, 50), interpolation=BICUBIC, antialias=True),
            CenterCrop((48, 40)),
            Normalize(mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7]),
        ]
    )
    image = make_image(90, 70)

    exportable = exportable_transform(transform)

    torch.testing.assert_close(exportable(image), transform(image), atol=1e-5, rtol=0)
    assert any(isinstance(part, ExportableCenterCrop) for part in exportable.modules())
    assert transform.transforms[0].antialias


def test_no_transform_stays_none():
    assert exportable_transform(None) is None


@pytest.mark.parametrize(
    "resize",
    [Resize(48, antialias=True), Resize((48, 48), interpolation=InterpolationMode.NEAREST_EXACT)],
    ids=["one side", "nearest exact"],
)
def test_a_resize_that_cannot_be_exported_is_refused(resize):
    with pytest.raises(ValueError, match="Expected the Resize of pre_processor to have a height and a width"):
        exportable_transform(Compose([resize]))


@pytest.mark.parametrize("fit", ["keep", "pad"])
def test_what_keeps_an_aspect_ratio_needs_the_size_of_the_images(fit):
    transform, image = FitResize((48, 40), fit, (8, 8), (0.1, 0.2, 0.3)), make_image(90, 70)

    fitted = exportable_transform(transform, (90, 70))(image)

    torch.testing.assert_close(fitted, transform(image), atol=3e-6, rtol=0)
    with pytest.raises(
        ValueError, match=rf"does not squash its images \(resize={fit}\), but got none. Pass the height"
    ):
        exportable_transform(transform)
