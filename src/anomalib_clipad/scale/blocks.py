# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""A long list of images in blocks, a file of scores each: what is there is finished, whoever was killed and when.

The output is a folder of Parquet files, as Spark and Ray write it: ``pandas.read_parquet("scores.parquet")`` reads all
of them in the order of the list. Readers pass over names that begin with ``_`` or ``.``: the settings, and drafts.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from pyarrow import parquet

from anomalib_clipad.base.files import atomic_write
from anomalib_clipad.base.text import printable
from anomalib_clipad.data.image_loader import ListedImage
from anomalib_clipad.prediction.table import COLUMNS, PredictionRow
from anomalib_clipad.scale.output import SETTINGS_FILE, refuse_others
from anomalib_clipad.scale.scorer import Scorer

logger = logging.getLogger(__name__)

MOST_BLOCKS = 999_999
"""As many as keep the order of their numbers when file names are sorted."""

_TYPES: Mapping[str, pa.DataType] = {"score": pa.float64(), "threshold": pa.float64(), "calibrated": pa.bool_()}
SCHEMA = pa.schema([(name, _TYPES.get(name, pa.string())) for name in COLUMNS])


class Block(NamedTuple):
    """Images that are scored and written together."""

    number: int
    images: Sequence[ListedImage]


class Part(NamedTuple):
    """What a finished block's file holds: its number, rows, and how many of them are of unreadable images."""

    number: int
    images: int
    unreadable: int


def cut(images: Sequence[ListedImage], size: int) -> list[Block]:
    """Cut a list into blocks.

    Raises:
        ValueError: If the size is not positive, or makes too many blocks.

    Example:
        >>> [len(block.images) for block in cut([ListedImage(f"{index}.png") for index in range(5)], 2)]
        [2, 2, 1]
    """
    least = max(1, -(-len(images) // MOST_BLOCKS))
    if size < least:
        msg = f"Expected block_size to be at least {least} for {len(images)} images, but got {size}."
        raise ValueError(msg)
    starts = range(0, len(images), size)
    return [Block(number, images[start : start + size]) for number, start in enumerate(starts)]


def score_block(scorer: Scorer, block: Block, folder: Path) -> Part:
    """Score a block and write its file.

    Raises:
        OSError: If it cannot be written, as on a full disk; then there is no file.
        RuntimeError: If the scorer has left out an image.
    """
    rows = scorer.score(block.images)
    if [row.position for row in rows] != [image.position for image in block.images]:
        msg = f"Expected a row for each of {len(block.images)} images in their order, but got {len(rows)} others."
        raise RuntimeError(msg)
    with atomic_write(_path(folder, block.number)) as draft:
        parquet.write_table(_table(rows), draft)
    return Part(block.number, len(rows), sum(row.error is not None for row in rows))


def _table(rows: Sequence[PredictionRow]) -> pa.Table:
    """Rows as a table; bytes of a file name that are not UTF-8 are escaped as in ``predictions.csv``."""
    columns = {name: [getattr(row, name) for row in rows] for name in COLUMNS}
    for name in ("path", "error"):
        columns[name] = [None if text is None else printable(text) for text in columns[name]]
    return pa.table(columns, schema=SCHEMA)


def finished(folder: Path, blocks: Sequence[Block]) -> Iterator[Part]:
    """Parts that are there and whole; others are named in the log, and count as not finished."""
    for block in blocks:
        part = read_part(folder, block)
        if part is not None:
            yield part


def read_part(folder: Path, block: Block) -> Part | None:
    """What is told by the footer of a block's file; ``None`` if there is no file, or it is damaged."""
    path = _path(folder, block.number)
    if not path.exists():
        return None
    try:
        footer = parquet.read_metadata(path)
        errors = footer.schema.to_arrow_schema().get_field_index("error")
        groups = [footer.row_group(index).column(errors).statistics for index in range(footer.num_row_groups)]
        part = Part(block.number, footer.num_rows, footer.num_rows - sum(each.null_count for each in groups))
    except (AttributeError, OSError, pa.ArrowException) as error:
        logger.warning("%s is damaged (%s): its images are scored again.", path, str(error).splitlines()[0])
        return None
    if part.images != len(block.images):
        logger.warning("%s has %d rows, not %d: scored again.", path, part.images, len(block.images))
        return None
    return part


def _path(folder: Path, number: int) -> Path:
    return folder / f"part-{number:06d}.parquet"


def check_output(folder: Path, settings: Mapping[str, str]) -> None:
    """Refuse an output that is not ours, or from other settings.

    Raises:
        FileExistsError: If something else is there.
        ValueError: If it has other settings; the message names what differs.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    path = folder / SETTINGS_FILE
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = (
            f"Expected {folder} to be new, or the output of an earlier run, but its {SETTINGS_FILE} cannot be read "
            f"({getattr(error, 'strerror', None) or error}). Give another --output."
        )
        raise FileExistsError(msg) from error
    if any(folder.glob("part-*")):  # without one nothing was done that could be mixed up
        refuse_others(folder, known, settings)


def sweep(folder: Path) -> None:
    """Remove the drafts of processes that were killed, once nobody writes any more."""
    for draft in folder.glob(".draft-*"):
        shutil.rmtree(draft, ignore_errors=True)
