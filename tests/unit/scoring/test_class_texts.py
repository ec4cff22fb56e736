# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Classes and their text embeddings."""

import pytest
import torch

from anomalib_clipad.scoring.class_texts import ClassTexts

NUT, BOLT, GEAR = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def texts() -> ClassTexts:
    """Two classes, C = 5."""
    texts = ClassTexts(embed_dim=5)
    assert (texts.add("nut", NUT), texts.add("bolt", BOLT)) == (0, 1)
    return texts


def test_each_image_gets_the_embeddings_of_its_class(texts):
    assert torch.equal(texts(torch.tensor([1, 0, 1])), torch.stack([BOLT, NUT, BOLT]))


def test_without_an_index_it_is_the_only_class(texts):
    texts.replace(["bolt"], BOLT[None])
    assert torch.equal(texts(), BOLT)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, r"Expected class_index for a model of 2 classes, but got none\. Classes: 0 nut, 1 bolt\."),
        (torch.tensor([0, 2]), r"between 0 and 1, but got \[0, 2\]\. Classes: 0 nut, 1 bolt\."),
        (torch.tensor([-1, 0]), r"between 0 and 1, but got \[-1, 0\]\."),
        (torch.tensor([0]), r"one index for each of 2 images, but got shape \(1,\)\."),
    ],
)
def test_a_wrong_index_is_refused(texts, index, message):
    with pytest.raises(ValueError, match=message):
        texts(index, 2)


def test_a_known_class_gets_new_embeddings_in_its_place(texts):
    assert texts.add("nut", GEAR) == 0
    assert texts.names == ["nut", "bolt"]
    assert torch.equal(texts.embeddings, torch.stack([GEAR, BOLT]))


def test_embeddings_in_use_and_inference_tensors_are_left_alone(texts):
    in_use = texts.embeddings
    with torch.inference_mode():
        texts.add("gear", GEAR)
    texts.add("gear", NUT)

    assert torch.equal(in_use, torch.stack([NUT, BOLT]))
    assert torch.equal(texts.embeddings, torch.stack([NUT, BOLT, NUT]))


def test_replacing_forgets_the_classes_known_before(texts):
    texts.replace(["gear"], GEAR[None])

    assert texts.names == ["gear"]
    assert torch.equal(texts(torch.tensor([0])), GEAR[None])
    assert texts.add("nut", NUT) == 1


def test_embeddings_take_the_precision_of_the_module(texts):
    texts.double()
    texts.add("gear", GEAR)
    assert texts.embeddings.dtype == torch.float64
    texts.replace(["nut"], NUT[None])
    assert texts.embeddings.dtype == torch.float64


def test_the_caller_keeps_its_list_of_names(texts):
    names = ["gear"]
    texts.replace(names, GEAR[None])
    texts.add("nut", NUT)
    assert names == ["gear"]


def test_embeddings_are_part_of_the_state(texts):
    assert torch.equal(texts.state_dict()["embeddings"], torch.stack([NUT, BOLT]))


@pytest.mark.parametrize("class_index", [None, torch.tensor([0])])
def test_without_a_class_there_is_nothing_to_compare_with(class_index):
    with pytest.raises(RuntimeError, match=r"Expected text embeddings of at least one class, but got none\. Add a"):
        ClassTexts(embed_dim=5)(class_index)
