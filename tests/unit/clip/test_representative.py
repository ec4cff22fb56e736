# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Representative vectors, against golden vectors of the reference, explicit formulas and hand-made clusters."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from anomalib_clipad.clip.representative import STRATEGIES, select_representative, strategy_parameters

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "reference_rvs.npz")
PAPER_PARAMETERS = {"mvtec": {}, "visa": {"dbscan": {"eps": 1.5, "min_samples": 25}}}


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def cloud(centre, count, spread, seed=0):
    """Unit vectors about a centre (C,), each at a distance of about `spread`."""
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((count, len(centre))) * spread / np.sqrt(len(centre))
    return unit(unit(centre) + noise)


def select(embeddings, strategy, **params):
    return select_representative(torch.from_numpy(embeddings), strategy, **params).numpy()


@pytest.fixture
def two_modes():
    """90 prompts about the first axis, 60 about the second: (150, 64), and the mean of the 90."""
    first, second = np.eye(64)[:2]
    large = cloud(first, 90, 0.2, seed=1)
    return np.concatenate([cloud(second, 60, 0.2, seed=2), large]), unit(large.mean(axis=0))


class TestAgainstTheReference:
    @pytest.mark.parametrize("strategy", STRATEGIES)
    @pytest.mark.parametrize("dataset", PAPER_PARAMETERS)
    @pytest.mark.parametrize("prompts", ["tight", "bimodal", "outliers"])
    def test_golden_vectors(self, prompts, dataset, strategy):
        actual = select(GOLDEN[f"{prompts}/embeddings"], strategy, **PAPER_PARAMETERS[dataset].get(strategy, {}))
        np.testing.assert_allclose(actual, GOLDEN[f"{prompts}/{dataset}/{strategy}"], atol=2e-3)

    def test_golden_vectors_tell_the_strategies_apart(self):
        vectors = [GOLDEN[f"bimodal/mvtec/{strategy}"] for strategy in ("mean", "pca", "kde", "dbscan")]
        distances = [np.abs(a - b).max() for i, a in enumerate(vectors) for b in vectors[:i]]
        assert min(distances) > 2e-3

    @pytest.mark.parametrize(
        ("strategy", "params"), [("mean_shift", {"bandwidth": 2}), ("dbscan", {"eps": 1.5, "min_samples": 25})]
    )
    def test_paper_values_degenerate_to_the_mean(self, two_modes, strategy, params):
        embeddings, _ = two_modes
        np.testing.assert_allclose(select(embeddings, strategy, **params), select(embeddings, "mean"), atol=1e-9)


class TestFormulas:
    def test_mean(self, two_modes):
        embeddings, _ = two_modes
        np.testing.assert_allclose(select(embeddings, "mean"), unit(embeddings.sum(axis=0)), atol=1e-12)

    def test_pca_is_the_projection_on_the_first_eigenvector(self, two_modes):
        embeddings, _ = two_modes
        samples = embeddings.T - embeddings.T.mean(axis=0)
        _, eigenvectors = np.linalg.eigh(samples.T @ samples)
        expected = unit(samples @ eigenvectors[:, -1])
        expected *= np.sign(expected @ embeddings.mean(axis=0))
        np.testing.assert_allclose(select(embeddings, "pca"), expected, atol=1e-9)

    def test_pca_points_to_the_side_of_the_prompts(self):
        for seed in range(4):
            embeddings = cloud(np.random.default_rng(seed).standard_normal(64), 40, 0.5, seed)
            assert select(embeddings, "pca") @ embeddings.mean(axis=0) > 0
            assert select(-embeddings, "pca") @ -embeddings.mean(axis=0) > 0

    def test_pca_turns_when_the_purest_prompt_is_opposite(self):
        # sklearn makes the largest loading positive: here that of the one prompt that points away from the others.
        axis = unit(np.random.default_rng(0).standard_normal(64))
        embeddings = np.concatenate([cloud(axis, 20, 1.0), -axis[None]])
        assert select(embeddings, "pca") @ embeddings.mean(axis=0) > 0

    def test_pca_is_exact_and_repeatable_at_real_size(self):
        # Above 500 dimensions sklearn's default is a randomised solver.
        embeddings = cloud(np.random.default_rng(0).standard_normal(640), 198, 0.6)
        np.testing.assert_array_equal(select(embeddings, "pca"), select(embeddings, "pca"))

    @pytest.mark.parametrize("bandwidth", [0.3, 0.7])
    def test_kde_is_the_density_weighted_mean(self, two_modes, bandwidth):
        embeddings, _ = two_modes
        density = np.array(
            [sum(np.exp(-((a - b) @ (a - b)) / (2 * bandwidth**2)) for b in embeddings) for a in embeddings]
        )
        expected = unit(density @ embeddings)
        np.testing.assert_allclose(select(embeddings, "kde", bandwidth=bandwidth), expected, atol=1e-9)

    def test_kde_stays_finite_in_many_dimensions(self):
        vector = select(cloud(np.ones(4096), 30, 0.4), "kde", bandwidth=0.05)
        assert np.isfinite(vector).all()

    @pytest.mark.parametrize("params", [{}, {"eps": 0.4, "min_samples": 60}, {"eps": "auto"}])
    def test_dbscan_takes_the_largest_cluster(self, two_modes, params):
        embeddings, expected = two_modes
        np.testing.assert_allclose(select(embeddings, "dbscan", **params), expected, atol=1e-2)
        assert np.abs(select(embeddings, "mean") - expected).max() > 0.2

    @pytest.mark.parametrize("bandwidth", [0.5, "auto"])
    def test_mean_shift_takes_the_largest_cluster(self, two_modes, bandwidth):
        embeddings, expected = two_modes
        np.testing.assert_allclose(select(embeddings, "mean_shift", bandwidth=bandwidth), expected, atol=1e-2)


