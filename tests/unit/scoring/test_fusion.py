# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The rule by which text, heads, references and pool become one map and one score."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from anomalib_clipad.scoring.anomaly_map import patch_scores
from anomalib_clipad.scoring.fusion import (
    PoolScores,
    Source,
    Weights,
    as_distances,
    distance_map,
    fuse_sources,
    pool_map,
    text_map,
)

GRID, SIZE = (2, 3), (4, 6)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_where_the_class_token_is_neutral_the_texts_map_is_clips_own_softmax():
    texts = functional.normalize(rand(8, 2) - 0.5, dim=0)
    patches = functional.normalize(rand(1, 6, 8, seed=1) - 0.5, dim=-1)
    neutral = functional.normalize(torch.linalg.qr(torch.cat([texts, rand(8, 1)], dim=1)).Q[:, 2], dim=0)
    scores = patch_scores(torch.cat([neutral[None, None], patches], dim=1), texts)

    actual = text_map([scores, scores], GRID, GRID, sigma=0)

    expected = (100 * patches @ texts).softmax(-1)[..., 1].unflatten(-1, GRID)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_distances_are_brought_near_one():
    distances = torch.tensor([[0.0, 0.1, 0.2, 0.3, 0.0, 0.0]])

    anomaly_map, score = distance_map(distances, GRID, GRID, sigma=0)

    torch.testing.assert_close(anomaly_map.flatten(), torch.tensor([0.0, 0.35, 0.7, 1.0, 0.0, 0.0]))
    assert score.item() == 1


def test_a_pools_distances_have_the_unit_of_the_references():
    one, other = functional.normalize(rand(2, 8), dim=-1)
    expected = (1 - one @ other) / 2
    torch.testing.assert_close(as_distances((one - other).norm()), expected)
    pool = PoolScores((one - other).norm().expand(1, 6), torch.tensor([0.4]), torch.tensor([True]))
    anomaly_map, score = pool_map(pool, GRID, GRID, 0)
    torch.testing.assert_close(anomaly_map, (3.5 * expected).clamp(max=1).expand(1, *GRID))
    assert score.item() == pytest.approx(0.4)


def make_source(seed: int, weights: list[float]) -> Source:
    return Source(rand(2, *SIZE, seed=seed), rand(2, seed=seed), torch.tensor(weights))


def test_maps_and_scores_are_weighted_means():
    text, one, other = make_source(1, [1.0, 1.0]), make_source(2, [3.0, 0.0]), make_source(3, [4.0, 4.0])

    maps, scores = fuse_sources(text, [one, other], torch.zeros(2, *SIZE))

    torch.testing.assert_close(maps[0], (text[0][0] + 3 * one[0][0] + 4 * other[0][0]) / 8)
    torch.testing.assert_close(maps[1], (text[0][1] + 4 * other[0][1]) / 5)
    torch.testing.assert_close(scores[1], (text[1][1] + 4 * other[1][1]) / 5)


def test_an_image_without_other_evidence_keeps_the_map_and_score_of_the_text_even_at_weight_zero():
    text, other, alone = make_source(1, [0.0, 0.0]), make_source(2, [0.85, 0.0]), rand(2, *SIZE, seed=4)

    maps, scores = fuse_sources(text, [other], alone)

    torch.testing.assert_close(maps, torch.stack([other.anomaly_map[0], alone[1]]))
    torch.testing.assert_close(scores, torch.stack([other.score[0], text.score[1]]))


class TestWeights:
    def test_are_named_one_by_one(self):
        assert Weights.of({"text": 0}) == Weights(text=0)
        assert Weights.of(None) == Weights()
        assert Weights.of({"text": 0}, Weights(1, 2, 3)) == Weights(0, 2, 3)

    @pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
    def test_that_are_not_valid_are_refused(self, value):
        with pytest.raises(ValueError, match=r"Expected weights.pool to be a finite number, 0 or more, but got"):
            Weights(pool=value)

    def test_of_an_unknown_source_are_refused(self):
        with pytest.raises(ValueError, match="Expected weights of text, references, pool, but got one of vision"):
            Weights.of({"vision": 1})
