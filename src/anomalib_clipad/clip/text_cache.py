# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Text embeddings on disk: safetensors files, which cannot execute code, written atomically."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from anomalib_clipad.base.files import atomic_write

logger = logging.getLogger(__name__)

CACHE_ENV = "ANOMALIB_CLIPAD_CACHE"
_TENSOR_NAME = "text_embeddings"


class TextCache:
    """A folder of text embeddings, each under a key made of all that determines it; ``None`` keeps nothing.

    Whatever goes wrong with the folder is logged and never raised: without a cache the result is only slower. Several
    processes may share it, since a file appears complete or not at all.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def path(self, description: Mapping[str, str]) -> Path | None:
        """Name the file for a description, or None when nothing is kept."""
        return None if self.folder is None else self.folder / f"{cache_key(description)}.safetensors"

    def load(self, description: Mapping[str, str]) -> Tensor | None:
        """Read text embeddings (C, 2) by all that determines them; None where there is no file, or no good one."""
        path = self.path(description)
        if path is None:
            return None
        try:
            with safe_open(path, framework="pt") as file:
                if file.metadata() != dict(description):
                    logger.warning("Ignoring %s: it was not written for these text embeddings.", path)
                    return None
                embeddings = file.get_tensor(_TENSOR_NAME)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError) as error:
            logger.warning("Ignoring unreadable text embeddings %s: %s", path, error)
            return None
        if not _is_text_embeddings(embeddings):
            logger.warning("Ignoring %s: expected unit columns of shape (C, 2), got %s.", path, tuple(embeddings.shape))
            return None
        return embeddings.clone()  # the tensor read is a view of the file

    def save(self, description: Mapping[str, str], embeddings: Tensor) -> None:
        """Write text embeddings (C, 2), replacing what is there."""
        path = self.path(description)
        if path is None:
            return
        try:
            with atomic_write(path) as draft:
                draft.write_bytes(save({_TENSOR_NAME: embeddings.contiguous()}, metadata=dict(description)))
        except OSError as error:
            logger.warning("Text embeddings are not cached in %s: %s", path.parent, error)


def cache_key(description: Mapping[str, str]) -> str:
    """Hash a description; the order of its entries does not matter."""
    return hashlib.sha256(json.dumps(dict(description), sort_keys=True).encode()).hexdigest()


def resolve_cache_dir(cache_dir: str | os.PathLike[str] | Literal[False] | None) -> Path | None:
    """Find the folder that a user's argument names.

    ``False`` keeps nothing on disk; ``None`` is ``text_embeddings`` in the folder named by the environment variable
    ``ANOMALIB_CLIPAD_CACHE``, else in the user's cache folder.
    """
    if cache_dir is False:
        return None
    if cache_dir is None:
        return _default_cache_dir()
    if not isinstance(cache_dir, str | os.PathLike) or not str(cache_dir):
        msg = (
            f"Expected text_cache_dir to be a path, None (the default folder) or False (nothing on disk), "
            f"but got {cache_dir!r}."
        )
        raise ValueError(msg)
    return Path(cache_dir).expanduser()


def _default_cache_dir() -> Path | None:
    own = os.environ.get(CACHE_ENV)
    if own:
        return Path(own).expanduser() / "text_embeddings"
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # The XDG specification has relative paths ignored.
        root = Path(xdg) if Path(xdg).is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:  # a container's user without a home
        logger.warning("Text embeddings are not cached on disk: %s Set %s to a folder.", error, CACHE_ENV)
        return None
    return root / "anomalib_clipad" / "text_embeddings"


def _is_text_embeddings(embeddings: Tensor) -> bool:
    if embeddings.ndim != 2 or embeddings.shape[1] != 2 or embeddings.dtype != torch.float32:
        return False
    lengths = embeddings.norm(dim=0)
    return torch.allclose(lengths, torch.ones_like(lengths), atol=1e-3)  # False for NaN
