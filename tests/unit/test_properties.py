# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What holds for any input, tried on many: order, flips, batches, ranges, prompts and class names."""

import functools
import logging
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from anomalib_clipad import SDP, SDPPlus
from anomalib_clipad.clip.prompt_ensemble import PromptEnsemble
from anomalib_clipad.clip.representative import STRATEGIES, select_representative
from anomalib_clipad.metrics.rank_metrics import RankCurve, auroc
from anomalib_clipad.post_processing.calibration import rescale
from anomalib_clipad.scoring.anomaly_map import patch_scores, sdp_map
from tiny import sdp, sdp_plus

settings.register_profile(
    "quick", max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("quick")

SEEDS = st.integers(0, 2**31)
SHAPES = st.tuples(st.integers(1, 90), st.integers(1, 90))


@functools.cache
def model(kind: str) -> SDP | SDPPlus:
    return sdp(class_name="nut") if kind == "SDP" else sdp_plus(class_name="nut", heads="embedded")


def random_image(seed: int, shape: tuple[int, int]) -> torch.Tensor:
    return torch.rand(3, *shape, generator=torch.Generator().manual_seed(seed))


def unit(values: np.ndarray) -> torch.Tensor:
    rows = torch.from_numpy(values)
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)


# Models.

PLAIN = st.sampled_from([0.0, 1.0, 0.5, 1e-30, 1 - 1e-7])