class TestScaleAwareParameters:
    @pytest.mark.parametrize("spread", [0.02, 0.3, 1.2])
    def test_dbscan_auto_always_finds_a_cluster(self, caplog, spread):
        embeddings = cloud(np.ones(640), 198, spread)
        with caplog.at_level(logging.WARNING):
            vector = select(embeddings, "dbscan", eps="auto")
        assert not caplog.records
        assert vector @ unit(np.ones(640)) > 0.99

    @pytest.mark.parametrize("count", [2, 3, 8])
    def test_dbscan_auto_reaches_prompts_at_exactly_its_radius(self, caplog, count):
        select(np.eye(count), "dbscan", eps="auto", min_samples=2)
        assert not caplog.records

    def test_dbscan_auto_separates_what_the_paper_value_joins(self):
        # Two modes 0.42 apart: within one eps of 0.5, but far apart by the scale of the prompts themselves.
        first = unit(np.eye(64)[0])
        second = unit(first + 0.44 * np.eye(64)[1])
        large = cloud(first, 100, 0.05, seed=1)
        embeddings = np.concatenate([large, cloud(second, 50, 0.05, seed=2)])
        np.testing.assert_allclose(select(embeddings, "dbscan"), select(embeddings, "mean"), atol=1e-9)
        expected = unit(large.mean(axis=0))
        np.testing.assert_allclose(select(embeddings, "dbscan", eps="auto"), expected, atol=1e-2)
        np.testing.assert_allclose(select(embeddings, "mean_shift", bandwidth="auto"), expected, atol=1e-2)
        # The kernel of the estimated width weighs the larger mode more than the mean does.
        kde = select(embeddings, "kde", bandwidth="auto")
        assert kde @ expected > select(embeddings, "mean") @ expected

    @pytest.mark.parametrize(
        ("strategy", "name"), [("kde", "bandwidth"), ("dbscan", "eps"), ("mean_shift", "bandwidth")]
    )
    @pytest.mark.parametrize("count", [1, 2, 3, 30])
    def test_auto_survives_prompts_that_coincide(self, strategy, name, count):
        embeddings = np.tile(unit(np.arange(1.0, 9.0)), (count, 1))
        np.testing.assert_allclose(select(embeddings, strategy, **{name: "auto"}), embeddings[0], atol=1e-9)


