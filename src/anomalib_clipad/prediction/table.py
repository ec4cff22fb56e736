# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Predictions as tables: one CSV file and one of JSON lines, a row an image."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from anomalib_clipad.base.files import atomic_write
from anomalib_clipad.data.image_files import Unreadable
from anomalib_clipad.post_processing.post_processor import CategoryPostProcessor

CSV_FILE, JSON_FILE = "predictions.csv", "predictions.jsonl"

_DIGITS = 8
"""Digits of a score in the tables: all that single precision has."""


class PredictionRow(NamedTuple):
    """What the tables say of an image; ``None`` is an empty cell and ``null``.

    Attributes:
        path: Path of the file; empty for an image that came from memory.
        class_name: What the image was taken for.
        score: Image score in [0, 1].
        label: ``"anomalous"`` or ``"normal"``.
        threshold: The label is anomalous where the score is above it.
        calibrated: Whether ranges and threshold were measured on images of the class. Otherwise the scores of
            different models and classes do not compare, and labels are rough.
        error: Why the file could not be read.
    """

    path: str
    class_name: str | None = None
    score: float | None = None
    label: str | None = None
    threshold: float | None = None
    calibrated: bool | None = None
    error: str | None = None


def describe(
    paths: Iterable[str],
    class_names: Iterable[str],
    scores: Tensor,
    labels: Tensor | None,
    post_processor: object,
    class_index: Iterable[int],
) -> list[PredictionRow]:
    """Rows of a batch of B images that were scored.

    Args:
        paths: B paths.
        class_names: B class names.
        scores: Image scores (B,).
        labels: True where anomalous (B,); ``None`` where nothing was decided.
        post_processor: What made scores and labels.
        class_index: Index of each image's class in the post-processor.
    """
    decided: Iterable[bool | None] = [None] * len(scores) if labels is None else labels.bool().tolist()
    ours = post_processor if isinstance(post_processor, CategoryPostProcessor) else None
    # Without normalisation the scores are on another scale than the threshold.
    threshold = 1 - ours.image_sensitivity if ours and ours.enable_normalization and labels is not None else None
    return [
        PredictionRow(
            path=path,
            class_name=name,
            score=score,
            label=None if anomalous is None else ("anomalous" if anomalous else "normal"),
            threshold=threshold,
            calibrated=ours.is_calibrated(index) if ours else None,
        )
        for path, name, score, anomalous, index in zip(
            paths, class_names, scores.tolist(), decided, class_index, strict=True
        )
    ]


def describe_unreadable(file: Unreadable, class_name: str | None) -> PredictionRow:
    """Row of a file that could not be read."""
    return PredictionRow(path=file.path, class_name=class_name, error=file.reason)


def write_tables(folder: str | Path, rows: Iterable[PredictionRow]) -> tuple[Path, Path]:
    """Write both tables, each in one step: a reader never sees half a file.

    Returns:
        Paths of the CSV file and the JSON lines.
    """
    folder, rows = Path(folder), list(rows)
    table, lines = folder / CSV_FILE, folder / JSON_FILE
    with atomic_write(table) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(PredictionRow._fields)
        writer.writerows([_cell(value) for value in _rounded(row)] for row in rows)
    with atomic_write(lines) as draft, draft.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(_rounded(row)._asdict(), ensure_ascii=False) + "\n" for row in rows)
    return table, lines


def _rounded(row: PredictionRow) -> PredictionRow:
    return row if row.score is None else row._replace(score=round(row.score, _DIGITS))


def _cell(value: str | float | bool | None) -> str | float | None:
    """CSV cell: booleans as in JSON."""
    return str(value).lower() if isinstance(value, bool) else value
