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

from anomalib_clipad.base.recent import Recent
from anomalib_clipad.base.text import list_some
from anomalib_clipad.clip.backbone import Backbone
from anomalib_clipad.clip.prompt_encoder import PromptEncoder
from anomalib_clipad.clip.prompt_ensemble import PromptEnsemble
from anomalib_clipad.clip.representative import select_representative, strategy_parameters
from anomalib_clipad.clip.text_cache import TextCache, cache_key, resolve_cache_dir

logger = logging.getLogger(__name__)

# Raised whenever the same inputs give other vectors, so that older files are not used.
_CACHE_VERSION = "1"
_KEPT_CLASSES = 1024
"""Vectors that are kept in memory, 5 MB at a width of 640."""

# Unit vectors this close are 0.014 apart: at a scale of 100, hardly any image moves the probability from a half.
_NEARLY_THE_SAME = 0.9999


class TextEngine:
    """Text embeddings of class names, encoded once and cached in memory and on disk.

    What is kept in memory is bounded: pairs of vectors, single vectors by their prompts, and prompts by their text.
    Where one state is changed, its prompts alone are encoded.

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
        self.backbone = backbone
        self.prompts = prompts
        self.strategy = strategy
        self.strategy_params = strategy_parameters(strategy, strategy_params)
        self.encoder = PromptEncoder(backbone, batch_size)
        self._memory = Recent[Tensor](_KEPT_CLASSES)
        self._vectors = Recent[Tensor](_KEPT_CLASSES)
        self._disk = TextCache(resolve_cache_dir(cache_dir))

    def text_embeddings(self, class_name: str, prompts: PromptEnsemble | None = None, *, tried: bool = False) -> Tensor:
        """Get the two text vectors of a class, whose name is as the dataset or the user spells it.

        Args:
            class_name: Name of the class.
            prompts: The prompt ensemble; ``None`` for the engine's own.
            tried: Whether the words are only tried: they may be read from the disk, but are not left there.

        Returns:
            Text embeddings (C, 2), float32, on the CPU, of unit length; the columns are normal and anomalous.

        Raises:
            ValueError: If the class name is blank, or a prompt embedding is not finite.
        """
        ensemble = prompts or self.prompts
        states = ensemble.prompts(class_name)
        description = self._description(ensemble.class_words(class_name), states)
        key = cache_key(description)
        embeddings = self._memory.get(key)
        if embeddings is None:
            embeddings = self._disk.load(description)
            known = embeddings is not None
            if embeddings is None:
                embeddings = self._select(states, description["class_name"])
            self._warn_of_equal_vectors(embeddings, class_name, ensemble)
            if not tried:
                self._memory[key] = embeddings
                if not known:
                    self._disk.save(description, embeddings)
        return embeddings.clone()  # the caller may work in place

    def _description(self, class_words: str, states: tuple[list[str], list[str]]) -> dict[str, str]:
        """Collect all that determines the vectors; half-precision weights give other vectors than full ones."""
        return {
            "version": _CACHE_VERSION,
            "backbone": self.backbone.fingerprint,
            "precision": self.encoder.precision,
            "class_name": class_words,
            "prompts": hashlib.sha256(json.dumps(states).encode()).hexdigest(),
            "strategy": self.strategy,
            "strategy_params": json.dumps(self.strategy_params, sort_keys=True),
        }

    def _select(self, states: tuple[list[str], list[str]], class_words: str) -> Tensor:
        keys = [(tuple(prompts), self.encoder.tower) for prompts in states]
        vectors = {key: vector for key in keys if (vector := self._vectors.get(key)) is not None}
        new = [key for key in keys if key not in vectors]
        if new:
            # Prompts of both columns are encoded together, so that they share batches.
            embeddings = self.encoder.embeddings([prompt for prompts, _ in new for prompt in prompts], class_words)
            for key, group in zip(new, embeddings.split([len(prompts) for prompts, _ in new]), strict=True):
                selected = select_representative(group, self.strategy, **self.strategy_params)
                vectors[key] = self._vectors[key] = selected
        return torch.stack([vectors[key] for key in keys], dim=1)

    def _warn_of_equal_vectors(self, embeddings: Tensor, class_name: str, prompts: PromptEnsemble) -> None:
        cosine = float(embeddings.prod(dim=1).sum())
        if cosine > _NEARLY_THE_SAME:
            logger.warning(
                "The text vectors of %r are nearly the same (cosine %.6f) for the normal states (%s) and the anomalous "
                "ones (%s): no image can be told from another. The backbone may not know these words. Choose others "
                "(class_name, prompts) or another backbone.",
                class_name,
                cosine,
                list_some(prompts.normal_states, 3),
                list_some(prompts.anomalous_states, 3),
            )
