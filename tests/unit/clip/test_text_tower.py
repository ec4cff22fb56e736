# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Encoding without padding, against open_clip's own encode_text at full length."""

import logging
from types import SimpleNamespace

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP
from torch import nn

from anomalib_clipad.clip import text_tower
from anomalib_clipad.clip.text_tower import encode_tokens, prompt_lengths

VISION = {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1}
PROMPTS = [
    "a photo of a bottle.",
    "a photo of the printed circuit board without contamination for anomaly detection.",
    "nut",
]


def tiny(kind=CLIP, embed_dim=16, quick_gelu=False, **text):
    torch.manual_seed(0)
    text = {"width": 32, "heads": 4, "layers": 2, **text}
    model = kind(embed_dim, VISION, text, quick_gelu=quick_gelu).eval()
    with torch.no_grad():
        # The initial weights are so small that two layers hardly mix the tokens; these make every token count.
        for name, weight in model.named_parameters():
            if "resblocks" in name and weight.ndim == 2:
                weight.mul_(4)
    return model


def tokens_of(prompts=PROMPTS, context_length=77):
    return open_clip.tokenize(prompts, context_length=context_length)


class Newer(nn.Module):
    """Transformer as open_clip has it from version 4 on: (batch, sequence, width) throughout, and no word on it."""

    def __init__(self, older: nn.Module) -> None:
        super().__init__()
        self.older, self.get_cast_dtype = older, older.get_cast_dtype
        self.resblocks = [SimpleNamespace(attn=nn.Identity())]

    def forward(self, x, attn_mask):
        if hasattr(self.older, "batch_first"):
            return self.older(x, attn_mask=attn_mask)
        return self.older(x.transpose(0, 1), attn_mask=attn_mask).transpose(0, 1)


def test_a_transformer_that_says_nothing_of_its_layout_takes_batches_first():
    model = tiny()
    expected = encode_tokens(model, tokens_of())

    model.transformer = Newer(model.transformer)

    torch.testing.assert_close(encode_tokens(model, tokens_of()), expected)


@pytest.fixture
def seen_lengths(monkeypatch):
    """Lengths of the token ids that reach a token embedding."""
    lengths = []
    forward = nn.Embedding.forward

    def observed(self, ids):
        lengths.append(ids.shape[1])
        return forward(self, ids)

    monkeypatch.setattr(nn.Embedding, "forward", observed)
    return lengths


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (CLIP, {}),
        (CustomTextCLIP, {}),
        (CLIP, {"quick_gelu": True}),
        (CLIP, {"ls_init_value": 0.3}),
        (CLIP, {"proj_bias": True}),
        (CustomTextCLIP, {"context_length": 32}),
    ],
)
class TestCausalTower:
    def test_equals_encode_text(self, kind, options):
        model = tiny(kind, **options)
        tokens = tokens_of(context_length=model.context_length)
        with torch.no_grad():
            expected = model.encode_text(tokens, normalize=True)
            actual = encode_tokens(model, tokens)
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
        # The oracle tells prompts apart far better than that.
        assert torch.pdist(expected).min() > 1e-2

    def test_runs_at_the_length_of_the_longest_prompt(self, kind, options, seen_lengths):
        model = tiny(kind, **options)
        tokens = tokens_of(context_length=model.context_length)
        encode_tokens(model, tokens)
        assert seen_lengths == [int((tokens != 0).sum(dim=1).max())]
        assert seen_lengths[0] < model.context_length


def test_prompt_that_fills_the_context():
    model = tiny(context_length=8)
    tokens = tokens_of(context_length=8)
    assert (tokens[1] != 0).all()
    expected = model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(encode_tokens(model, tokens), expected, atol=1e-5, rtol=0)


def test_gradient_checkpointing_gives_the_same():
    model = tiny()
    expected = model.encode_text(tokens_of(), normalize=True)
    model.set_grad_checkpointing(True)
    torch.testing.assert_close(encode_tokens(model, tokens_of()), expected, atol=1e-5, rtol=0)


def test_half_precision_gives_unit_float32():
    model = tiny().to(torch.bfloat16)
    embeddings = encode_tokens(model, tokens_of())
    expected = model.encode_text(tokens_of(), normalize=True)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(embeddings, expected.float(), atol=3e-2, rtol=0)


