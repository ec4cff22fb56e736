# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Images of a run that score each other, class by class."""

import re

import pytest
import torch
from torch import Tensor

from anomalib_clipad.scoring.fusion import DISTANCE_GAIN, as_distances
from anomalib_clipad.scoring.neighbours import mutual_scores, smoothed_by_neighbours
from anomalib_clipad.scoring.pool import Pool, PoolTokens

GRID, NAMES = (2, 3), ["nut", "bolt", "gear"]


def layers(images: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(images, 6, 16, generator=generator).half().float() for _ in range(2)]


def collect(options: Pool, classes: list[int], folder, batch: int = 4) -> PoolTokens:
    tokens, found = PoolTokens(options, len(classes), folder), layers(len(classes))
    embeddings = torch.randn(len(classes), 8, generator=torch.Generator().manual_seed(1))
    for start in range(0, len(classes), batch):
        rows = slice(start, start + batch)
        tokens.add([layer[rows] for layer in found], GRID, embeddings[rows], torch.tensor(classes[rows]))
    return tokens


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_images_of_a_class_score_each_other(tmp_path, place):
    classes = [0, 1, 0, 1, 0, 1, 0, 0, 1, 1]
    scored = collect(Pool(minimum=2, tokens=place), classes, tmp_path).scores(NAMES)

    embeddings = torch.randn(10, 8, generator=torch.Generator().manual_seed(1))
    for index in (0, 1):
        rows = torch.tensor(classes) == index
        patches = mutual_scores([layer[rows] for layer in layers(10)], GRID)
        maxima = (DISTANCE_GAIN * as_distances(patches)).clamp(max=1).amax(-1)
        torch.testing.assert_close(scored.scores.patches[rows], patches)
        torch.testing.assert_close(scored.scores.images[rows], smoothed_by_neighbours(maxima, embeddings[rows]))
    assert scored.sizes == {"nut": 5, "bolt": 5}
    assert torch.equal(scored.of(slice(2, 4)).patches, scored.scores.patches[2:4])


def test_too_few_images_are_scored_without(tmp_path, caplog):
    scored = collect(Pool(minimum=4), [0, 0, 0, 0, 2], tmp_path).scores(NAMES)

    assert scored.scores.known.tolist() == [True] * 4 + [False]
    assert "Expected at least 4 images of gear in a pool (pool.minimum), but got 1" in caplog.text


def test_many_images_are_split_at_random_by_the_seed(tmp_path):
    def scores(seed: int) -> Tensor:
        return collect(Pool(minimum=2, maximum=4, seed=seed), [0] * 10, tmp_path).scores(NAMES).scores.patches

    whole = collect(Pool(minimum=2), [0] * 10, tmp_path).scores(NAMES).scores.patches
    assert torch.equal(scores(0), scores(0))
    assert not torch.equal(scores(0), scores(1))
    assert not torch.equal(scores(0), whole)
    assert (scores(0) > 0).all()


def test_files_that_were_announced_and_could_not_be_read_leave_no_rows(tmp_path):
    tokens = PoolTokens(Pool(minimum=2), 100, tmp_path)
    tokens.add(layers(3), GRID, torch.randn(3, 8), torch.zeros(3, dtype=torch.long))
    assert tokens.scores(NAMES).scores.patches.shape == (3, 6)
    assert not PoolTokens(Pool(), 3, tmp_path).scores(NAMES).sizes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"minimum": 1}, "Expected pool.minimum to be at least 2 and at most pool.maximum, but got 1 and 400."),
        ({"maximum": 4}, "Expected pool.minimum to be at least 2 and at most pool.maximum, but got 8 and 4."),
        ({"tokens": "tape"}, "Expected pool.tokens to be memory or disk, but got 'tape'."),
    ],
)
def test_options_that_are_not_valid_are_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Pool.of(arguments)
