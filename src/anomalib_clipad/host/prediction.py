# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Where Lightning and anomalib keep what prediction reads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from anomalib.data import predict
from anomalib.data.utils import get_image_filenames
from anomalib.data.utils.image import is_image_file
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


def find_images(path: str | Path, base_dir: str | Path | None = None) -> list[Path]:
    """List an image, or those of a folder and below, as anomalib does, but with links that lead nowhere."""
    folder = Path(path)
    if not folder.is_dir() or not any(file.is_symlink() for file in folder.glob("**/*")):
        return get_image_filenames(path, base_dir)
    return sorted(file for file in folder.glob("**/*") if is_image_file(file))


def list_dangling_links() -> None:
    """Let the engine list links that lead nowhere in a folder to predict on: they are then met as missing files.

    anomalib 2.7 refuses the whole folder before a model has a say; removable when it does no more.
    """
    predict.get_image_filenames = find_images