@pytest.mark.parametrize("kind", ["SDP", "SDP+"])
@given(data=st.data())
@settings(max_examples=12)
def test_scores_of_any_finite_image_are_finite_and_in_range(kind: str, data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    flat = data.draw(st.booleans())
    image = torch.full((3, *shape), data.draw(PLAIN)) if flat else random_image(data.draw(SEEDS), shape).round()
    [prediction] = model(kind).predict(image)
    for values in (torch.tensor(prediction.pred_score), prediction.anomaly_map):
        assert values.isfinite().all()
        assert 0 <= values.min() <= values.max() <= 1


@pytest.mark.parametrize("kind", ["SDP", "SDP+"])
@given(seeds=st.lists(SEEDS, min_size=2, max_size=5, unique=True), shape=SHAPES, data=st.data())
@settings(max_examples=8)
def test_a_batch_in_any_order_gives_what_single_images_give(
    kind: str, seeds: list[int], shape: tuple[int, int], data: st.DataObject
) -> None:
    images = [random_image(seed, shape) for seed in seeds]
    order = data.draw(st.permutations(range(len(images))))
    single = [model(kind).predict(image)[0] for image in images]
    batch = model(kind).predict([images[index] for index in order], batch_size=len(images))
    for index, item in zip(order, batch, strict=True):
        assert item.pred_score == pytest.approx(single[index].pred_score, abs=1e-5)
        torch.testing.assert_close(item.anomaly_map, single[index].anomaly_map, atol=1e-5, rtol=0)


@given(value=st.sampled_from([float("nan"), float("inf"), -float("inf"), -0.1, 1.1, 1e30]), seed=SEEDS, shape=SHAPES)
def test_an_image_with_a_value_that_is_none_is_refused(value: float, seed: int, shape: tuple[int, int]) -> None:
    image = random_image(seed, shape)
    image[seed % 3, seed % shape[0], seed % shape[1]] = value
    with pytest.raises(ValueError, match=r"Image 0: Expected an image of floats to have values in \[0, 1\]"):
        model("SDP").predict(image)


# Maps.


@given(seed=SEEDS, grid=st.tuples(st.integers(1, 7), st.integers(1, 7)), size=SHAPES, sigma=st.floats(0, 20))
def test_maps_follow_a_flip_of_the_patches(
    seed: int, grid: tuple[int, int], size: tuple[int, int], sigma: float
) -> None:
    scores = [torch.rand(2, grid[0] * grid[1], generator=torch.Generator().manual_seed(seed))]
    flipped = [each.unflatten(1, grid).flip(2).flatten(1) for each in scores]
    expected = sdp_map(scores, grid, size, sigma).flip(-1)
    torch.testing.assert_close(sdp_map(flipped, grid, size, sigma), expected, atol=1e-5, rtol=0)


@given(seed=SEEDS, scale=st.floats(1e-3, 1e3), surgery=st.booleans())
def test_patch_scores_do_not_depend_on_the_length_of_embeddings(seed: int, scale: float, surgery: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(2, 5, 16, generator=generator)
    texts = torch.nn.functional.normalize(torch.randn(16, 2, generator=generator), dim=0)
    expected = patch_scores(embeddings, texts, feature_surgery=surgery)
    torch.testing.assert_close(patch_scores(embeddings * scale, texts, feature_surgery=surgery), expected)


# Normalisation and metrics.


@given(values=arrays.arrays(np.float32, st.integers(2, 50), elements=st.floats(-2, 3, width=32)), seed=SEEDS)
def test_normalisation_keeps_the_order_of_all_scores(values: np.ndarray, seed: int) -> None:
    low, middle, high = sorted(np.random.default_rng(seed).uniform(-1, 2, 3))
    points = [torch.tensor(point, dtype=torch.float64) for point in (low, middle, high)]
    bounds = (torch.tensor(-2.0), torch.tensor(3.0))
    scaled = rescale(torch.from_numpy(values).double(), *points, bounds).numpy()
    order = np.argsort(values, kind="stable")
    assert (np.diff(scaled[order]) >= 0).all()
    assert scaled.min() >= 0
    assert scaled.max() <= 1


@given(data=st.data(), size=st.integers(2, 60))
def test_auroc_of_opposite_scores_is_the_rest(data: st.DataObject, size: int) -> None:
    scores = torch.from_numpy(data.draw(arrays.arrays(np.float32, size, elements=st.floats(0, 1, width=16))))
    labels = torch.from_numpy(data.draw(arrays.arrays(np.bool_, size)))
    if labels.all() or not labels.any():
        labels[0] = ~labels[0]
    there, back = (auroc(RankCurve.from_scores(each, labels)) for each in (scores, -scores))
    assert there + back == pytest.approx(1)


# Representative vectors.

MATRICES = st.tuples(st.integers(1, 24), st.integers(2, 12), SEEDS)


def prompts_like(size: tuple[int, int, int]) -> np.ndarray:
    """Unit vectors about a direction, as prompts of one state are."""
    count, width, seed = size
    random = np.random.default_rng(seed)
    return unit(random.normal(size=width) + 0.4 * random.normal(size=(count, width))).numpy()


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(size=MATRICES, data=st.data())
def test_representatives_do_not_depend_on_the_order_of_prompts(strategy: str, size: Any, data: st.DataObject) -> None:
    embeddings = torch.from_numpy(prompts_like(size))
    order = data.draw(st.permutations(range(len(embeddings))))
    there, back = (select_representative(each, strategy) for each in (embeddings, embeddings[list(order)]))
    assert there.norm() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(there, back, atol=1e-6, rtol=0)


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(size=MATRICES, times=st.integers(2, 30))
def test_representatives_of_one_prompt_many_times_are_that_prompt(strategy: str, size: Any, times: int) -> None:
    [prompt, *_] = torch.from_numpy(prompts_like(size))
    expected = prompt
    if strategy == "pca":  # which takes the dimensions for samples, and centres them
        expected = torch.nn.functional.normalize(prompt - prompt.mean(), dim=0)
        expected = expected * (expected @ prompt).sign()
    for embeddings in (prompt[None], prompt.expand(times, -1)):
        torch.testing.assert_close(select_representative(embeddings, strategy), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("auto", [False, True])
@given(size=MATRICES)
def test_representatives_survive_any_finite_embeddings(strategy: str, auto: bool, size: Any) -> None:
    count, width, seed = size
    random = np.random.default_rng(seed)
    collinear = np.outer(random.choice([-1.0, 1.0, 0.0], count), random.normal(size=width))
    params = {name: "auto" for name in ("eps", "bandwidth") if auto and name in _parameters(strategy)}
    vector, error = None, ""
    try:
        vector = select_representative(torch.from_numpy(collinear), strategy, **params)
    except ValueError as raised:
        error = str(raised)
    assert "direction in common" in error if vector is None else vector.norm() == pytest.approx(1, abs=1e-6)


def _parameters(strategy: str) -> list[str]:
    return [name for name in STRATEGIES[strategy].__annotations__ if name != "return"]


# Class names.


@given(name=st.text(max_size=30))
def test_any_class_name_is_in_every_prompt_or_refused(name: str) -> None:
    ensemble = PromptEnsemble(["perfect {}"], ["broken {}"], ["a photo of a {}."])
    try:
        words = ensemble.class_words(name)
    except ValueError:
        return
    assert words.strip()
    assert ensemble.prompts(name) == ([f"a photo of a perfect {words}."], [f"a photo of a broken {words}."])


@pytest.mark.parametrize("name", ["", "  ", "\t\n"])
def test_a_class_name_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="Expected class_name to be a string that is not blank"):
        model("SDP").predict(torch.zeros(3, 8, 8), class_name=name)


@pytest.mark.parametrize("name", ["{}", "{0}", "{x!r}", "}{", "螺母", "ñandú 🙂", "a" * 300, "nut\x00bolt"])
def test_a_class_name_may_be_spelt_in_any_way(name: str) -> None:
    [prediction] = sdp(text_cache_dir=False).predict(torch.rand(3, 20, 20), class_name=name)
    assert np.isfinite(prediction.pred_score)
    assert prediction.class_name == name


def test_a_class_name_of_three_hundred_words_is_cut_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        sdp(text_cache_dir=False).predict(torch.rand(3, 20, 20), class_name=" ".join(["very"] * 300))
    assert "may have been cut" in caplog.text
