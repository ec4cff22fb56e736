# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The model that ships with the package."""

from pathlib import Path

import torch

from anomalib_clipad.clip import embedded
from anomalib_clipad.clip.backbone import load_backbone


def test_files_are_small_and_have_a_model_card():
    folder = Path(embedded.__file__).parent

    for name in embedded.NAMES:
        assert (folder / f"{name}.safetensors").stat().st_size <= 6_000_000
        assert name in (folder / "README.md").read_text()


def test_four_stages_divide_the_layers():
    assert load_backbone("clipad-tiny").depth % 4 == 0


def test_loading_twice_gives_the_same_weights():
    assert load_backbone("clipad-tiny").fingerprint == load_backbone("clipad-tiny").fingerprint
    assert load_backbone("clipad-tiny").fingerprint != load_backbone("clipad-tiny", "random").fingerprint


def test_tokens_unseen_in_training_have_the_zero_vector_and_some_have_not():
    table = embedded.state_dict("clipad-tiny")["token_embedding.weight"]

    used = table.any(dim=1)

    assert table.shape == (49408, 128)
    assert 100 < used.sum() < 1000
    assert torch.isfinite(table).all()


def test_images_and_texts_meet_in_one_space():
    clip = load_backbone("clipad-tiny")

    image = clip.model.encode_image(torch.randn(1, 3, *clip.image_size), normalize=True)
    text = clip.model.encode_text(clip.tokenizer(["a photo of a damaged nut."]), normalize=True)

    assert image.shape == text.shape == (1, clip.embed_dim)
