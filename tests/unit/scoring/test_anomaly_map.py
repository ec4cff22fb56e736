# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Scores and maps, against golden tensors, the two-class definition of feature surgery, scipy and torch."""

import re
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from anomalib_clipad.scoring.anomaly_map import (
    class_probability,
    cosines,
    head_logit_map,
    head_logits,
    head_map,
    patch_scores,
    resample,
    sdp_map,
)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.fixture
def golden_scores(golden) -> list[Tensor]:
    return [patch_scores(golden.tensors[f"surgery_tokens_{layer}"], golden.tensors["text"]) for layer in golden.layers]


@pytest.fixture
def golden_logits(golden) -> list[Tensor]:
    tensors = golden.tensors
    embeddings = [
        functional.normalize(
            functional.linear(
                tensors[f"original_tokens_{layer}"][:, 1:],
                tensors[f"head/fc.{index}.weight"],
                tensors[f"head/fc.{index}.bias"],
            ),
            dim=-1,
        )
        for index, layer in enumerate(golden.layers)
    ]
    return [head_logits(layer, tensors["text"]) for layer in embeddings]


def scipy_blur(maps: Tensor, sigma: float) -> Tensor:
    return torch.from_numpy(np.stack([ndimage.gaussian_filter(image.double().numpy(), sigma) for image in maps]))


def test_scores_match_the_reference(golden, golden_scores):
    expected = golden.tensors["similarity"][:, 1:]
    torch.testing.assert_close(sum(golden_scores), expected[..., 1], atol=1e-5, rtol=0)
    torch.testing.assert_close(-sum(golden_scores), expected[..., 0], atol=1e-5, rtol=0)


def test_class_probability_matches_the_reference(golden):
    result = class_probability(golden.tensors[f"surgery_tokens_{golden.layers[-1]}"], golden.tensors["text"])
    torch.testing.assert_close(result, golden.tensors["class_token_probability"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("sigma", [0, 2, 8])
def test_map_matches_the_reference(golden, golden_scores, sigma):
    name = f"sdp_map_sigma{sigma}" if sigma else "sdp_map_unsmoothed"
    result = sdp_map(golden_scores, (6, 6), (96, 96), sigma)
    expected = (golden.tensors[name] / len(golden_scores) + 1) / 2
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)


def test_head_maps_match_the_reference(golden, golden_logits):
    result = torch.stack([head_map(layer, (6, 6), (96, 96)) for layer in golden_logits])
    torch.testing.assert_close(result, golden.tensors["head_maps"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("sigma", [0, 2, 8])
def test_sdp_plus_map_matches_the_reference(golden, golden_scores, golden_logits, sigma):
    name = f"sdp_plus_map_sigma{sigma}" if sigma else "sdp_plus_map_unsmoothed"
    result = sdp_map(golden_scores, (6, 6), (96, 96), sigma, golden_logits)
    expected = (golden.tensors[name] + 4) / 12
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)


def test_closed_form_is_feature_surgery_over_two_classes(generator):
    """Weight all class-wise feature products, subtract their mean over the classes, sum up: what the paper writes."""
    embeddings, text = torch.randn(2, 10, 7, generator=generator), torch.randn(7, 2, generator=generator)
    image, words = functional.normalize(embeddings, dim=-1), functional.normalize(text, dim=0)
    weights = (image[:, :1] @ words).softmax(-1)
    products = image.unsqueeze(2) * words.T * weights.unsqueeze(-1)  # (B, 1 + N, 2, C)
    surgery = (products - products.mean(dim=2, keepdim=True)).sum(-1)[:, 1:]

    result = patch_scores(embeddings, text)

    torch.testing.assert_close(result, surgery[..., 1] - surgery[..., 0], atol=1e-6, rtol=0)


def test_without_feature_surgery_both_texts_weigh_the_same(generator):
    embeddings, texts = torch.randn(2, 5, 8, generator=generator), torch.randn(8, 2, generator=generator)

    scores = patch_scores(embeddings, texts, feature_surgery=False)

    normal, anomalous = (
        torch.nn.functional.cosine_similarity(embeddings[:, 1:], texts[:, side], dim=-1) for side in (0, 1)
    )
    torch.testing.assert_close(scores, (anomalous - normal) / 2)


def test_every_image_may_have_text_embeddings_of_its_own(generator):
    embeddings, text = torch.randn(3, 5, 7, generator=generator), torch.randn(3, 7, 2, generator=generator)
    for function in (patch_scores, class_probability, cosines):
        together = function(embeddings, text)
        one_by_one = torch.cat([function(embeddings[i : i + 1], text[i]) for i in range(3)])
        torch.testing.assert_close(together, one_by_one)


def test_scores_do_not_depend_on_lengths_and_are_float32(generator):
    embeddings, text = torch.randn(2, 5, 8, generator=generator), torch.randn(8, 2, generator=generator)
    torch.testing.assert_close(patch_scores(7 * embeddings, text), patch_scores(embeddings, 0.1 * text))
    assert patch_scores(embeddings.bfloat16(), text.bfloat16()).dtype == torch.float32
    assert patch_scores(torch.zeros(1, 3, 8), text).tolist() == [[0.0, 0.0]]


def test_class_probability_is_the_anomalous_side():
    text = torch.eye(2)
    embeddings = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 1.0]]])
    torch.testing.assert_close(class_probability(embeddings, text), torch.tensor([0.0, 1.0, 0.5]))
    torch.testing.assert_close(class_probability(embeddings[1:2], text, logit_scale=2.0), torch.tensor([2.0]).sigmoid())


