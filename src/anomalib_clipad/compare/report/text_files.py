# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The CSV file, one row a job, and the Markdown file, the tables as a paper prints them."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from anomalib_clipad.compare.records import Record
from anomalib_clipad.compare.report.differences import Difference
from anomalib_clipad.compare.report.tables import Cell, DatasetResults
from anomalib_clipad.compare.report.wording import (
    cell_text,
    circumstances,
    cost_texts,
    difference_texts,
    fine_print,
    incomplete_note,
    mean_tables,
    mean_title,
    metric_title,
    model_arguments,
    notes,
    sources,
)

_JOB = ("job", "status", "model", "dataset", "category", "seed")


def csv_text(results: Sequence[DatasetResults]) -> str:
    """Return one row a job, failed ones included: job, metrics, measures, circumstances.

    The columns are always the same but for the metrics, whose order is that of the tables. A metric that is undefined
    in a category reads ``nan``; what a job did not get to is empty.
    """
    metrics = list(dict.fromkeys(metric for each in results for metric in each.metrics))
    rows = [
        {
            **{name: getattr(record, name) for name in _JOB},
            **{metric: _number(record.metrics.get(metric)) for metric in metrics},
            **{name: _number(value) for name, value in vars(record.measures).items()},
            **_provenance(record),
        }
        for each in results
        for record in each.records
    ]
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def markdown_text(results: Sequence[DatasetResults], n_jobs: int, found: Sequence[Difference] = ()) -> str:
    """Return the tables of each dataset: means, then each category, what they took, and what failed.

    Args:
        results: Results by dataset.
        n_jobs: Number of jobs of the grid, those that have not finished included.
        found: Means beside what was expected of them.
    """
    n_finished = sum(len(each.records) for each in results)
    lines = ["# Comparison", ""]
    if n_finished < n_jobs:
        lines += [f"**{n_finished} of {n_jobs} jobs have finished; the tables are of these.**", ""]
    for each in results:
        lines += _dataset(each, [one for one in found if one.expectation.dataset == each.name])
    return "\n".join(lines).rstrip() + "\n"


def _dataset(results: DatasetResults, found: Sequence[Difference]) -> list[str]:
    lines = [f"## {_plain(results.name)}", ""]
    if results.metrics:
        for categories in mean_tables(results):
            lines += [f"### {_plain(mean_title(results, categories))}", "", *_means(results, categories)]
    if found:
        lines += ["### Measured and expected", "", *_differences(found), "", _small_print(results), ""]
    if results.metrics and len(results.categories) > 1:
        lines += ["### By category", "", *_by_category(results)]
    if results.done():
        texts = {cost.model: cost_texts(cost) for cost in results.costs()}
        header = ["model", *next(iter(texts.values()))]
        rows = [[model, *row.values()] for model, row in texts.items()]
        lines += ["### Speed and size", "", *_table(header, rows), ""]
        lines += [_small_print(results), ""]
    lines += ["### What was compared", ""]
    lines += [f"* {name}: {_plain(value)}" for name, value in circumstances(results)]
    lines += [f"* {_plain(model)}: {_plain(note)}" for model, note in notes(results)]
    lines += [f"* {_plain(model)}: `{path}` {_code(args)}" for model, path, args in model_arguments(results)]
    lines += [""]
    if results.n_failed():
        lines += ["### Failed", "", *_table(["model", "runs", "error"], _failures(results)), ""]
    return lines


def _means(results: DatasetResults, categories: Sequence[str]) -> list[str]:
    header = ["× 100", *(metric_title(metric) for metric in results.metrics)]
    rows = [[row.model, *map(_cell, row.cells.values())] for row in results.rows(categories)]
    note = incomplete_note(results, categories)
    return [*_table(header, rows), "", *([_plain(note), ""] if note else []), _small_print(results), ""]


def _differences(found: Sequence[Difference]) -> list[str]:
    texts = [difference_texts(each) for each in found]
    rows = [
        [each.expectation.model, *(f"**{text}**" if text == "no" else text for text in row.values())]
        for each, row in zip(found, texts, strict=True)
    ]
    return [*_table(["× 100", *texts[0]], rows), "", _plain(sources(found))]


def _by_category(results: DatasetResults) -> list[str]:
    header = ["× 100", "model", *(metric_title(metric) for metric in results.metrics)]
    rows = [
        [category, row.model, *map(_cell, row.cells.values())]
        for category in results.categories
        for row in results.rows([category])
    ]
    return [*_table(header, rows), "", _small_print(results), ""]


def _failures(results: DatasetResults) -> list[list[str]]:
    return [[each.model, "; ".join(each.runs), each.error] for each in results.failures()]


def _small_print(results: DatasetResults) -> str:
    return f"_{_plain(fine_print(results))}_"


def _cell(cell: Cell) -> str:
    return f"**{cell_text(cell)}**" if cell.best else cell_text(cell)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table; figures are aligned by the reader's viewer."""
    lines = [list(header), ["---"] * len(header), *([_plain(text) for text in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _plain(text: str) -> str:
    """Return text that keeps to its line and its cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _code(text: str) -> str:
    """Return text as code, also where it has a backquote."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _number(value: float | None) -> str:
    """Return whole numbers as they are and others to six decimals."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.6f}"


def _provenance(record: Record) -> dict[str, Any]:
    given = dict(vars(record.provenance))
    height, width = given.pop("input_size") or ("", "")
    versions, note = given.pop("versions"), given.pop("note")
    return {
        "input_height": height,
        "input_width": width,
        **given,
        "note": note,
        "class_path": record.class_path,
        "init_args": json.dumps(record.init_args, sort_keys=True, ensure_ascii=False),
        "versions": json.dumps(versions, sort_keys=True),
        "error": " ".join((record.error or "").split()),
    }
