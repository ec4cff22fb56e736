# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The torch models of SDP and SDP+, against the golden tensors of the reference implementation."""

import pytest
import torch

from anomalib_clipad.clip.surgery import surgery_tokens
from anomalib_clipad.scoring.anomaly_map import patch_scores, sdp_map
from anomalib_clipad.scoring.heads import LinearHeads
from anomalib_clipad.scoring.torch_model import SDPModel

FIRST = torch.tensor([0, 0])


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
    torch.testing.assert_close(mixed.anomaly_map[1:], model(tiny_images[1:], FIRST[:1]).anomaly_map)
    assert not torch.allclose(mixed.anomaly_map[0], model(tiny_images, FIRST).anomaly_map[0])


def test_without_architecture_surgery_the_plain_tower_is_scored(tiny_clip, tiny_images):
    visual, texts = tiny_clip.visual, torch.randn(24, 2, generator=torch.Generator().manual_seed(0))
    model = SDPModel(visual, layers=[-1], sigma=1, architecture_surgery=False)
    model.texts.add("nut", texts)
    outputs = []
    hook = visual.transformer.resblocks[-1].register_forward_hook(lambda *arguments: outputs.append(arguments[-1]))
    visual(tiny_images)
    hook.remove()
    tokens = outputs[0] if len(outputs[0]) == 2 else outputs[0].transpose(0, 1)  # as open_clip 2.24 has them
    scores = patch_scores(visual.ln_post(tokens) @ visual.proj, texts)

    torch.testing.assert_close(model(tiny_images).anomaly_map, sdp_map([scores], (4, 4), (32, 32), 1))


@pytest.mark.parametrize("switch", ["staged", "architecture_surgery", "feature_surgery"])
def test_each_ablation_changes_the_map(tiny_clip, tiny_images, switch):
    maps = []
    for value in (True, False):
        model = SDPModel(tiny_clip.visual, sigma=1, **{switch: value})
        model.texts.add("nut", torch.randn(24, 2, generator=torch.Generator().manual_seed(0)))
        maps.append(model(tiny_images).anomaly_map)

    # Where each stage is one block, as here with four, staged and not differ from the second tapped layer on.
    assert (maps[0] - maps[1]).abs().max() > 1e-4


def test_outputs_lie_in_the_unit_interval_at_other_and_oblong_sizes(model):
    result = model(torch.randn(1, 3, 40, 64, generator=torch.Generator().manual_seed(0)), FIRST[:1])

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
        result = model(tiny_images, FIRST)

    assert result.anomaly_map.dtype == torch.float32
    torch.testing.assert_close(result.anomaly_map, model(tiny_images, FIRST).anomaly_map, atol=0.02, rtol=0)


@pytest.mark.parametrize("index", [None, FIRST[:1]])
def test_several_classes_need_an_index_for_each_image(model, tiny_images, index):
    with pytest.raises(
        ValueError, match=r"Expected class_index (for a model of 2 classes|to hold one index for each of 2)"
    ):
        model(tiny_images, index)


def test_without_a_class_there_is_nothing_to_compare_with(tiny_clip, tiny_images):
    with pytest.raises(RuntimeError, match="Expected text embeddings of at least one class, but got none"):
        SDPModel(tiny_clip.visual)(tiny_images)


def test_refuses_layers_that_the_tower_does_not_have(tiny_clip):
    with pytest.raises(ValueError, match=r"Valid layers are 1 to 4"):
        SDPModel(tiny_clip.visual, layers=[5])


def golden_plus(golden, **arguments) -> SDPModel:
    """SDP+ with the heads that the reference implementation used."""
    tensors = golden.tensors
    state = {key.removeprefix("head/"): value for key, value in tensors.items() if key.startswith("head/")}
    embed_dim, width = state["fc.0.weight"].shape
    heads = LinearHeads(width, embed_dim, len(golden.layers))
    heads.load_state_dict(state)
    model = SDPModel(golden.model.visual, heads, golden.layers, **arguments)
    model.texts.add("object", tensors["text"])
    return model


@pytest.fixture
def plus(tiny_clip) -> SDPModel:
    """SDP+ of two classes over a tiny tower."""
    generator = torch.Generator().manual_seed(0)
    heads = LinearHeads(32, 24)
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    model = SDPModel(tiny_clip.visual, heads, sigma=1)
    for name in ("nut", "bolt"):
        model.texts.add(name, torch.nn.functional.normalize(torch.randn(24, 2, generator=generator), dim=0))
    return model


