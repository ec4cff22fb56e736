# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""A file is the previous one or the new one, whatever happens while it is written."""

from pathlib import Path

import pytest

from anomalib_clipad.base.files import atomic_write


def test_the_draft_takes_the_place_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.csv"
    for text in ("first", "second"):
        with atomic_write(path) as draft:
            assert draft.suffix == ".csv"
            draft.write_text(text)
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("first")
    with pytest.raises(FileNotFoundError), atomic_write(path) as draft:
        draft.rename(tmp_path / "elsewhere").unlink()
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # whose block ended last
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_written_beside_the_draft_moves_along(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "model.xml") as draft:
        draft.write_text("graph")
        draft.with_suffix(".bin").write_text("weights")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "model.xml": "graph",
        "model.bin": "weights",
    }
