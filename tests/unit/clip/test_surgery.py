# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The staged dual path, against golden tensors, an explicit softmax loop and open_clip's own forward."""

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from anomalib_clipad.clip.surgery import normalise_layers, stage_ends, surgery_tokens


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of queries of each attention that is computed from here on."""
    numbers: list[int] = []
    attend = functional.scaled_dot_product_attention

    def spy(query, *others):
        numbers.append(query.shape[2])
        return attend(query, *others)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", spy)
    return numbers


def block_outputs(visual: nn.Module, image: Tensor) -> list[Tensor]:
    """Tokens z_0, z_1, ... of the unmodified tower, batch first, recorded while open_clip runs it."""
    recorded: list[Tensor] = []
    blocks = visual.transformer.resblocks
    hooks = [
        blocks[0].register_forward_pre_hook(lambda _, args: recorded.append(args[0])),
        *(block.register_forward_hook(lambda _, __, output: recorded.append(output)) for block in blocks),
    ]
    visual(image)
    for hook in hooks:
        hook.remove()
    if recorded[0].shape[0] != image.shape[0]:  # open_clip up to 2.24 runs its blocks sequence first
        recorded = [tokens.transpose(0, 1) for tokens in recorded]
    return recorded


def value_value_attention(block: nn.Module, tokens: Tensor) -> Tensor:
    """Contribution s of a block to the surgery path, by an explicit loop over images, heads and tokens."""
    attn = block.attn
    width, heads = attn.embed_dim, attn.num_heads
    values = block.ln_1(tokens) @ attn.in_proj_weight[2 * width :].T + attn.in_proj_bias[2 * width :]
    mixed = torch.zeros_like(values)
    for image in range(values.shape[0]):
        for head in range(heads):
            part = slice(head * width // heads, (head + 1) * width // heads)
            v = values[image, :, part]
            for token in range(v.shape[0]):
                weights = torch.exp(v @ v[token] / (width // heads) ** 0.5)
                mixed[image, token, part] = (weights / weights.sum()) @ v
    return block.ls_1(mixed @ attn.out_proj.weight.T + attn.out_proj.bias)


def test_tokens_match_the_reference_implementation(golden):
    result = surgery_tokens(golden.model.visual, golden.tensors["image"], golden.layers)

    assert result.layers == tuple(golden.layers)
    assert result.grid == (6, 6)
    for layer, embeddings, patches in zip(result.layers, result.embeddings, result.patches, strict=True):
        torch.testing.assert_close(embeddings, golden.tensors[f"surgery_tokens_{layer}"], atol=2e-5, rtol=0)
        torch.testing.assert_close(patches, golden.tensors[f"original_tokens_{layer}"][:, 1:], atol=2e-5, rtol=0)


def test_golden_tensors_tell_the_two_kinds_of_taps_apart(golden):
    result = surgery_tokens(golden.model.visual, golden.tensors["image"], golden.layers, taps="block")

    differences = [
        (patches - golden.tensors[f"original_tokens_{layer}"][:, 1:]).abs().max()
        for layer, patches in zip(result.layers, result.patches, strict=True)
    ]
    assert min(differences[:-1]) > 0.1
    assert differences[-1] < 2e-5  # nothing follows the last layer


@pytest.mark.parametrize("ls_init_value", [None, 0.5])
@pytest.mark.parametrize(("depth", "stage_of"), [(4, [1, 2, 3, 4]), (6, [1, 2, 2, 3, 4, 4])])
def test_surgery_path_is_the_stage_sum_of_value_value_attention(
    make_tiny_clip, tiny_images, ls_init_value, depth, stage_of
):
    visual = make_tiny_clip(layers=depth, ls_init_value=ls_init_value).visual
    inputs = block_outputs(visual, tiny_images)
    contributions = [
        value_value_attention(block, tokens)
        for block, tokens in zip(visual.transformer.resblocks, inputs, strict=False)
    ]

    result = surgery_tokens(visual, tiny_images, layers=range(1, depth + 1), taps="block")

    for layer, embeddings in zip(result.layers, result.embeddings, strict=True):
        expected = sum(contributions[i] for i in range(layer) if stage_of[i] == stage_of[layer - 1])
        torch.testing.assert_close(
            embeddings[:, 1:], (visual.ln_post(expected) @ visual.proj)[:, 1:], atol=1e-5, rtol=0
        )


def test_one_stage_never_restarts(make_tiny_clip, tiny_images):
    visual = make_tiny_clip().visual
    inputs = block_outputs(visual, tiny_images)
    blocks = visual.transformer.resblocks
    contributions = [value_value_attention(block, tokens) for block, tokens in zip(blocks, inputs, strict=False)]

    result = surgery_tokens(visual, tiny_images, layers=[2, 4], stages=1)

    for layer, embeddings in zip(result.layers, result.embeddings, strict=True):
        expected = visual.ln_post(sum(contributions[:layer])) @ visual.proj
        torch.testing.assert_close(embeddings[:, 1:], expected[:, 1:], atol=1e-5, rtol=0)


def test_original_path_taps(tiny_clip, tiny_images):
    visual = tiny_clip.visual
    outputs = block_outputs(visual, tiny_images)

    by_block = surgery_tokens(visual, tiny_images, [2, 4], taps="block")
    by_reference = surgery_tokens(visual, tiny_images, [2, 4], taps="reference")

    torch.testing.assert_close(by_block.patches, [outputs[2][:, 1:], outputs[4][:, 1:]], atol=1e-5, rtol=0)
    third = visual.transformer.resblocks[2]
    normed = third.ln_1(outputs[2]).transpose(0, 1)
    attend = functional.multi_head_attention_forward
    residual, _ = attend(
        normed,
        normed,
        normed,
        third.attn.embed_dim,
        third.attn.num_heads,
        third.attn.in_proj_weight,
        third.attn.in_proj_bias,
        None,
        None,
        False,
        0.0,
        third.attn.out_proj.weight,
        third.attn.out_proj.bias,
    )
    expected = [outputs[2] + residual.transpose(0, 1), outputs[4]]
    torch.testing.assert_close(by_reference.patches, [tokens[:, 1:] for tokens in expected], atol=1e-5, rtol=0)
    for result, tapped in ((by_block, [outputs[2], outputs[4]]), (by_reference, expected)):
        for embeddings, tokens in zip(result.embeddings, tapped, strict=True):
            class_token = visual.ln_post(tokens[:, 0]) @ visual.proj
            torch.testing.assert_close(embeddings[:, 0], class_token, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "vision",
    [{}, {"quick_gelu": True}, {"ls_init_value": 0.5}, {"no_ln_pre": True}, {"final_ln_after_pool": True}],
    ids=lambda vision: "-".join(vision) or "plain",
)
def test_last_class_token_is_the_image_embedding(make_tiny_clip, tiny_images, vision):
    model = make_tiny_clip(**vision)

    result = surgery_tokens(model.visual, tiny_images)

    torch.testing.assert_close(result.embeddings[-1][:, 0], model.encode_image(tiny_images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("taps", ["reference", "block"])
@pytest.mark.parametrize("layers", [[1], [3], [6], [-1], [2, 3], [5, 1], [-6, -2]])
def test_tapping_fewer_layers_changes_no_token(make_tiny_clip, tiny_images, layers, taps):
    visual = make_tiny_clip(layers=6).visual
    every = surgery_tokens(visual, tiny_images, range(1, 7), taps=taps)

    result = surgery_tokens(visual, tiny_images, layers, taps=taps)

    chosen = [layer - 1 for layer in result.layers]
    torch.testing.assert_close(result.embeddings, [every.embeddings[i] for i in chosen])
    torch.testing.assert_close(result.patches, [every.patches[i] for i in chosen])


@pytest.mark.parametrize("taps", ["reference", "block"])
@pytest.mark.parametrize(("layer", "original", "surgery"), [(2, 2, 2), (3, 3, 1), (8, 8, 2)])
def test_nothing_is_computed_that_no_tapped_layer_needs(
    make_tiny_clip, tiny_images, queries, layer, original, surgery, taps
):
    surgery_tokens(make_tiny_clip(layers=8).visual, tiny_images, [layer], taps=taps)

    one_more = taps == "reference" and layer < 8
    assert queries.count(17) == original + one_more  # class token and 16 patches
    assert queries.count(16) == surgery  # patches alone, from the start of the stage


@pytest.mark.parametrize("taps", ["reference", "block"])
def test_original_path_alone(tiny_clip, tiny_images, queries, taps):
    both = surgery_tokens(tiny_clip.visual, tiny_images, [2, 4], taps)
    queries.clear()
    alone = surgery_tokens(tiny_clip.visual, tiny_images, [2, 4], taps, paths="original")

    assert alone.embeddings == []
    assert (alone.layers, alone.grid) == (both.layers, both.grid)
    assert all(torch.equal(*tokens) for tokens in zip(alone.patches, both.patches, strict=True))
    assert queries == [17] * 4  # class token and 16 patches; none from patches alone


@pytest.mark.parametrize("taps", ["reference", "block"])
@pytest.mark.parametrize("layers", [[1], [2, 3], [4], [2, 4]])
def test_surgery_path_alone(tiny_clip, tiny_images, queries, taps, layers):
    both = surgery_tokens(tiny_clip.visual, tiny_images, layers, taps)
    queries.clear()
    alone = surgery_tokens(tiny_clip.visual, tiny_images, layers, taps, paths="surgery")

    assert alone.patches == []
    assert (alone.layers, alone.grid) == (both.layers, both.grid)
    torch.testing.assert_close(alone.embeddings, both.embeddings)
    assert queries.count(1) == 1  # the class token, in the last block that is needed
    one_more = taps == "reference" and max(layers) < 4
    assert queries.count(17) == max(layers) - 1 + one_more


def test_model_is_unchanged(make_tiny_clip, tiny_images):
    model = make_tiny_clip()
    before, weights = model.encode_image(tiny_images), {k: v.clone() for k, v in model.state_dict().items()}

    surgery_tokens(model.visual, tiny_images)
    with pytest.raises(ValueError, match="patch size"):
        surgery_tokens(model.visual, tiny_images[..., :30])
    with pytest.raises(RuntimeError, match="channels"):
        surgery_tokens(model.visual, tiny_images[:, :2])

    assert torch.equal(model.encode_image(tiny_images), before)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_gradients_flow_through_both_paths(make_tiny_clip, tiny_images):
    visual = make_tiny_clip().visual.requires_grad_(True)

    result = surgery_tokens(visual, tiny_images)
    sum(tokens.square().mean() for tokens in result.embeddings).backward()

    gradients = {name: parameter.grad for name, parameter in visual.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    # The queries and keys of the last block reach the class token alone, its values both paths.
    query, _, value = gradients["transformer.resblocks.3.attn.in_proj_weight"].chunk(3)
    assert query.abs().max() > 0
    assert value.abs().max() > 0


def test_gradient_is_that_of_finite_differences(make_tiny_clip, tiny_images):
    visual = make_tiny_clip().double().visual
    image = tiny_images[:1, :, :16, :16].double().requires_grad_(True)

    assert torch.autograd.gradcheck(
        lambda x: surgery_tokens(visual, x).embeddings[1][:, 1:3, :4], image, fast_mode=True, atol=1e-4
    )


def test_half_precision_tower_takes_float32_images(make_tiny_clip, tiny_images):
    exact = surgery_tokens(make_tiny_clip().visual, tiny_images).embeddings[-1]

    result = surgery_tokens(make_tiny_clip().bfloat16().visual, tiny_images).embeddings[-1]

    assert result.dtype == torch.bfloat16
    assert functional.cosine_similarity(result.float(), exact, dim=-1).min() > 0.99


@pytest.mark.parametrize(
    ("depth", "stages", "expected"),
    [(12, 4, (3, 6, 9, 12)), (24, 4, (6, 12, 18, 24)), (10, 4, (2, 5, 7, 10)), (4, 4, (1, 2, 3, 4)), (5, 1, (5,))],
)
def test_stage_ends(depth, stages, expected):
    assert stage_ends(depth, stages) == expected
    assert normalise_layers(None, depth, stages) == expected


@pytest.mark.parametrize(("depth", "stages"), [(3, 4), (3, 0)])
def test_stage_ends_refuses_stages_without_a_layer(depth, stages):
    expected = re.escape(f"Expected stages to be between 1 and the depth of the tower (3), but got {stages}.")
    with pytest.raises(ValueError, match=expected):
        stage_ends(depth, stages)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [([3, 6], (3, 6)), ([6, 3], (3, 6)), ([-1], (12,)), ([-12, 5], (1, 5)), (range(1, 3), (1, 2))],
)
def test_normalise_layers(layers, expected):
    assert normalise_layers(layers, depth=12) == expected


@pytest.mark.parametrize("layer", [0, 13, -13, True, 3.0, "3"])
def test_normalise_layers_refuses_what_is_not_a_layer(layer):
    expected = f"but got {layer!r}. Valid layers are 1 to 12, or -12 to -1 counted from the end."
    with pytest.raises(ValueError, match=re.escape(expected)):
        normalise_layers([1, layer], depth=12)


@pytest.mark.parametrize("layers", [[], [3, 3], [12, -1]])
def test_normalise_layers_refuses_none_and_repeated(layers):
    with pytest.raises(ValueError, match=re.escape(f"at least one layer and none twice, but got {layers}.")):
        normalise_layers(layers, depth=12)


def test_unknown_taps_or_paths(tiny_clip, tiny_images):
    with pytest.raises(ValueError, match="Expected taps to be one of reference, block, but got 'hooks'"):
        surgery_tokens(tiny_clip.visual, tiny_images, taps="hooks")
    with pytest.raises(ValueError, match="Expected paths to be one of both, surgery, original, but got 'none'"):
        surgery_tokens(tiny_clip.visual, tiny_images, paths="none")
