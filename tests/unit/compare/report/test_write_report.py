# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The three files of a report, together."""

from pathlib import Path

import pytest

from anomalib_clipad.compare import report
from anomalib_clipad.compare.records import write_grid
from anomalib_clipad.compare.report import write_report
from comparisons import failed_job, job, write_comparison

FILES = ["index.html", "results.csv", "results.md"]


def written(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(output.iterdir()) if path.is_file()}


def test_the_same_records_give_the_same_files(tmp_path: Path) -> None:
    output = write_comparison(tmp_path / "output", [job(), job("WinCLIP"), failed_job("SDP+")])
    write_report(output)
    first = written(output)
    assert [name for name in first if name != "grid.json"] == FILES
    write_report(output)
    assert written(output) == first


def test_rows_come_in_the_order_of_the_grid_and_only_its_jobs(tmp_path: Path) -> None:
    records = [job("SDP"), job("Old"), job("WinCLIP")]
    output = write_comparison(tmp_path / "output", records, jobs=["WinCLIP-bottle-0", "SDP-bottle-0", "not-run"])
    write_report(output)
    lines = (output / "results.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["WinCLIP-bottle-0", "SDP-bottle-0"]
    assert "2 of 3 jobs have finished" in (output / "results.md").read_text()


def test_a_folder_without_a_comparison_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Expected output to be the folder of a comparison, but got"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_of_which_nothing_is_over_is_refused(tmp_path: Path) -> None:
    write_grid(tmp_path, ["SDP-bottle-0"])
    with pytest.raises(RuntimeError, match=r"Expected at least one job of the comparison in .* but got none\. Run it"):
        write_report(tmp_path)


def test_what_fails_leaves_the_old_files_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = write_comparison(tmp_path / "output", [job()])
    write_report(output)
    before = written(output)
    write_comparison(output, [job(metrics={"image_AUROC": 0.1})])
    with monkeypatch.context() as patch:
        patch.setattr(report, "page_text", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_report(output)
    assert written(output) == before
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_report(output)
    assert written(output) == before  # no draft is left
