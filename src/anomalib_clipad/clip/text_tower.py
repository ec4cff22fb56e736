# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Encoding of prompts at their own length instead of the tower's context length."""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

logger = logging.getLogger(__name__)

_TOWER_PARTS = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")


def encode_tokens(model: nn.Module, tokens: Tensor) -> Tensor:
    """Encode token ids (K, T), without the padding after the longest prompt where the tower allows it.

    In a causal tower that pools at the end-of-text token, no token that counts sees the padding behind it. Prompts are
    10 to 24 tokens of 77, so that leaving the padding out is several times faster and changes only the rounding. Any
    other tower is run through its own ``encode_text`` at full length. Embeddings (K, C) are float32 and of unit length.
    """
    if tokens.ndim != 2 or tokens.numel() == 0 or tokens.is_floating_point():
        msg = (
            f"Expected tokens to be integers of shape (K, T), but got {tokens.dtype} of shape {tuple(tokens.shape)}. "
            "Use the tokenizer of the model."
        )
        raise ValueError(msg)
    tower = getattr(model, "text", model)  # CustomTextCLIP keeps its tower in `text`, CLIP is its own tower
    obstacle = _obstacle_to_cutting(tower)
    if obstacle is None:
        embeddings = _encode_cut(tower, tokens)
    else:
        logger.debug("Prompts are encoded at full length: %s.", obstacle)
        embeddings = model.encode_text(tokens)
    return F.normalize(embeddings.float(), dim=-1)


def prompt_lengths(tokens: Tensor, empty: Tensor) -> Tensor:
    """Count the tokens (K,) of prompts (K, T) up to the end of the text; ``empty`` (T,) are those of an empty prompt.

    A prompt as long as the context may have been cut.
    """
    padding = empty[-1]
    places = torch.arange(1, tokens.shape[1] + 1)
    lengths = ((tokens != padding) * places).amax(dim=-1)
    # SigLIP's tokenizers end a text with what they pad with.
    return lengths + 1 if bool((empty == padding).all()) else lengths


def _obstacle_to_cutting(tower: nn.Module) -> str | None:
    """Say why the padding has to stay, or None if it can be cut."""
    missing = [part for part in _TOWER_PARTS if not hasattr(tower, part)]
    if missing:
        return f"the text tower has no {missing[0]}"
    if getattr(tower, "cls_emb", None) is not None:
        return "the text tower appends a class embedding"
    # The attribute has one name on CLIP and another on TextTransformer.
    pooling = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    if pooling != "argmax":
        return f"the text tower pools by {pooling!r}, not at the end-of-text token"
    mask = getattr(tower, "attn_mask", None)
    if mask is None or not mask[torch.ones_like(mask, dtype=torch.bool).triu(1)].isneginf().all():
        return "the text tower is not causal"
    return None


def _encode_cut(tower: Any, tokens: Tensor) -> Tensor:
    """Walk the submodules of a causal tower: token ids (K, T) -> embeddings (K, C)."""
    end_of_text = tokens.argmax(dim=-1)  # the highest id of the vocabulary
    length = int(end_of_text.max()) + 1
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens[:, :length]).to(dtype) + tower.positional_embedding[:length].to(dtype)
    mask = tower.attn_mask[:length, :length]
    if hasattr(tower.transformer, "batch_first") or getattr(tower.transformer.resblocks[0].attn, "batch_first", True):
        x = tower.transformer(x, attn_mask=mask)
    else:
        # Up to open_clip 2.24 the caller transposes: NLD -> LND -> NLD. Later ones do it inside, where needed, and from
        # 4.0 on there is nothing to transpose.
        x = tower.transformer(x.transpose(0, 1), attn_mask=mask).transpose(0, 1)
    x = tower.ln_final(x[torch.arange(len(x), device=x.device), end_of_text])
    if tower.text_projection is None:
        return x
    return tower.text_projection(x) if isinstance(tower.text_projection, nn.Linear) else x @ tower.text_projection
