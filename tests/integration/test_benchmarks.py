# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The suite of benchmarks runs, on its smallest sizes; what it measures is for `make bench` to say."""

from pathlib import Path

import pytest

import warm
from benchmarks.performance.__main__ import BEGIN, END, MEASURES, run

pytestmark = pytest.mark.slow

NEVER = {"scale"}
"""Ray starts many times for that one, which takes minutes: its command is tested in test_scale."""
RARELY = {"towers", "memory", "command", "training", "runtimes", "precision", "gpu"}
"""Two minutes together: `make thorough` alone runs them."""


def test_every_measure_runs_and_the_page_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pytestconfig: pytest.Config
) -> None:
    left_out = NEVER if pytestconfig.getoption("--thorough") else NEVER | RARELY
    names = [name for name in MEASURES if name not in left_out]
    page = tmp_path / "performance.md"
    page.write_text(f"# Speed\n\n{BEGIN}\n\nold figures\n\n{END}\n\nThe end.\n", encoding="utf-8")
    monkeypatch.setattr("benchmarks.performance.timing.subprocess", warm)
    monkeypatch.setenv("ANOMALIB_CLIPAD_CACHE", str(tmp_path / "cache"))

    failed = run(smoke=True, only=names, output=page, threads=1)

    printed = capsys.readouterr().out
    assert failed == 0, printed[-6000:]
    assert all(f"{name} …" in printed for name in names)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Speed")
    assert text.endswith("The end.\n")
    assert "old figures" not in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) > 2 * len(names)
    assert all(len(row) == len(rows[0]) for row in rows)
    # Only what the smoke run leaves out lacks a figure.
    assert [row[0] for row in rows if row[1] == "not measured"] == ["| host's WinCLIP ÷ SDP, same images"]
