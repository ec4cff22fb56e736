# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The linear heads: their names, which patches they see, and their training against the reference implementation."""

import pytest
import torch
from torch import Tensor

from anomalib_clipad.clip.surgery import surgery_tokens
from anomalib_clipad.scoring.anomaly_map import head_logit_map, head_logits
from anomalib_clipad.scoring.heads import LinearHeads
from anomalib_clipad.scoring.loss import SegmentationLoss, segmentation_loss


@pytest.fixture
def golden_heads(golden) -> LinearHeads:
    heads = LinearHeads(width=64, embed_dim=32)
    heads.load_state_dict({f"fc.{i}.{part}": golden.tensors[f"head/fc.{i}.{part}"] for i, part in names(4)})
    return heads


def names(layers: int) -> list[tuple[int, str]]:
    return [(index, part) for index in range(layers) for part in ("weight", "bias")]


def golden_loss(golden, heads: LinearHeads, original: list[Tensor]) -> SegmentationLoss:
    logits = [head_logits(layer, golden.tensors["text"]) for layer in heads(original)]
    return segmentation_loss([head_logit_map(layer, (6, 6), (96, 96)) for layer in logits], golden.tensors["mask"])


def test_state_dict_has_the_names_of_the_authors_files():
    heads = LinearHeads(width=6, embed_dim=5, num_layers=3)
    shapes = {key: tuple(value.shape) for key, value in heads.state_dict().items()}
    assert shapes == {f"fc.{index}.{part}": (5, 6) if part == "weight" else (5,) for index, part in names(3)}
    assert (heads.width, heads.embed_dim, heads.num_layers) == (6, 5, 3)


def test_heads_of_the_papers_model_have_two_million_numbers():
    with torch.device("meta"):
        heads = LinearHeads(width=896, embed_dim=640)
    assert sum(parameter.numel() for parameter in heads.parameters()) == 2_296_320


def test_each_layer_has_its_own_affine_map_of_patches():
    heads = LinearHeads(width=6, embed_dim=5, num_layers=2)
    patches = [torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]

    result = heads(patches)

    for index, layer in enumerate(result):
        weight, bias = heads.fc[index].weight, heads.fc[index].bias
        assert layer.shape == (2, 3, 5)
        for image in range(2):
            for patch in range(3):
                expected = weight @ patches[index][image, patch] + bias
                torch.testing.assert_close(layer[image, patch], expected)


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_tokens_give_float32_embeddings(autocast):
    heads, tokens = LinearHeads(16, 8, 1), torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        (result,) = heads([tokens.bfloat16()])
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, heads([tokens])[0], atol=0.02, rtol=0)


@pytest.mark.parametrize("tokens", ["recorded", "own"])
def test_three_adam_steps_match_the_reference(golden, golden_heads, tokens):
    """Losses and heads of the reference's own training, on its recorded tokens and on those of the dual path here."""
    if tokens == "own":
        original = surgery_tokens(golden.model.visual, golden.tensors["image"], golden.layers).patches
    else:
        original = [golden.tensors[f"original_tokens_{layer}"][:, 1:] for layer in golden.layers]
    optimizer = torch.optim.Adam(golden_heads.parameters(), lr=1e-4)
    losses = []
    for _ in range(3):
        loss = golden_loss(golden, golden_heads, original).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())

    torch.testing.assert_close(torch.stack(losses), golden.tensors["losses"].float(), atol=2e-5, rtol=0)
    for key, value in golden_heads.state_dict().items():
        torch.testing.assert_close(value, golden.tensors[f"head_after3/{key}"], atol=1e-5, rtol=0)


def test_golden_training_tells_the_taps_apart(golden, golden_heads):
    original = surgery_tokens(golden.model.visual, golden.tensors["image"], golden.layers, taps="block").patches
    loss = golden_loss(golden, golden_heads, original).total
    assert abs(loss.item() - golden.tensors["losses"][0].item()) > 0.1


@pytest.mark.parametrize(
    ("widths", "got"), [([6], r"1 layers of widths \[6\]"), ([6, 7], r"2 layers of widths \[6, 7\]"), ([], "0 layers")]
)
def test_tokens_must_fit(widths, got):
    heads = LinearHeads(width=6, embed_dim=5, num_layers=2)
    message = f"Expected patches to be those of 2 layers of width 6, but got {got}.*Use heads made for this"
    with pytest.raises(ValueError, match=message):
        heads([torch.zeros(1, 4, width) for width in widths])


@pytest.mark.parametrize("name", ["width", "embed_dim", "num_layers"])
def test_dimensions_must_be_positive(name):
    with pytest.raises(ValueError, match=f"Expected {name} to be a positive number, but got 0"):
        LinearHeads(**{"width": 6, "embed_dim": 5, "num_layers": 2, name: 0})
