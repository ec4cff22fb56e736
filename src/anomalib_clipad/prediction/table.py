# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Predictions as tables: one CSV file and one of JSON lines, a row an image."""

import csv
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TextIO

from anomalib.data import ImageBatch, InferenceBatch
from torch import Tensor

from anomalib_clipad.base.files import atomic_write
from anomalib_clipad.base.text import printable
from anomalib_clipad.data.image_loader import ListedImage, SkippedImage
from anomalib_clipad.post_processing.post_processor import CategoryPostProcessor
from anomalib_clipad.prediction.regions import Region
from anomalib_clipad.scoring.fusion import Weights

logger = logging.getLogger(__name__)

CSV_FILE, JSON_FILE = "predictions.csv", "predictions.jsonl"

_DIGITS = 8
"""Digits of a score in the tables: all that single precision has."""


@dataclass(frozen=True)
class PredictionRow:
    """What the tables say of an image; ``None`` is an empty cell and ``null``.

    Attributes:
        path: Path of the file; empty for an image that came from memory.
        class_name: What the image was taken for.
        score: Image score in [0, 1].
        label: ``"anomalous"`` or ``"normal"``.
        threshold: The label is anomalous where the score is above it.
        calibrated: Whether ranges and threshold were measured on images of the class. Otherwise the scores of
            different models and classes do not compare, and labels are rough.
        evidence: What the score rests on: text, heads, how many references.
        error: Why the file could not be read.
        position: Place of the image among those given, from 0; not in the tables, which are ordered by it.
        original_size: Height and width of the image; not in the tables.
        regions: Where it is anomalous, the largest region first; in the JSON lines only.
    """

    path: str
    class_name: str | None = None
    score: float | None = None
    label: str | None = None
    threshold: float | None = None
    calibrated: bool | None = None
    evidence: str | None = None
    error: str | None = None
    position: int = 0
    original_size: tuple[int, int] | None = None
    regions: Sequence[Region] | None = None


def row_alone(row: PredictionRow) -> PredictionRow:
    """The row of a prediction without what it holds besides, such as maps, which would be kept and travel."""
    return PredictionRow(**{each.name: getattr(row, each.name) for each in fields(PredictionRow)})


_BESIDE = {"position", "original_size", "regions"}
COLUMNS = tuple(column.name for column in fields(PredictionRow) if column.name not in _BESIDE)
"""Columns of the tables."""


def describe(
    images: Iterable[ListedImage],
    predictions: ImageBatch | InferenceBatch,
    post_processor: object,
    classes: Tensor,
    evidence: Callable[[str], str],
) -> list[PredictionRow]:
    """Rows of a batch of images, named by what each was taken for, from scores and, where decided, labels.

    ``evidence`` says what scores of a class rest on.
    """
    scores, labels = predictions.pred_score, predictions.pred_label
    decided: Iterable[bool | None] = [None] * len(scores) if labels is None else labels.bool().tolist()
    ours = post_processor if isinstance(post_processor, CategoryPostProcessor) else None
    # Without normalisation the scores are on another scale than the threshold.
    threshold = 1 - ours.image_sensitivity if ours and ours.enable_normalization and labels is not None else None
    return [
        PredictionRow(
            path=image.path,
            class_name=image.class_name,
            score=score,
            label=None if anomalous is None else ("anomalous" if anomalous else "normal"),
            threshold=threshold,
            calibrated=ours.is_calibrated(index) if ours else None,
            evidence=evidence(str(image.class_name)),
            position=image.position,
        )
        for image, score, anomalous, index in zip(images, scores.tolist(), decided, classes.tolist(), strict=True)
    ]


def describe_evidence(weights: Weights, references: int, pool: int = 0, *, heads: bool) -> str:
    """Say what scores rest on: text, heads, how many references, how many images of a pool.

    Example:
        >>> describe_evidence(Weights(), 4, heads=True)
        'text, heads, references (4)'
    """
    counts = {"references": references if weights.references else 0, "pool": pool if weights.pool else 0}
    others = [f"{name} ({count})" for name, count in counts.items() if count]
    text = ["text", "heads"] if heads else ["text"]
    return ", ".join([*(text if weights.text or not others else []), *others])


def describe_skipped(image: SkippedImage) -> PredictionRow:
    """Row of a file that could not be read."""
    source = image.source
    return PredictionRow(source.path, source.class_name, error=image.reason, position=source.position)


def log_skipped(rows: Iterable[PredictionRow]) -> None:
    """Log each file that could not be read, and why."""
    for row in rows:
        if row.error is not None:
            logger.warning("Skipped %s: %s", printable(row.path), row.error)


def require_readable(rows: Sequence[PredictionRow]) -> None:
    """Raise OSError if there are files and none of them could be read."""
    if rows and all(row.error is not None for row in rows):
        msg = f"Expected images that can be read, but got none. {rows[0].path}: {rows[0].error}"
        raise OSError(msg)


def ordered(rows: Iterable[PredictionRow]) -> list[PredictionRow]:
    """Rows in the order in which the images were given."""
    return sorted(rows, key=lambda row: row.position)


def write_tables(folder: str | Path, rows: Iterable[PredictionRow]) -> tuple[Path, Path]:
    """Write both tables in the order of the images; return their paths.

    Bytes of a file name that are not UTF-8 are written as escapes, which JSON readers undo.
    """
    in_order = ordered(rows)
    table, lines = write_csv(folder, in_order), Path(folder) / JSON_FILE
    with atomic_write(lines) as draft, _open(draft) as file:
        file.writelines(as_line(to_json(row)) for row in in_order)
    return table, lines


def write_csv(folder: str | Path, rows: Iterable[PredictionRow]) -> Path:
    """Write ``predictions.csv`` alone, in the order given; return its path."""
    table = Path(folder) / CSV_FILE
    with atomic_write(table) as draft, _open(draft) as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        # Booleans as in JSON.
        writer.writerows(
            [str(cell).lower() if isinstance(cell, bool) else cell for cell in _cells(row)] for row in rows
        )
    return table


def to_json(row: PredictionRow) -> dict[str, Any]:
    """What a line of ``predictions.jsonl`` says of an image."""
    regions = None if row.regions is None else [asdict(region) for region in row.regions]
    return {**dict(zip(COLUMNS, _cells(row), strict=True)), "regions": regions}


def from_json(values: Mapping[str, Any], position: int) -> PredictionRow:
    """Row of a line of ``predictions.jsonl``, and of ``original_size`` where it has that; other keys are ignored.

    Raises:
        KeyError: If a column is missing.
        TypeError: If a region is not one.
    """
    regions, size = values["regions"], values.get("original_size")
    return PredictionRow(
        **{name: values[name] for name in COLUMNS},
        position=position,
        original_size=None if size is None else (size[0], size[1]),
        regions=None if regions is None else [Region(**{**each, "box": tuple(each["box"])}) for each in regions],
    )


def as_line(values: Mapping[str, Any]) -> str:
    """A line of JSON; to be encoded with ``backslashreplace``, see :func:`write_tables`."""
    return json.dumps(values, ensure_ascii=False) + "\n"


def _open(path: Path) -> TextIO:
    return path.open("w", newline="", encoding="utf-8", errors="backslashreplace")


def _cells(row: PredictionRow) -> list[str | float | bool | None]:
    values = [getattr(row, column) for column in COLUMNS]
    return [round(value, _DIGITS) if isinstance(value, float) else value for value in values]
