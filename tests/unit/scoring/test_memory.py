# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What a model remembers of references: classes apart, an image apart from itself, in a state dict, thinned."""

import copy

import pytest
import torch
from torch import Tensor

from anomalib_clipad.scoring.memory import Memory
from anomalib_clipad.scoring.neighbours import reference_distances

LAYERS, PATCHES, WIDTH = 2, 6, 16


def tokens(images: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(images, PATCHES, WIDTH, generator=generator) for _ in range(LAYERS)]


@pytest.fixture
def memory() -> Memory:
    """Three references of class 0, two of class 2."""
    memory = Memory(LAYERS, WIDTH)
    memory.add(0, tokens(3, seed=0))
    memory.add(2, tokens(2, seed=1))
    return memory


def alone(layers: list[Tensor], references: list[Tensor]) -> Tensor:
    """Distances to references of which there are no others."""
    only = Memory(LAYERS, WIDTH)
    only.add(0, references)
    return reference_distances(layers, list(only.patches))


def test_each_image_is_compared_with_references_of_its_class(memory):
    layers, classes = tokens(4, seed=2), torch.tensor([2, 0, 1, 2])

    distances = memory(layers, classes)

    torch.testing.assert_close(distances[1:2], alone([layer[1:2] for layer in layers], tokens(3, seed=0)))
    torch.testing.assert_close(distances[[0, 3]], alone([layer[[0, 3]] for layer in layers], tokens(2, seed=1)))
    assert not distances[2].any()
    assert memory.knows(classes, 4).tolist() == [True, True, False, True]


def test_a_compiled_graph_gives_the_same(memory, monkeypatch):
    layers, classes = tokens(4, seed=2), torch.tensor([2, 0, 1, 2])
    expected = memory(layers, classes)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(memory(layers, classes), expected)


def test_a_reference_does_not_vouch_for_itself(memory):
    first, new = [layer[:1] for layer in tokens(3, seed=0)], tokens(1, seed=2)
    layers = [torch.cat(pair) for pair in zip(first, new, strict=True)]
    classes = torch.zeros(2, dtype=torch.long)

    distances = memory(layers, classes, left_out=True)

    torch.testing.assert_close(distances[:1], alone(first, [layer[1:] for layer in tokens(3, seed=0)]))
    torch.testing.assert_close(distances[1:], memory(new, classes[1:]))  # which is no reference
    assert memory(first, classes[:1]).max() < 1e-6


def test_copies_of_an_image_count_as_that_image():
    memory = Memory(LAYERS, WIDTH)
    memory.add(0, tokens(4, seed=0), copies=2)
    memory.add(0, tokens(2, seed=1), copies=2)

    assert memory.n_images(0) == 3
    first = [layer[:1] for layer in tokens(4, seed=0)]
    others = [torch.cat([a[2:], b]) for a, b in zip(tokens(4, seed=0), tokens(2, seed=1), strict=True)]
    torch.testing.assert_close(memory(first, torch.zeros(1, dtype=torch.long), left_out=True), alone(first, others))


def test_classes_are_chosen_and_numbered_anew(memory):
    layers = tokens(2, seed=2)
    expected = memory(layers, torch.tensor([2, 0]))

    chosen = copy.deepcopy(memory)
    chosen.select([2, 1, 0])

    torch.testing.assert_close(chosen(layers, torch.tensor([0, 2])), expected)
    assert [chosen.n_images(index) for index in range(3)] == [2, 0, 3]
    chosen.select([0])
    assert len(chosen) == 2 * PATCHES


def test_one_class_or_all_are_forgotten(memory):
    memory.forget(0)
    assert (memory.n_images(0), memory.n_images(2)) == (0, 2)
    memory.forget()
    assert len(memory) == 0


def test_it_survives_a_state_dict_of_any_size(memory):
    layers, classes = tokens(2, seed=2), torch.tensor([2, 0])
    other = Memory(LAYERS, WIDTH)
    other.add(1, tokens(1, seed=3))

    other.load_state_dict(memory.state_dict())
    torch.testing.assert_close(other(layers, classes), memory(layers, classes))
    assert other.n_images(2) == 2

    other.load_state_dict({})  # of a version that knew no references
    assert len(other) == 0


def test_thinning_keeps_what_covers_the_rest():
    memory, clusters = Memory(1, WIDTH), torch.eye(WIDTH)[:4]
    noise = 0.01 * torch.randn(50, 4, WIDTH, generator=torch.Generator().manual_seed(0))
    memory.add(0, [clusters + noise])
    memory.add(1, [torch.randn(1, 3, WIDTH)])

    memory.thin(0, 4)

    assert (memory.class_index == 0).sum() == 4
    assert (memory.class_index == 1).sum() == 3
    assert memory([clusters[None]], torch.tensor([0])).max() < 0.01
    assert memory.n_images(0) == 50


def test_thinning_is_determined_by_the_patches():
    kept = []
    for _ in range(2):
        memory = Memory(LAYERS, WIDTH)
        memory.add(0, tokens(20, seed=0))
        memory.thin(0, 30)
        kept.append(memory.patches)
        torch.rand(1)
    assert torch.equal(*kept)
