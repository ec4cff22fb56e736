# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""A look at a checkpoint before it is loaded; nothing in it is executed."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from anomalib.utils.serialization import anomalib_safe_globals
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import CheckpointIO

from anomalib_clipad.checkpoint.head_files import CHECKPOINT_KEY


def check_checkpoint(path: str | Path) -> None:
    """Check that a file is a checkpoint of this package's models. They are small, as they lack CLIP.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, something else, or would run code when it is loaded.
    """
    if not Path(path).is_file():
        msg = (
            f"Expected checkpoint to be a file, but found none at {Path(path).absolute()}. "
            "For a new model name its backbone: load(backbone=...)."
        )
        raise FileNotFoundError(msg)
    expected = f"Expected checkpoint to be one of SDP or SDPPlus, but got {path}:"
    try:
        with anomalib_safe_globals():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises errors of many kinds for damaged files
        reason = str(error).partition("\n")[0].rstrip(".")
        if isinstance(error, UnpicklingError):  # whose advice is to load it all the same
            reason = "it is damaged, or holds more than plain data"
        msg = f"{expected} it cannot be read ({reason}); nothing in it was executed."
        raise ValueError(msg) from error
    if not isinstance(content, Mapping) or CHECKPOINT_KEY not in content:
        msg = (
            f"{expected} it holds something else. Checkpoints are written by anomalib's engine, see its results folder."
        )
        raise ValueError(msg)


class CheckedReader(CheckpointIO):
    """A trainer's reader and writer of checkpoints that looks at a file before it reads it.

    The trainer tells the model of a checkpoint only once it has read it.

    Args:
        inner: What reads and writes.
    """

    def __init__(self, inner: CheckpointIO) -> None:
        self.inner = inner

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Check a file and read it; a folder, as some strategies write, is left to them.

        Raises:
            ValueError: If the file is damaged or hostile.
        """
        if Path(path).is_file():
            check_checkpoint(path)
        return self.inner.load_checkpoint(path, map_location, weights_only)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint."""
        self.inner.save_checkpoint(checkpoint, path, storage_options)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint."""
        self.inner.remove_checkpoint(path)

    def teardown(self) -> None:
        """End what the inner one has begun."""
        self.inner.teardown()


def check_before_loading(trainer: Trainer) -> None:
    """See to it that a trainer checks the checkpoints that it loads."""
    strategy = trainer.strategy
    if not isinstance(strategy.checkpoint_io, CheckedReader):
        strategy.checkpoint_io = CheckedReader(strategy.checkpoint_io)
