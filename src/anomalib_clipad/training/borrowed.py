# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What a run takes of the trainer and of the process, and gives back however it ends."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities.seed import isolate_rng

_SEED_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")


class Borrowed(Callback):
    """Changes of the trainer and the process that last until the run ends, by an exception too.

    Example:
        >>> from types import SimpleNamespace
        >>> borrowed, trainer = Borrowed(), SimpleNamespace(check_val_every_n_epoch=1)
        >>> borrowed.replace(trainer, "check_val_every_n_epoch", 9)
        >>> borrowed.give_back()
        >>> trainer.check_val_every_n_epoch
        1
    """

    def __init__(self) -> None:
        self._changes = ExitStack()

    def replace(self, owner: object, name: str, value: object) -> None:
        """Set an attribute for the time of the run."""
        self._changes.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)

    def seed(self, seed: int) -> None:
        """Seed all random numbers, of the workers of dataloaders too, for the time of the run."""
        self._changes.enter_context(_seeded(seed))

    def give_back(self) -> None:
        """Undo all changes, the latest first."""
        self._changes.close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give back at the end."""
        del trainer, pl_module, stage
        self.give_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give back after an exception, which no teardown follows."""
        del trainer, pl_module, exception
        self.give_back()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    before: dict[str, Any] = {name: os.environ.pop(name, None) for name in _SEED_VARIABLES}
    with isolate_rng():
        seed_everything(seed, workers=True, verbose=False)
        yield
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