def test_model_is_not_altered():
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    expected = model.encode_text(tokens_of())
    encode_tokens(model, tokens_of())
    assert torch.equal(model.encode_text(tokens_of()), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class TestOtherTowers:
    @pytest.mark.parametrize(
        ("kind", "options", "reason"),
        [
            (CLIP, {"no_causal_mask": True}, "not causal"),
            (CustomTextCLIP, {"no_causal_mask": True}, "not causal"),
            (CLIP, {"pool_type": "last"}, "pools by 'last'"),
            (CustomTextCLIP, {"pool_type": "first"}, "pools by 'first'"),
            (CustomTextCLIP, {"embed_cls": True}, "appends a class embedding"),
        ],
    )
    def test_run_at_full_length(self, kind, options, reason, seen_lengths, caplog):
        model = tiny(kind, **options)
        # The class embedding takes a place of its own, behind the tokens.
        with torch.no_grad():
            expected = model.encode_text(tokens_of(), normalize=True)
            seen_lengths.clear()
            with caplog.at_level(logging.DEBUG, logger=text_tower.__name__):
                actual = encode_tokens(model, tokens_of())
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)
        assert seen_lengths == [77]
        assert reason in caplog.text

    def test_cutting_them_would_be_wrong(self, monkeypatch):
        monkeypatch.setattr(text_tower, "_obstacle_to_cutting", lambda _tower: None)
        model = tiny(pool_type="last")
        expected = model.encode_text(tokens_of(), normalize=True)
        assert (encode_tokens(model, tokens_of()) - expected).abs().max() > 1e-2

    def test_mask_that_only_looks_causal(self, seen_lengths):
        model = tiny()
        model.attn_mask = model.attn_mask.clone()
        model.attn_mask[0, 5] = 0
        expected = model.encode_text(tokens_of(), normalize=True)
        torch.testing.assert_close(encode_tokens(model, tokens_of()), expected, atol=1e-6, rtol=0)
        assert seen_lengths == [77, 77]

    def test_foreign_tower_is_asked_itself(self, caplog):
        class Foreign(nn.Module):
            def __init__(self):
                super().__init__()
                self.text = nn.Linear(77, 16)

            def encode_text(self, tokens):
                return self.text(tokens.float() / 50_000)

        model = Foreign()
        with caplog.at_level(logging.DEBUG, logger=text_tower.__name__):
            embeddings = encode_tokens(model, tokens_of())
        expected = model.encode_text(tokens_of())
        torch.testing.assert_close(embeddings, expected / expected.norm(dim=1, keepdim=True))
        assert "the text tower has no token_embedding" in caplog.text


@pytest.mark.parametrize(
    "tokens", [torch.zeros(77, dtype=torch.long), torch.zeros(0, 77, dtype=torch.long), torch.ones(2, 77)]
)
def test_tokens_that_are_none_are_refused(tokens):
    with pytest.raises(
        ValueError, match=r"Expected tokens to be integers of shape \(K, T\), but got torch\.\w+ of shape"
    ):
        encode_tokens(tiny(), tokens)


@pytest.mark.parametrize(
    "options",
    [
        {"pool_type": "last", "no_causal_mask": True, "proj_bias": True},
        {"pool_type": "last", "no_causal_mask": True},
        {"embed_cls": True},
        {"no_causal_mask": True},
        {"pool_type": "first"},
    ],
    ids=["SigLIP", "CLIPA", "CoCa", "MobileCLIP 2", "first token"],
)
def test_other_towers_are_run_in_full(options):
    model = tiny(CustomTextCLIP, **options)
    tokens = tokens_of()
    with torch.no_grad():
        expected = model.encode_text(tokens, normalize=True)
        actual = encode_tokens(model, tokens)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)
    cut = tokens[:, : int((tokens != 0).sum(dim=1).max())]
    with torch.no_grad():
        if options.get("pool_type") != "first":  # a causal tower's first token sees nothing
            assert (model.encode_text(cut, normalize=True) - expected).abs().max() > 1e-4  # cutting would change it


def test_lengths_of_prompts_by_what_pads_them():
    tokens = tokens_of()
    empty = tokens_of([""])[0]
    assert prompt_lengths(tokens, empty).tolist() == (tokens != 0).sum(dim=1).tolist()
    # SigLIP's end of the text is its padding too: 7 tokens and the end, cut to 8; 3 tokens and the end.
    closed = torch.tensor([[5, 6, 7, 8, 9, 2, 3, 1], [5, 6, 7, 1, 1, 1, 1, 1]])
    assert prompt_lengths(closed, torch.ones(8, dtype=torch.long)).tolist() == [8, 4]
