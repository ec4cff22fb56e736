# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Results folders of the host's engine. Read and tried with anomalib 2.7."""

from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, cast

from anomalib.engine import engine
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


def link_latest() -> None:
    """Have the host's engine write to a version of the results from the first run on, with ``latest`` a link to it.

    A test makes a plain folder of that name, over which the host's next training stumbles. Removable when
    ``create_versioned_dir`` copes with one.
    """
    create, resolve = engine.create_versioned_dir, engine.resolve_versioned_path

    def make_version(root: Path) -> Path:
        latest = Path(root) / "latest"
        if latest.is_dir() and not latest.is_symlink():  # of an earlier version, or of a copy that followed links
            latest.rename(next(path for path in (latest.with_name(f"v{i}") for i in count()) if not path.exists()))
        return create(root)

    def find_version(path: Path) -> Path:
        if Path(path).name == "latest" and not (Path(path).is_symlink() and Path(path).exists()):
            with suppress(FileExistsError):  # another process was faster
                make_version(Path(path).parent)
        return resolve(path)

    engine.create_versioned_dir, engine.resolve_versioned_path = make_version, find_version
