# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""From a class name to its two text vectors: prompts, encoding, representative vectors, cache (CLIP-AD, RVS)."""

import hashlib
import json
import logging
from collections.abc import Mapping
from os import PathLike
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from anomalib_clipad.base.text import list_some
from anomalib_clipad.clip.backbone import Backbone
from anomalib_clipad.clip.prompt_ensemble import PromptEnsemble
from anomalib_clipad.clip.representative import select_representative, strategy_parameters
from anomalib_clipad.clip.text_cache import TextCache, cache_key, resolve_cache_dir
from anomalib_clipad.clip.text_tower import encode_tokens, prompt_lengths

logger = logging.getLogger(__name__)

# Raised whenever the same inputs give other vectors, so that older files are not used.
_CACHE_VERSION = "1"
_PROGRESS_DELAY_S = 3.0
# Unit vectors this close are 0.014 apart: at a scale of 100, hardly any image moves the probability from a half.
_NEARLY_THE_SAME = 0.9999


class TextEngine:
    """Text embeddings of class names, encoded once and cached in memory and on disk.

    Args:
        backbone: Of which model, tokenizer and fingerprint are used; another fingerprint is another cache entry.
        prompts: The prompt ensemble.
        strategy: How the representative vectors are selected, a key of ``STRATEGIES``.
        strategy_params: Parameters of the strategy that differ from its defaults.
        cache_dir: Folder of the disk cache, ``None`` for the default one, ``False`` for none.
        batch_size: Prompts encoded at a time.

    Raises:
        ValueError: If the strategy, a parameter of it, the cache folder or the batch size is invalid.

    Example:
        >>> from anomalib_clipad.clip import load_backbone
        >>> prompts = PromptEnsemble(["perfect {}"], ["broken {}"], ["a photo of a {}."])
        >>> engine = TextEngine(load_backbone("clipad-tiny"), prompts, "mean", cache_dir=False)
        >>> engine.text_embeddings("metal_nut").shape
        torch.Size([128, 2])
    """

    def __init__(
        self,
        backbone: Backbone,
        prompts: PromptEnsemble,
        strategy: str = "dbscan",
        strategy_params: Mapping[str, Any] | None = None,
        cache_dir: str | PathLike[str] | Literal[False] | None = None,
        batch_size: int = 256,
    ) -> None:
        if batch_size < 1:
            msg = f"Expected batch_size to be at least 1, but got {batch_size}. 256 prompts need little memory."
            raise ValueError(msg)
        self.backbone = backbone
        self.prompts = prompts
        self.strategy = strategy
        self.strategy_params = strategy_parameters(strategy, strategy_params)
        self.batch_size = batch_size
        self._memory: dict[str, Tensor] = {}
        self._disk = TextCache(resolve_cache_dir(cache_dir))

    def text_embeddings(self, class_name: str) -> Tensor:
        """Get the two text vectors of a class, whose name is as the dataset or the user spells it.

        Returns:
            Text embeddings (C, 2), float32, on the CPU, of unit length; the columns are normal and anomalous.

        Raises:
            ValueError: If the class name is blank, or a prompt embedding is not finite.
        """
        states = self.prompts.prompts(class_name)
        description = self._description(class_name, states)
        key = cache_key(description)
        if key not in self._memory:
            embeddings = self._disk.load(description)
            if embeddings is None:
                embeddings = self._select(states, description["class_name"])
                self._disk.save(description, embeddings)
            self._warn_of_equal_vectors(embeddings, class_name)
            self._memory[key] = embeddings
        return self._memory[key].clone()  # the caller may work in place

    def _description(self, class_name: str, states: tuple[list[str], list[str]]) -> dict[str, str]:
        """Collect all that determines the vectors; half-precision weights give other vectors than full ones."""
        return {
            "version": _CACHE_VERSION,
            "backbone": self.backbone.fingerprint,
            "precision": ", ".join(sorted({str(weight.dtype) for weight in self.backbone.model.parameters()})),
            "class_name": self.prompts.class_words(class_name),
            "prompts": hashlib.sha256(json.dumps(states).encode()).hexdigest(),
            "strategy": self.strategy,
            "strategy_params": json.dumps(self.strategy_params, sort_keys=True),
        }

    def _select(self, states: tuple[list[str], list[str]], class_words: str) -> Tensor:
        normal, anomalous = states
        embeddings = self._encode(normal + anomalous, class_words)
        vectors = [
            select_representative(state, self.strategy, **self.strategy_params)
            for state in embeddings.split([len(normal), len(anomalous)])
        ]
        return torch.stack(vectors, dim=1)

    @torch.no_grad()
    def _encode(self, prompts: list[str], class_words: str) -> Tensor:
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

    def _warn_of_equal_vectors(self, embeddings: Tensor, class_name: str) -> None:
        cosine = float(embeddings.prod(dim=1).sum())
        if cosine > _NEARLY_THE_SAME:
            logger.warning(
                "The text vectors of %r are nearly the same (cosine %.6f) for the normal states (%s) and the anomalous "
                "ones (%s): no image can be told from another. The backbone may not know these words. Choose others "
                "(class_name, prompts) or another backbone.",
                class_name,
                cosine,
                list_some(self.prompts.normal_states, 3),
                list_some(self.prompts.anomalous_states, 3),
            )

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
