# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The category of each image of a batch, whatever datamodule it comes from."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

UNNAMED = "object"  # what the prompts call an object that nobody has named


def image_categories(datamodule: Any, image_paths: Iterable[str | Path]) -> list[str] | None:
    """Return the category of each image, or ``None`` when the datamodule (or ``None``) does not tell.

    anomalib's batches carry no class name. A datamodule over several categories tells it by ``category_of``, one of
    the host's by its ``category``. A ``Folder`` datamodule has neither, prediction on a folder has no datamodule.
    """
    if hasattr(datamodule, "category_of"):
        return [datamodule.category_of(path) for path in image_paths]
    category = getattr(datamodule, "category", None)
    return [category for _ in image_paths] if category else None


def own_name(datamodule: Any) -> str:
    """What a datamodule without categories shows: its given name, as of a ``Folder``, else "object"."""
    return UNNAMED if datamodule.name == type(datamodule).__name__ else datamodule.name
