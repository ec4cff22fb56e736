# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What a watch has done survives whatever ends it."""

import errno
import json
import os
from pathlib import Path

import pytest

from anomalib_clipad.prediction.regions import Region
from anomalib_clipad.prediction.table import JSON_FILE, PredictionRow
from anomalib_clipad.scale.journal import Entry, Journal, Lines


def entry(path: str, position: int, stamp: tuple[int, int] | None = (1, 2)) -> Entry:
    row = PredictionRow(
        path,
        "nut",
        0.25,
        "normal",
        0.5,
        False,
        "text",
        position=position,
        original_size=(4, 6),
        regions=[Region((0, 1, 2, 3), 5, 0.9, 0.8)],
    )
    return Entry(row, stamp, None, "2026-01-01T00:00:00+00:00", ("post",))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    written = [entry("a.png", 0), entry("br\udcf6ken ö.png", 1, stamp=None)]
    Journal(tmp_path).append(written)
    journal = Journal(tmp_path)
    assert journal.whole([0, 1]) == written
    assert journal.whole([1]) == written[1:]
    assert [each.row.regions for each in journal.entries] == [None, None]


@pytest.mark.parametrize("torn", [b'{"path": "b.pn', b"\0" * 70_000, b"{"])
def test_a_line_that_was_not_written_to_its_end_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    Journal(tmp_path).append([entry("a.png", 0)])
    whole = (tmp_path / JSON_FILE).read_bytes()
    (tmp_path / JSON_FILE).write_bytes(whole + torn)

    journal = Journal(tmp_path)

    assert [each.row.path for each in journal.entries] == ["a.png"]
    assert (tmp_path / JSON_FILE).read_bytes() == whole
    journal.append([entry("b.png", 1)])
    assert [each.row.path for each in Journal(tmp_path).entries] == ["a.png", "b.png"]


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.append([entry("a.png", 0)])
    whole = (tmp_path / JSON_FILE).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        journal.append([entry("b.png", 1)])

    assert (tmp_path / JSON_FILE).read_bytes() == whole
    assert len(journal) == 1
    assert journal.stamp_of("b.png") is None


def test_the_newest_of_a_file_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([entry("a.png", 0), entry("b.png", 1)])
    journal.append([entry("a.png", 2, stamp=(3, 4))])
    for each in (journal, Journal(tmp_path)):
        assert each.stamps == {"a.png": (3, 4), "b.png": (1, 2)}
        assert [row.position for row in each.newest()] == [1, 2]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    Journal(tmp_path).append([entry("a.png", 0)])
    with (tmp_path / JSON_FILE).open("ab") as file:
        file.write(b"{oops}\n")
    with pytest.raises(
        ValueError, match=r"line 2 of .*predictions.jsonl to be JSON, but got b'\{oops\}'. Put the file"
    ):
        Journal(tmp_path)


@pytest.mark.parametrize(
    "values", [{"path": "a.png"}, {**entry("a", 0).to_json(), "regions": [{"box": [1], "size": 2}]}]
)
def test_lines_of_something_else_are_refused(tmp_path: Path, values: dict) -> None:
    (tmp_path / JSON_FILE).write_text(json.dumps(values) + "\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"to be written by .anomalib-clipad watch., but a line has no .*Choose another"
    ):
        Journal(tmp_path)


def test_lines_are_appended_to(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "new" / "lines.jsonl")
    lines.append([{"a": 1}])
    lines.append([])
    lines.append([{"b": None}, {"c": "ö"}])
    assert list(Lines(lines.path)) == [{"a": 1}, {"b": None}, {"c": "ö"}]