@pytest.mark.parametrize("sigma", [0, 0.1, 0.5, 2, 8, 8.3])
@pytest.mark.parametrize("shape", [(2, 96, 40), (1, 7, 3), (1, 1, 5), (2, 33, 33)])
def test_blur_is_that_of_scipy(generator, shape, sigma):
    maps = torch.rand(shape, generator=generator)
    torch.testing.assert_close(resample(maps, sigma=sigma).double(), scipy_blur(maps, sigma), atol=1e-6, rtol=0)


def test_no_blur_is_the_identity(generator):
    maps = torch.rand(2, 9, 5, generator=generator)
    assert torch.equal(resample(maps, sigma=0), maps)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("grid", "size"), [((15, 15), (240, 240)), ((4, 7), (30, 61)), ((1, 3), (5, 5)), ((6, 6), (6, 6))]
)
def test_upsampling_and_its_gradient_are_those_of_torch(generator, grid, size, align_corners):
    patch_map = torch.rand(2, *grid, generator=generator, requires_grad=True)
    weights = torch.rand(2, *size, generator=generator)
    exact = patch_map.double().unsqueeze(1)
    expected = functional.interpolate(exact, size, mode="bilinear", align_corners=align_corners).squeeze(1)

    result = resample(patch_map, size, align_corners=align_corners)

    torch.testing.assert_close(result.double(), expected, atol=1e-6, rtol=0)
    gradients = [torch.autograd.grad((weights * each).sum(), patch_map)[0] for each in (result, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("sigma", [0, 2, 8])
@pytest.mark.parametrize(
    ("grid", "size"), [((15, 15), (240, 240)), ((3, 7), (24, 56)), ((1, 2), (8, 5)), ((6, 4), (3, 4))]
)
def test_fused_path_equals_its_two_steps(generator, grid, size, sigma, align_corners):
    patch_map = torch.rand(2, *grid, generator=generator)
    fused = resample(patch_map, size, sigma, align_corners=align_corners)
    steps = resample(resample(patch_map, size, align_corners=align_corners), sigma=sigma)
    torch.testing.assert_close(fused, steps, atol=1e-6, rtol=0)


@pytest.mark.parametrize("align_corners", [False, True])
def test_upsampling_is_bilinear(align_corners):
    ramp = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    expected = [0, 1 / 3, 2 / 3, 1] if align_corners else [0, 0.25, 0.75, 1]
    result = resample(ramp, (3, 4), align_corners=align_corners)
    torch.testing.assert_close(result, torch.tensor([[expected] * 3]))


class Count(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def test_matrices_are_built_once_for_each_size_and_sigma(generator):
    maps = torch.rand(1, 5, 4, generator=generator)
    wanted = [((35, 28), 1.25), ((35, 28), 0.0), ((36, 28), 1.25), (None, 1.25)]
    first = [resample(maps, size, sigma) for size, sigma in wanted]

    with Count() as count:
        again = [resample(maps, size, sigma) for size, sigma in wanted]

    assert count.calls["bmm"] or count.calls["mm"]
    assert not {"arange", "_to_copy"} & set(count.calls)  # neither built nor converted nor copied to the device
    assert all(map(torch.equal, again, first))
    with Count() as count:
        resample(maps, (35, 28), 1.5)
    assert count.calls["arange"]


def test_training_may_follow_prediction(generator):
    patch_map = torch.rand(1, 3, 5, generator=generator, requires_grad=True)
    with torch.inference_mode():
        predicted = resample(patch_map, (33, 55), 1.5)

    result = resample(patch_map, (33, 55), 1.5)
    result.sum().backward()

    assert torch.equal(result, predicted)
    assert patch_map.grad.isfinite().all()


class Resample(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return resample(maps, (39, 65), 1.5)


def export(maps: Tensor) -> None:
    torch.export.export(Resample(), (maps,))


def fake(maps: Tensor) -> None:
    with FakeTensorMode() as mode:
        Resample()(mode.from_tensor(maps))


def elsewhere(maps: Tensor) -> None:
    with torch.device("meta"):
        Resample()(maps)


@pytest.mark.parametrize("before", [export, fake, elsewhere])
def test_what_a_graph_is_traced_with_is_not_kept(generator, before):
    maps = torch.rand(1, 3, 5, generator=generator)
    before(maps)

    result = Resample()(maps)

    assert type(result) is Tensor
    expected = functional.interpolate(maps.unsqueeze(1), (39, 65), mode="bilinear").squeeze(1)
    torch.testing.assert_close(result.double(), scipy_blur(expected, 1.5), atol=1e-6, rtol=0)


def test_map_stays_within_bounds_at_the_extremes():
    worst, best = torch.full((1, 225), 1.0), torch.full((1, 225), -1.0)
    result = sdp_map([torch.cat([worst, best])] * 3, (15, 15), (240, 240), 8.0)
    assert result.min() >= 0
    assert result.max() <= 1
    torch.testing.assert_close(result, torch.stack([torch.ones(240, 240), torch.zeros(240, 240)]))


def test_rows_of_the_grid_are_rows_of_the_map():
    scores = torch.zeros(1, 6)
    scores[0, 2] = 1.0  # last patch of the first of two rows
    result = sdp_map([scores], (2, 3), (20, 30), 0.0)
    assert np.unravel_index(int(result[0].argmax()), (20, 30)) == (0, 25)


def test_head_logits_are_a_softmax_over_two_cosines(generator):
    embeddings = torch.randn(3, 5, 7, generator=generator)
    text = torch.randn(3, 7, 2, generator=generator)
    probability = (100 * cosines(embeddings, text)).softmax(dim=-1)[..., 1]

    torch.testing.assert_close(head_logits(embeddings, text).sigmoid(), probability, atol=1e-5, rtol=0)
    one_text = torch.cat([head_logits(embeddings[i : i + 1], text[i]) for i in range(3)])
    torch.testing.assert_close(head_logits(embeddings, text), one_text)
    torch.testing.assert_close(head_logits(embeddings, text, logit_scale=1.0), one_text / 100)


def test_head_logits_are_upsampled_before_the_sigmoid_with_aligned_corners():
    logits = torch.tensor([[-8.0, 8.0, -8.0, 8.0]])
    ramp = torch.tensor([-8.0, -8 / 3, 8 / 3, 8.0]).expand(1, 3, 4)
    torch.testing.assert_close(head_logit_map(logits, (2, 2), (3, 4)), ramp)
    torch.testing.assert_close(head_map(logits, (2, 2), (3, 4)), ramp.sigmoid())


def test_sdp_plus_map_is_in_the_unit_interval_at_the_extremes():
    low, high = torch.full((1, 225), -1.0), torch.full((1, 225), 1.0)
    scores = torch.cat([high, low])
    result = sdp_map([scores] * 3, (15, 15), (240, 240), 8.0, [1000 * scores] * 3)
    assert result.min() >= 0
    assert result.max() <= 1
    torch.testing.assert_close(result, torch.stack([torch.ones(240, 240), torch.zeros(240, 240)]))


@pytest.mark.parametrize("head_weight", [0.0, 0.25, 1.0, 3.0])
def test_heads_are_weighted_against_sdp(generator, head_weight):
    scores = [torch.rand(2, 6, generator=generator) * 2 - 1 for _ in range(3)]
    logits = [torch.randn(2, 6, generator=generator) for _ in range(3)]
    unblurred = sum(resample(layer.unflatten(-1, (2, 3)), (20, 30)) for layer in scores)
    unblurred = unblurred + head_weight * sum(head_map(layer, (2, 3), (20, 30)) for layer in logits)

    result = sdp_map(scores, (2, 3), (20, 30), 2.0, logits, head_weight)

    expected = (scipy_blur(unblurred, 2.0) + 3) / (3 * (2 + head_weight))
    torch.testing.assert_close(result.double(), expected, atol=1e-6, rtol=0)
    if head_weight == 0:
        torch.testing.assert_close(result, sdp_map(scores, (2, 3), (20, 30), 2.0))


def test_loss_of_a_head_reaches_its_logits(generator):
    logits = torch.randn(1, 6, generator=generator, requires_grad=True)
    head_logit_map(logits, (2, 3), (8, 9)).sum().backward()
    torch.testing.assert_close(logits.grad.sum(), torch.tensor(72.0))


@pytest.mark.parametrize("sigma", [-1, float("nan"), float("inf")])
def test_invalid_sigma(sigma):
    with pytest.raises(ValueError, match=f"Expected sigma to be a finite number of pixels, 0 or more, but got {sigma}"):
        resample(torch.zeros(1, 4, 4), sigma=sigma)


@pytest.mark.parametrize(("patches", "got"), [([], "[]"), ([6, 5], "[6, 5]")])
def test_scores_must_fit_the_grid(patches, got):
    expected = re.escape(
        f"Expected scores to hold at least one layer of 2x3 = 6 patches, but got layers of {got} patches"
    )
    with pytest.raises(ValueError, match=expected):
        sdp_map([torch.zeros(1, count) for count in patches], (2, 3), (8, 8), 0.0)


def test_logits_must_fit_the_grid():
    expected = re.escape("Expected logits to hold at least one layer of 2x3 = 6 patches, but got layers of [5] patches")
    with pytest.raises(ValueError, match=expected):
        head_map(torch.zeros(1, 5), (2, 3), (8, 8))


def test_there_must_be_a_head_for_each_layer():
    scores = [torch.zeros(1, 6)] * 4
    with pytest.raises(ValueError, match=r"Expected logits to be those of 4 heads, .*, but got 3. Use heads made for"):
        sdp_map(scores, (2, 3), (8, 8), 0.0, scores[:3])
    with pytest.raises(ValueError, match="Expected scores to hold at least one layer"):
        sdp_map([], (2, 3), (8, 8), 0.0)


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_invalid_head_weight(weight):
    layers = [torch.zeros(1, 6)]
    with pytest.raises(ValueError, match=f"Expected head_weight to be a finite number, 0 or more, but got {weight}"):
        sdp_map(layers, (2, 3), (8, 8), 0.0, layers, weight)
