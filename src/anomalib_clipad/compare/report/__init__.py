# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Results of a comparison for people: CSV, Markdown, and a page that is one file."""

from pathlib import Path

from anomalib_clipad.base.files import atomic_write
from anomalib_clipad.compare.expected import read_expected
from anomalib_clipad.compare.records import read_grid, read_records
from anomalib_clipad.compare.report.differences import differences
from anomalib_clipad.compare.report.page import page_text
from anomalib_clipad.compare.report.tables import by_dataset
from anomalib_clipad.compare.report.text_files import csv_text, markdown_text

CSV_FILE = "results.csv"
MARKDOWN_FILE = "results.md"
PAGE_FILE = "index.html"


def write_report(output: Path) -> None:
    """Write ``results.csv``, ``results.md`` and ``index.html`` from the records of a comparison.

    The files are written once all three are made, and each appears complete or not at all. They follow from the records
    and what is expected of them alone: the same records give the same files. They say where jobs have not finished.

    Args:
        output: Folder of the comparison.

    Raises:
        FileNotFoundError: If no comparison was started in the folder.
        ValueError: If a record is damaged, or two models share a name.
        RuntimeError: If no job has finished yet.
    """
    records = read_records(output)
    results, n_jobs = by_dataset(records), len(read_grid(output))
    if not results:
        msg = f"Expected at least one job of the comparison in {output} to have finished, but got none. Run it first."
        raise RuntimeError(msg)
    found = differences(read_expected(output), records)
    texts = {
        CSV_FILE: csv_text(results),
        MARKDOWN_FILE: markdown_text(results, n_jobs, found),
        PAGE_FILE: page_text(output, results, n_jobs, found),
    }
    for name, text in texts.items():
        with atomic_write(output / name) as draft:
            draft.write_text(text, encoding="utf-8", newline="\n")