class TestSDPPlus:
    @pytest.mark.parametrize("sigma", [8, 2])
    def test_matches_the_reference_implementation(self, golden, sigma):
        with torch.no_grad():
            result = golden_plus(golden, sigma=sigma)(golden.tensors["image"])

        # The reference adds four maps in [0, 1] and four in [-1, 1]; here their sum is mapped into [0, 1].
        expected_map = (golden.tensors[f"sdp_plus_map_sigma{sigma}"] + 4) / 12
        torch.testing.assert_close(result.anomaly_map, expected_map, atol=1e-5, rtol=0)
        torch.testing.assert_close(result.pred_score, golden.tensors["class_token_probability"], atol=1e-4, rtol=0)

    def test_what_is_trained_matches_the_reference_implementation(self, golden):
        model, image = golden_plus(golden), golden.tensors["image"]

        patches = model.tapped_patches(image)
        index = torch.zeros(len(image), dtype=torch.long)
        logits = model.logit_maps(patches, tuple(image.shape[-2:]), index)

        torch.testing.assert_close(torch.stack(logits).sigmoid(), golden.tensors["head_maps"], atol=1e-4, rtol=0)
        assert all(layer.requires_grad for layer in logits)
        assert not any(layer.requires_grad for layer in patches.layers)

    def test_taps_of_the_other_kind_do_not_match(self, golden):
        with torch.no_grad():
            result = golden_plus(golden, taps="block")(golden.tensors["image"])
        assert (result.anomaly_map - (golden.tensors["sdp_plus_map_sigma8"] + 4) / 12).abs().max() > 1e-3

    def test_trains_on_the_tokens_that_it_scores(self, plus, tiny_images):
        every = surgery_tokens(plus.visual, tiny_images)

        patches = plus.tapped_patches(tiny_images)

        torch.testing.assert_close(patches.layers, every.patches)
        assert patches.grid == every.grid

    @pytest.mark.parametrize("switch", [None, "staged", "architecture_surgery", "feature_surgery"])
    def test_without_the_heads_weight_it_is_sdp_ablations_included(self, plus, tiny_images, switch):
        sdp = SDPModel(plus.visual, sigma=1)
        sdp.texts.replace(plus.texts.names, plus.texts.embeddings)
        if switch:
            setattr(sdp, switch, False)
            setattr(plus, switch, False)
        with_heads = plus(tiny_images, FIRST)

        plus.head_weight = 0
        without = plus(tiny_images, FIRST)

        torch.testing.assert_close(without.anomaly_map, sdp(tiny_images, FIRST).anomaly_map)
        torch.testing.assert_close(without.pred_score, with_heads.pred_score)
        assert (with_heads.anomaly_map - without.anomaly_map).abs().max() > 0.01

    def test_each_image_is_compared_with_its_own_class(self, plus, tiny_images):
        mixed = plus(tiny_images, torch.tensor([1, 0]))

        torch.testing.assert_close(mixed.anomaly_map[:1], plus(tiny_images[:1], torch.tensor([1])).anomaly_map)
        torch.testing.assert_close(mixed.anomaly_map[1:], plus(tiny_images[1:], FIRST[:1]).anomaly_map)
        assert not torch.allclose(mixed.anomaly_map[0], plus(tiny_images, FIRST).anomaly_map[0])

    def test_outputs_lie_in_the_unit_interval_at_other_and_oblong_sizes(self, plus):
        result = plus(torch.randn(1, 3, 40, 64, generator=torch.Generator().manual_seed(0)), FIRST[:1])

        assert result.anomaly_map.shape == (1, 40, 64)
        for values in (result.anomaly_map, result.pred_score):
            assert values.min() >= 0
            assert values.max() <= 1

    def test_float32_under_autocast(self, plus, tiny_images):
        index = torch.tensor([0, 1])
        exact = plus(tiny_images, index).anomaly_map
        with torch.autocast("cpu", torch.bfloat16):
            result = plus(tiny_images, index).anomaly_map
            logits = plus.logit_maps(plus.tapped_patches(tiny_images), (32, 32), index)

        assert {tensor.dtype for tensor in (result, *logits)} == {torch.float32}
        # A cosine's rounding of 2e-3 is multiplied by 100 before the heads' sigmoid.
        assert 0 < (result - exact).abs().mean() < 0.02

    def test_without_a_class_there_is_nothing_to_compare_with(self, tiny_clip, tiny_images):
        with pytest.raises(RuntimeError, match="Expected text embeddings of at least one class, but got none"):
            SDPModel(tiny_clip.visual, LinearHeads(32, 24))(tiny_images)

    def test_the_state_adds_the_heads_to_that_of_sdp(self, plus):
        heads = {f"heads.fc.{index}.{kind}" for index in range(4) for kind in ("weight", "bias")}
        assert set(plus.state_dict()) == set(SDPModel(plus.visual).state_dict()) | heads

    def test_maps_of_heads_need_heads(self, plus, tiny_images):
        with pytest.raises(RuntimeError, match=r"Expected the model to have heads, but got none\. Make it with heads="):
            SDPModel(plus.visual).logit_maps(plus.tapped_patches(tiny_images), (32, 32), torch.tensor([0, 0]))

    def test_refuses_heads_of_another_number(self, tiny_clip, tiny_images):
        model = SDPModel(tiny_clip.visual, LinearHeads(32, 24, num_layers=3))
        model.texts.add("nut", torch.randn(24, 2))
        with pytest.raises(ValueError, match="those of 3 layers of width 32, but got 4 layers"):
            model(tiny_images)
