# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Distances to references against the host's WinCLIP, mutual scoring against MuSc's own code (golden tensors)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.models.image.winclip.utils import visual_association_score
from torch import Tensor
from torch.nn import functional

from anomalib_clipad.scoring.neighbours import (
    mutual_scores,
    neighbourhood,
    reference_distances,
    smoothed_by_neighbours,
)

GRID = (6, 6)


@pytest.fixture(scope="module")
def pool() -> dict[str, Tensor]:
    with np.load(Path(__file__).parents[2] / "golden" / "reference_mutual.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


@pytest.fixture(scope="module")
def layers(pool) -> list[Tensor]:
    return [pool[f"tokens_{layer}"][:, 1:] for layer in range(4)]


def unit(*shape: int, seed: int) -> Tensor:
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


class TestReferences:
    def test_distances_are_those_of_the_hosts_winclip(self):
        patches, memory = (
            [unit(3, 20, 16, seed=layer) for layer in range(2)],
            [unit(50, 16, seed=9), unit(50, 16, seed=8)],
        )
        expected = [visual_association_score(*pair) for pair in zip(patches, memory, strict=True)]

        # The length of a patch says nothing.
        actual = reference_distances([7 * layer for layer in patches], memory)

        torch.testing.assert_close(actual, torch.stack(expected).mean(0), rtol=0, atol=1e-6)

    def test_each_image_is_compared_with_references_of_its_class(self):
        patches, memory = [unit(3, 20, 16, seed=0)], [unit(50, 16, seed=1)]
        allowed = torch.zeros(3, 50, dtype=torch.bool)
        allowed[0, :30] = allowed[1, 30:] = True

        actual = reference_distances(patches, memory, allowed)

        for image, rows in enumerate((memory[0][:30], memory[0][30:])):
            torch.testing.assert_close(
                actual[image : image + 1], reference_distances([patches[0][image : image + 1]], [rows])
            )
        assert not actual[2].any()

    def test_patches_of_the_references_themselves_are_at_distance_zero(self):
        patches = unit(2, 20, 16, seed=0)
        assert reference_distances([patches], [patches.flatten(0, 1)]).max() < 1e-6


class TestPool:
    @pytest.mark.parametrize("degree", [1, 3, 5])
    def test_neighbourhoods_are_those_of_the_reference(self, pool, layers, degree):
        actual = torch.stack([neighbourhood(layer, GRID, degree) for layer in layers], dim=2)
        torch.testing.assert_close(actual, pool[f"neighbourhood_{degree}"], rtol=0, atol=1e-5)

    @pytest.mark.parametrize("degrees", [(1,), (3,), (5,), (1, 3, 5)])
    def test_scores_are_those_of_the_reference(self, pool, layers, degrees):
        expected = pool["mutual" if len(degrees) > 1 else f"mutual_{degrees[0]}"]
        torch.testing.assert_close(mutual_scores(layers, GRID, degrees), expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("images", [1, 3, 4, 9])
    def test_blocks_of_any_size_give_the_same(self, layers, images):
        block_bytes = 4 * (36 * images) ** 2
        expected = mutual_scores(layers, GRID)
        torch.testing.assert_close(mutual_scores(layers, GRID, block_bytes=block_bytes), expected, rtol=0, atol=1e-6)

    def test_scores_are_those_of_an_explicit_loop(self):
        tokens, share = torch.randn(5, 6, 8, generator=torch.Generator().manual_seed(0)), 0.6
        aggregated = neighbourhood(tokens, (2, 3), 1)
        expected = torch.zeros(5, 6)
        for i in range(5):
            for p in range(6):
                nearest = sorted(
                    min(float((aggregated[i, p] - aggregated[j, q]).norm()) for q in range(6))
                    for j in range(5)
                    if j != i
                )
                expected[i, p] = sum(nearest[:2]) / 2
        torch.testing.assert_close(mutual_scores([tokens], (2, 3), (1,), share), expected, rtol=0, atol=1e-5)

    def test_image_scores_are_those_of_the_reference(self, pool):
        scores = pool["image_score"]
        scaled = (scores - scores.min()) / (scores.max() - scores.min())
        actual = smoothed_by_neighbours(scaled, pool["class_embeddings"])
        torch.testing.assert_close(actual, pool["image_score_optimised"], rtol=0, atol=1e-5)

    def test_equal_images_have_equal_scores(self):
        tokens = torch.randn(1, 36, 8, generator=torch.Generator().manual_seed(0)).expand(4, -1, -1)
        scores = mutual_scores([tokens], GRID)
        assert scores.max() < 1e-2  # square roots of rounding
        assert smoothed_by_neighbours(torch.ones(4), torch.ones(4, 3)).isfinite().all()

    def test_one_image_is_no_pool(self, layers):
        with pytest.raises(ValueError, match="Expected a pool of at least 2 images, but got 1"):
            mutual_scores([layer[:1] for layer in layers], GRID)

    def test_even_neighbourhoods_are_refused(self, layers):
        with pytest.raises(ValueError, match=r"Expected degrees to be odd numbers of patches, but got \[1, 2\]"):
            mutual_scores(layers, GRID, (1, 2))
