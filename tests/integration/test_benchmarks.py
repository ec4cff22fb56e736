# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The suite of benchmarks runs, on its smallest sizes; what it measures is for `make bench` to say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.performance.__main__ import BEGIN, END, MEASURES

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow

RUN = [name for name in MEASURES if name != "scale"]
"""Ray starts many times for that one, which takes minutes: its command is tested in test_scale."""


def test_every_measure_runs_and_the_page_is_written(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"# Speed\n\n{BEGIN}\n\nold figures\n\n{END}\n\nThe end.\n", encoding="utf-8")

    process = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "benchmarks.performance",
            "--smoke",
            "--output",
            str(page),
            "--only",
            *RUN,
        ],
        cwd=ROOT,
        env={**os.environ, "ANOMALIB_CLIPAD_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert process.returncode == 0, process.stderr[-3000:]
    assert all(f"{name} …" in process.stdout for name in RUN)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Speed")
    assert text.endswith("The end.\n")
    assert "old figures" not in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) > 2 * len(RUN)
    assert all(len(row) == len(rows[0]) for row in rows)
    # Only what the smoke run leaves out lacks a figure.
    assert [row[0] for row in rows if row[1] == "not measured"] == ["| host's WinCLIP ÷ SDP, same images"]
