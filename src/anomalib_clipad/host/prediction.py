# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Where Lightning and anomalib keep what prediction reads."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader


def exchange_predict_loaders(trainer: Trainer, exchange: Callable[[Any], Any]) -> None:
    """Exchange the dataloaders that were given to ``Trainer.predict``, before they are used.

    Lightning 2.6 has no public name for them at that time; removable as soon as one has.
    """
    source: Any = trainer.predict_loop._data_source
    if isinstance(source.instance, DataLoader):
        source.instance = exchange(source.instance)
    elif isinstance(source.instance, list | tuple):
        source.instance = [exchange(loader) for loader in source.instance]
