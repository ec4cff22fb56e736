# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""From prompts to unit embeddings; those encoded last are kept, so that a changed state costs its own prompts only."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from anomalib_clipad.base.recent import Recent
from anomalib_clipad.clip.backbone import Backbone
from anomalib_clipad.clip.text_tower import encode_tokens, prompt_lengths

logger = logging.getLogger(__name__)

KEPT_PROMPTS = 8192
"""Embeddings that are kept: of 19 classes and their 418 prompts; 21 MB at a width of 640."""

_PROGRESS_DELAY_S = 3.0


class PromptEncoder:
    """Encodes prompts in batches of similar length.

    Args:
        backbone: Of which model and tokenizer are used.
        batch_size: Prompts encoded at a time.

    Raises:
        ValueError: If the batch size is invalid.
    """

    def __init__(self, backbone: Backbone, batch_size: int = 256) -> None:
        if batch_size < 1:
            msg = f"Expected batch_size to be at least 1, but got {batch_size}. 256 prompts need little memory."
            raise ValueError(msg)
        self.backbone = backbone
        self.batch_size = batch_size
        self._kept = Recent[Tensor](KEPT_PROMPTS)

    @property
    def precision(self) -> str:
        """Types of the weights; half-precision ones give other embeddings than full ones."""
        return ", ".join(sorted({str(weight.dtype) for weight in self.backbone.model.parameters()}))

    @property
    def tower(self) -> tuple[str, str]:
        """What embeddings of a prompt depend on."""
        return self.backbone.fingerprint, self.precision

    def embeddings(self, prompts: Sequence[str], class_words: str) -> Tensor:
        """Embeddings (K, C) of K prompts, of unit length, on the CPU, in their order; new ones are encoded."""
        tower = self.tower
        found = {prompt: self._kept.get((prompt, tower)) for prompt in prompts}
        new = [prompt for prompt, embedding in found.items() if embedding is None]
        if new:
            for prompt, embedding in zip(new, self.encode(new, class_words), strict=True):
                found[prompt] = self._kept[prompt, tower] = embedding.clone()  # a row would hold its batch
        return torch.stack([embedding for prompt in prompts if (embedding := found[prompt]) is not None])

    @torch.no_grad()
    def encode(self, prompts: list[str], class_words: str) -> Tensor:
        """Encode K prompts to unit-length embeddings (K, C) on the CPU, in their order."""
        model = self.backbone.model
        device = next(model.parameters()).device
        tokens = self.backbone.tokenizer(prompts)
        lengths = prompt_lengths(tokens, self.backbone.tokenizer("")[0])
        self._warn_of_cut_prompts(lengths, tokens.shape[1], class_words)
        # Prompts of similar length share a batch, so that each batch is cut as short as it can be.
        order = lengths.argsort(stable=True)
        encoded = []
        with (
            # The caller's autocast must not decide the precision of what is cached.
            torch.autocast(device.type, enabled=False),
            tqdm(
                total=len(prompts),
                desc=f"Encoding prompts for {class_words!r}",
                unit="prompt",
                delay=_PROGRESS_DELAY_S,
                leave=False,
            ) as progress,
        ):
            for batch in order.split(self.batch_size):
                encoded.append(encode_tokens(model, tokens[batch].to(device)).cpu())
                progress.update(len(batch))
        return torch.cat(encoded)[order.argsort()]

    @staticmethod
    def _warn_of_cut_prompts(lengths: Tensor, context: int, class_words: str) -> None:
        # Tokenizers cut silently, and what is cut may be the words that tell normal from anomalous.
        full = int((lengths >= context).sum())
        if full:
            logger.warning(
                "%d of %d prompts for %r fill the text tower's context of %d tokens and may have been cut. "
                "Use a shorter class name or shorter prompts.",
                full,
                len(lengths),
                class_words,
                context,
            )
