# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Results folders of the host's engine. Read and tried with anomalib 2.7."""

from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Trainer


def share_results_folder(trainer: Trainer) -> None:
    """Let all processes use the results folder of the first.

    Removable when the host's engine no longer makes a folder for each process.
    """
    if trainer.world_size == 1:
        return
    own = Path(trainer.default_root_dir)
    shared = Path(trainer.strategy.broadcast(str(own)))
    if own == shared:
        return
    cast("Any", trainer)._default_root_dir = str(shared)  # it has no setter
    latest = own.parent / "latest"
    if latest.is_symlink() and latest.resolve() == own.resolve():
        latest.unlink()
        latest.symlink_to(shared, target_is_directory=True)
    if own.is_dir() and not any(own.iterdir()):
        own.rmdir()
