# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The category of each image of a batch, whatever datamodule it comes from."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

UNNAMED = "object"
"""What the prompts call an object that nobody has named."""


def image_categories(datamodule: Any, image_paths: Iterable[str | Path]) -> list[str] | None:
    """Return the category of each image, or ``None`` when the datamodule does not tell.

    anomalib's batches carry no class name. A datamodule over several categories tells it by ``category_of``, one of
    the host's by its ``category``. A ``Folder`` datamodule has neither, prediction on a folder has no datamodule.

    Args:
        datamodule: Any Lightning datamodule, or ``None``.
        image_paths: The B paths of a batch.

    Returns:
        B category names, or ``None``.

    Example:
        >>> from anomalib.data import MVTecAD
        >>> image_categories(MVTecAD(category="bottle"), ["a.png", "b.png"])
        ['bottle', 'bottle']
        >>> image_categories(None, ["a.png"]) is None
        True
    """
    if hasattr(datamodule, "category_of"):
        return [datamodule.category_of(path) for path in image_paths]
    category = getattr(datamodule, "category", None)
    return [category for _ in image_paths] if category else None


def own_name(datamodule: Any) -> str:
    """Return the name of what a datamodule without categories shows: its given name, as of a ``Folder``, else "object".

    Example:
        >>> from anomalib.data import Folder, Kolektor
        >>> own_name(Folder(name="gasket", normal_dir="good")), own_name(Kolektor())
        ('gasket', 'object')
    """
    return UNNAMED if datamodule.name == type(datamodule).__name__ else datamodule.name
