# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The images of a run, from a folder, a CSV file or a Parquet file, and what identifies them."""

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from anomalib_clipad.data.image_list import check_list, list_images
from anomalib_clipad.data.image_loader import ListedImage

_COLUMNS = ("path", "class_name")

_ADDRESS = re.compile(r"(?:^|/)[a-z][a-z0-9+.-]+:/")
"""An address within a path: pathlib makes one slash of two."""


def list_input(path: str) -> list[ListedImage]:
    """List images by their absolute paths, for other processes may work in other folders.

    Args:
        path: Folder, image, CSV file of paths and class names, or Parquet file (or folder of them, named
            ``….parquet``) with a column ``path`` and, if there are several classes, ``class_name``. Relative paths
            start from the folder that the CSV or Parquet file is in.

    Raises:
        FileNotFoundError: If there is no such file or folder. Files that a list names may be missing.
        ValueError: If there are no images, one is listed twice, or the list is not valid.
    """
    if "://" in path:
        msg = f"Expected a path of a file system, but got the address {path}. Mount the storage, see docs/scale.md."
        raise ValueError(msg)
    listed = read_parquet_list(path) if Path(path).suffix.lower() == ".parquet" else list_images(path)
    remote = next((image.path for image in listed if _ADDRESS.search(image.path)), None)
    if remote is not None:
        msg = f"Expected {path} to list paths of a file system, but got {remote}. Mount the storage, see docs/scale.md."
        raise ValueError(msg)
    return [image._replace(path=os.path.abspath(image.path)) for image in listed]  # noqa: PTH100, a Path each is slow


def read_parquet_list(path: str) -> list[ListedImage]:
    """Read a Parquet file of paths and class names, as ``read_list`` reads a CSV file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or empty, a row is not valid, or an image is listed twice.
    """
    from pyarrow import ArrowException, parquet

    place = Path(path)
    if not place.exists():
        msg = f"Expected a Parquet file of images, but found none at {place.absolute()}."
        raise FileNotFoundError(msg)
    try:
        schema = parquet.read_schema(place) if place.is_file() else parquet.ParquetDataset(place).schema
        if "path" not in schema.names:
            msg = f"Expected {path} to have a column 'path', but got {', '.join(schema.names)}. Rename yours."
            raise ValueError(msg)
        table = parquet.read_table(place, columns=[name for name in _COLUMNS if name in schema.names])
    except (ArrowException, OSError) as error:
        msg = f"Expected {path} to be a Parquet file, but reading it failed: {str(error).splitlines()[0]}"
        raise ValueError(msg) from error
    paths = table["path"].to_pylist()
    names = table["class_name"].to_pylist() if "class_name" in table.column_names else [None] * len(paths)
    if not paths:
        msg = f"Expected {path} to list images, but it is empty. Write a row of 'path' and 'class_name' for each."
        raise ValueError(msg)
    wrong = next((row for row, value in enumerate(paths) if not isinstance(value, str) or not value.strip()), None)
    if wrong is not None:
        msg = f"Expected a path in row {wrong} of {path}, but got {paths[wrong]!r}."
        raise ValueError(msg)
    folder = str(place.parent)
    images = [
        ListedImage(os.path.join(folder, each), name or None, position=position)  # noqa: PTH118, as above
        for position, (each, name) in enumerate(zip(paths, names, strict=True))
    ]
    check_list(images, path)
    return images


def digest_images(images: Iterable[ListedImage]) -> str:
    """What tells one list from another: SHA-256 of its paths and class names in their order."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(os.fsencode(f"{image.path}\0{image.class_name or ''}\0"))
    return digest.hexdigest()
