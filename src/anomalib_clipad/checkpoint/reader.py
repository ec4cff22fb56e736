# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Reading of checkpoints: what was checked is what is loaded, and nothing in it is executed."""

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch
from anomalib.utils.serialization import anomalib_safe_globals
from lightning.pytorch.plugins.io import CheckpointIO

from anomalib_clipad.checkpoint.head_files import CHECKPOINT_KEY, CHECKPOINT_METADATA

logger = logging.getLogger(__name__)

_ENTRIES = {"pytorch-lightning_version": str, "state_dict": dict, "hyper_parameters": dict}
_OWN_ENTRIES = {"class_names": list, "backbone": str, "fingerprint": str, "settings": dict, "input": dict}
"""What every checkpoint has, and of which kind."""


def open_checkpoint(source: str | Path | IO[bytes], model: type, options: Mapping[str, Any]) -> BytesIO:
    """Read a file of this package's models into memory, once, and check it and what a model is to be made with.

    It is small, since CLIP is not in it. ``options`` are the user's arguments of the class.
    """
    known = inspect.signature(model).parameters
    unknown = [name for name in options if name not in known]
    if unknown:
        msg = f"Expected arguments of {model.__name__}, but got {', '.join(unknown)}. Arguments: {', '.join(known)}."
        raise TypeError(msg)
    if isinstance(source, str | Path) and not Path(source).is_file():
        msg = (
            f"Expected checkpoint to be a file, but found none at {Path(source).absolute()}. "
            f"A new model is made by {model.__name__}(backbone=...)."
        )
        raise FileNotFoundError(msg)
    data = Path(source).read_bytes() if isinstance(source, str | Path) else source.read()
    name = source if isinstance(source, str | Path) else getattr(source, "name", "an open file")
    content = _checked(lambda: torch.load(BytesIO(data), map_location="cpu", weights_only=True), name)
    saved = content.get("hyper_parameters", {}).items()
    dropped = [f"{argument}={value!r}" for argument, value in saved if argument not in known and value is not None]
    if dropped:
        logger.warning("Left out of %s, since %s has no such arguments: %s.", name, model.__name__, ", ".join(dropped))
    return BytesIO(data)


def name_model(path: str | Path) -> str:
    """Name the class, ``SDP`` or ``SDPPlus``, that a checkpoint was saved from.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, something else, or would run code.
    """
    if not Path(path).is_file():
        msg = f"Expected checkpoint to be a file, but found none at {Path(path).absolute()}."
        raise FileNotFoundError(msg)
    content = _checked(lambda: torch.load(path, map_location="cpu", weights_only=True), path)
    return "SDPPlus" if CHECKPOINT_METADATA in content[CHECKPOINT_KEY] else "SDP"


class CheckedReader(CheckpointIO):
    """A trainer's reader and writer of checkpoints that looks at what it reads before anything uses it.

    The trainer tells the model of a checkpoint only once it has read it, and reads it to the devices that it was saved
    on, which another machine may not have.
    """

    def __init__(self, inner: CheckpointIO) -> None:
        self.inner = inner

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a file to main memory and check it; a folder, as some strategies write, is left to them."""
        if not Path(path).is_file():
            return self.inner.load_checkpoint(path, map_location, weights_only)
        return _checked(lambda: self.inner.load_checkpoint(path, map_location="cpu", weights_only=True), path)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint."""
        self.inner.save_checkpoint(checkpoint, path, storage_options)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint."""
        self.inner.remove_checkpoint(path)

    def teardown(self) -> None:
        """End what the inner one has begun."""
        self.inner.teardown()


def _checked(load: Callable[[], Any], source: object) -> dict[str, Any]:
    """Load a checkpoint of SDP or SDPPlus; ValueError if it is damaged, something else, or would run code."""
    expected = f"Expected checkpoint to be one of SDP or SDPPlus, but got {source}:"
    try:
        with anomalib_safe_globals():
            content = load()
    except Exception as error:  # the reader raises errors of many kinds for damaged files
        reason = str(error).partition("\n")[0].rstrip(".")
        if isinstance(error, UnpicklingError):  # whose advice is to load it all the same
            reason = "it is damaged, or holds more than plain data"
        msg = f"{expected} it cannot be read ({reason}); nothing in it was executed."
        raise ValueError(msg) from error
    if not isinstance(content, dict) or CHECKPOINT_KEY not in content:
        msg = (
            f"{expected} it holds something else. Checkpoints are written by anomalib's engine, see its results folder."
        )
        raise ValueError(msg)
    damaged = [*_misshapen(content, _ENTRIES), *_misshapen(content[CHECKPOINT_KEY], _OWN_ENTRIES)]
    if damaged:
        msg = f"{expected} it is damaged, without what is its {damaged[0]}."
        raise ValueError(msg)
    return content


def _misshapen(content: Any, entries: Mapping[str, type]) -> Iterator[str]:
    """Names of entries that are missing or of another kind."""
    for name, kind in entries.items():
        value = content.get(name) if isinstance(content, Mapping) else None
        if not isinstance(value, kind) or (isinstance(value, dict) and not all(isinstance(key, str) for key in value)):
            yield name