class TestFallback:
    @pytest.mark.parametrize("params", [{"eps": 0.01}, {"min_samples": 500}, {"eps": "auto", "min_samples": 500}])
    def test_dbscan_without_a_cluster_is_the_logged_mean(self, caplog, two_modes, params):
        embeddings, _ = two_modes
        with caplog.at_level(logging.WARNING):
            vector = select(embeddings, "dbscan", **params)
        np.testing.assert_allclose(vector, select(embeddings, "mean"), atol=1e-12)
        assert "found no cluster among 150 prompts: their mean is used" in caplog.text

    def test_mean_shift_with_every_prompt_alone_is_the_logged_mean(self, caplog, two_modes):
        embeddings, _ = two_modes
        with caplog.at_level(logging.WARNING):
            vector = select(embeddings, "mean_shift", bandwidth=1e-4)
        np.testing.assert_allclose(vector, select(embeddings, "mean"), atol=1e-12)
        assert "mean_shift with bandwidth=0.0001 found no cluster" in caplog.text

    def test_a_cluster_is_not_logged(self, caplog, two_modes):
        select(two_modes[0], "dbscan")
        assert not caplog.records


class TestContract:
    @pytest.mark.parametrize("strategy", STRATEGIES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_unit_length_and_the_dtype_given(self, two_modes, strategy, dtype):
        embeddings = torch.from_numpy(two_modes[0]).to(dtype)
        before = embeddings.clone()
        vector = select_representative(embeddings, strategy)
        assert vector.shape == (64,)
        assert vector.dtype == dtype
        assert vector.norm().item() == pytest.approx(1, abs=1e-6)
        assert torch.equal(embeddings, before)

    def test_gradients_are_left_out(self, two_modes):
        embeddings = torch.from_numpy(two_modes[0]).requires_grad_()
        assert not select_representative(embeddings, "mean").requires_grad

    def test_parameters_are_completed_with_the_paper_values(self):
        assert {name: strategy_parameters(name) for name in STRATEGIES} == {
            "mean": {},
            "pca": {},
            "kde": {"bandwidth": 0.3},
            "dbscan": {"eps": 0.5, "min_samples": 15},
            "mean_shift": {"bandwidth": 2.0},
        }
        assert strategy_parameters("dbscan", {"eps": 1.5}) == {"eps": 1.5, "min_samples": 15}


class TestErrors:
    def test_unknown_strategy_lists_the_valid_ones(self):
        with pytest.raises(ValueError, match=r"one of \['mean', 'pca', 'kde', 'dbscan', 'mean_shift'\], but got 'med'"):
            select(np.eye(3), "med")

    @pytest.mark.parametrize(
        ("strategy", "valid"), [("dbscan", r"\['eps', 'min_samples'\]"), ("mean", r"\[\]"), ("kde", r"\['bandwidth'\]")]
    )
    def test_unknown_parameter_lists_the_valid_ones(self, strategy, valid):
        with pytest.raises(ValueError, match=rf"strategy '{strategy}' to be among {valid}, but got \['radius'\]"):
            select(np.eye(3), strategy, radius=1)

    @pytest.mark.parametrize("value", [0, -1.0, float("nan"), "scott", True, None])
    @pytest.mark.parametrize(
        ("strategy", "name"), [("kde", "bandwidth"), ("dbscan", "eps"), ("mean_shift", "bandwidth")]
    )
    def test_length_that_is_none_is_refused(self, strategy, name, value):
        with pytest.raises(ValueError, match=f"Expected {name} to be a positive number or 'auto', but got {value!r}"):
            select(np.eye(3), strategy, **{name: value})

    @pytest.mark.parametrize("min_samples", [0, 1.5])
    @pytest.mark.parametrize("eps", [0.5, "auto"])
    def test_min_samples_that_is_no_count_is_refused(self, min_samples, eps):
        with pytest.raises(
            ValueError, match=f"Expected min_samples to be an integer of at least 1, but got {min_samples}"
        ):
            select(np.eye(3), "dbscan", eps=eps, min_samples=min_samples)

    @pytest.mark.parametrize("shape", [(4,), (0, 4), (4, 0), (2, 3, 4)])
    def test_wrong_shape_is_refused(self, shape):
        with pytest.raises(ValueError, match=r"Expected embeddings to have shape \(K, C\) with at least one prompt"):
            select(np.ones(shape), "mean")

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_embeddings_that_are_not_finite_are_refused(self, value):
        embeddings = np.eye(3)
        embeddings[1] = value
        with pytest.raises(ValueError, match="to be finite, but got NaN or infinity in 1 of 3 prompts"):
            select(embeddings, "kde")

    def test_embeddings_that_cancel_are_refused(self):
        with pytest.raises(ValueError, match="to have a direction in common, but got a 'mean' vector of length"):
            select(np.array([[1.0, 0.0], [-1.0, 0.0]]), "mean")
