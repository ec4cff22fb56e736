# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Run the suite: ``python -m benchmarks.performance [--smoke] [--only NAME ...] [--output FILE] [--json FILE]``."""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.performance.setting import Setting
from benchmarks.performance.table import Row, markdown, terminal
from benchmarks.performance.timing import ROOT

MEASURES = (
    "forward",
    "parts",
    "sizes",
    "towers",
    "resampling",
    "winclip",
    "memory",
    "text",
    "command",
    "training",
    "metrics",
    "runtimes",
    "imports",
    "precision",
    "growth",
    "evidence",
    "tiles",
    "words",
    "scale",
    "gpu",
)
REPEATED = {"forward", "sizes"}
"""Measures whose limits are near: their figures are medians of several series."""
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def run(
    smoke: bool,
    only: Sequence[str],
    output: Path | None = None,
    rows_file: Path | None = None,
    threads: int = 2,
    rounds: int = Setting.rounds,
    series: int = 1,
) -> int:
    """Measure, print one table, and write it; a measure that fails leaves a row that says why.

    Returns:
        Number of measures that failed.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for the processes that measures start
    torch.set_num_threads(threads)
    setting = Setting.for_smoke() if smoke else Setting(rounds=rounds)
    console = Console()
    rows: list[Row] = []
    failed = 0
    for name in only:
        console.print(f"[dim]{name} …[/dim]")
        try:
            measure = importlib.import_module(f"benchmarks.performance.{name}").measure
            rows += medians([measure(setting) for _ in range(series if name in REPEATED else 1)])
        except Exception as error:  # noqa: BLE001, the others have taken many minutes
            console.print_exception()
            rows.append(Row(name, None, note=f"failed: {type(error).__name__}"))
            failed += 1
    console.print(terminal(rows))
    console.print(machine(threads))
    if output is not None:
        write(output, f"{machine(threads)}\n\n{markdown(rows)}")
    if rows_file is not None:
        figures = {"commit": commit(), "machine": machine(threads), "rows": [asdict(row) for row in rows]}
        rows_file.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return failed


def medians(series: Sequence[Sequence[Row]]) -> list[Row]:
    """The median row of each measure, with the figures of all series in its note where there are several."""
    if len(series) == 1:
        return list(series[0])
    found = []
    for rows in zip(*series, strict=True):
        median = sorted(rows, key=lambda row: row.value or 0)[len(rows) // 2]
        figures = ", ".join(f"{row.value:.3g}" for row in rows if row.value is not None)
        notes = [f"median of {len(rows)} series: {figures}", *filter(None, [median.note])]
        found.append(replace(median, note="; ".join(notes)))
    return found


def commit() -> str | None:
    """The commit that this tree was made of, where git knows one."""
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def machine(threads: int) -> str:
    """One paragraph on what was measured on."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "anomalib", "open_clip_torch"))
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return (
        f"Machine: {platform.machine()}, {processor()}, {os.cpu_count()} cores, {threads} threads; GPU: {gpu}. "
        f"Python {platform.python_version()}, {versions}."
    )


def processor() -> str:
    """Name of the processor and its instructions for half precision, where Linux tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    values: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        values.setdefault(key.strip(), value.strip())
    extensions = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if flag in values.get("flags", "").split()]
    return f"{values.get('model name', platform.processor())} ({' '.join(extensions)})"


def write(path: Path, text: str) -> None:
    """Replace what is between the marks of a file, atomically.

    Raises:
        ValueError: If the marks are missing from the file.
    """
    page = path.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        msg = f"Expected {path} to hold the marks {BEGIN} and {END}, but it does not. Restore them."
        raise ValueError(msg)
    temporary = path.with_suffix(".part")
    temporary.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.performance", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="smallest sizes, only to show that the suite runs")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=MEASURES, help="what to measure")
    parser.add_argument("--output", type=Path, help="Markdown file whose part between two marks is replaced")
    parser.add_argument("--json", type=Path, dest="rows_file", help="file to write the rows to, for `make bench-check`")
    parser.add_argument(
        "--rounds", type=int, default=Setting.rounds, help="alternated runs of each function; one if --smoke"
    )
    parser.add_argument("--series", type=int, default=1, help=f"how often to repeat {' and '.join(sorted(REPEATED))}")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    arguments = parser.parse_args()
    if arguments.output is not None and set(arguments.only) < set(MEASURES):
        parser.error(f"Expected all measures for {arguments.output}, but got --only: the others would be lost from it.")
    sys.exit(1 if run(**vars(arguments)) else 0)
