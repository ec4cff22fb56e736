# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""SDP's torch model, against the golden tensors of the reference implementation."""

import pytest
import torch

from anomalib_clipad.torch_model import SDPModel


@pytest.fixture
def model(tiny_clip) -> SDPModel:
    """Model of two classes over a tiny tower."""
    model = SDPModel(tiny_clip.visual, sigma=1)
    generator = torch.Generator().manual_seed(0)
    for name in ("nut", "bolt"):
        model.texts.add(name, torch.randn(24, 2, generator=generator))
    return model


@pytest.mark.parametrize("sigma", [8, 2])
def test_matches_the_reference_implementation(golden, sigma):
    model = SDPModel(golden.model.visual, layers=golden.layers, sigma=sigma)
    model.texts.add("object", golden.tensors["text"])

    with torch.no_grad():
        result = model(golden.tensors["image"])

    # The reference sums the four layers; here their mean is mapped into [0, 1].
    expected_map = (golden.tensors[f"sdp_map_sigma{sigma}"] / 4 + 1) / 2
    torch.testing.assert_close(result.anomaly_map, expected_map, atol=1e-5, rtol=0)
    torch.testing.assert_close(result.pred_score, golden.tensors["class_token_probability"], atol=1e-4, rtol=0)


def test_each_image_is_compared_with_its_own_class(model, tiny_images):
    mixed = model(tiny_images, torch.tensor([1, 0]))

    torch.testing.assert_close(mixed.anomaly_map[:1], model(tiny_images[:1], torch.tensor([1])).anomaly_map)
    torch.testing.assert_close(mixed.anomaly_map[1:], model(tiny_images[1:]).anomaly_map)
    assert not torch.allclose(mixed.anomaly_map[0], model(tiny_images).anomaly_map[0])


def test_outputs_lie_in_the_unit_interval_at_other_and_oblong_sizes(model):
    result = model(torch.randn(1, 3, 40, 64, generator=torch.Generator().manual_seed(0)))

    assert result.anomaly_map.shape == (1, 40, 64)
    for values in (result.anomaly_map, result.pred_score):
        assert values.min() >= 0
        assert values.max() <= 1


def test_a_known_class_gets_new_embeddings_in_its_place(model, tiny_images):
    before = model(tiny_images, torch.tensor([1, 1])).anomaly_map

    assert model.texts.add("nut", torch.randn(24, 2)) == 0

    assert model.texts.names == ["nut", "bolt"]
    torch.testing.assert_close(model(tiny_images, torch.tensor([1, 1])).anomaly_map, before)


def test_scores_are_float32_under_autocast(model, tiny_images):
    with torch.autocast("cpu", torch.bfloat16):
        result = model(tiny_images)

    assert result.anomaly_map.dtype == torch.float32
    torch.testing.assert_close(result.anomaly_map, model(tiny_images).anomaly_map, atol=0.02, rtol=0)


def test_without_a_class_there_is_nothing_to_compare_with(tiny_clip, tiny_images):
    with pytest.raises(RuntimeError, match="Expected text embeddings of at least one class, but got none"):
        SDPModel(tiny_clip.visual)(tiny_images)


def test_refuses_layers_that_the_tower_does_not_have(tiny_clip):
    with pytest.raises(ValueError, match=r"Valid layers are 1 to 4"):
        SDPModel(tiny_clip.visual, layers=[5])
