# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Which files are complete, told by a clock and a disk of the test."""

import os
import sys
import time
from pathlib import Path

import pytest

from anomalib_clipad.scale.arrivals import Arrivals, observed, stamp_of
from anomalib_clipad.scale.journal import Stamp


class Disk:
    """Stamps of files, and those that are done."""

    def __init__(self, **stamps: Stamp) -> None:
        self.stamps = {f"{name}.png": stamp for name, stamp in stamps.items()}
        self.done: dict[str, Stamp] = {}

    def arrivals(self, settle: float = 2.0) -> Arrivals:
        return Arrivals(self.done.get, settle, self.stamps.get)


def test_a_file_is_complete_when_it_has_not_changed_for_a_while() -> None:
    disk = Disk(a=(1, 0))
    arrivals = disk.arrivals()
    arrivals.saw("a.png")
    assert arrivals.take(now=0) == []
    disk.stamps["a.png"] = (2, 1)
    assert arrivals.take(now=1.9) == []
    assert arrivals.take(now=3.8) == []
    assert arrivals.take(now=3.9) == [("a.png", (2, 1))]
    assert arrivals.waiting == 0


def test_a_closed_file_is_complete_and_one_that_is_written_to_again_is_not() -> None:
    disk = Disk(a=(1, 0), b=(1, 0))
    arrivals = disk.arrivals()
    arrivals.saw("a.png")
    arrivals.saw("a.png", closed=True)
    arrivals.saw("b.png", closed=True)
    arrivals.saw("b.png")
    assert arrivals.take(now=0, most=9) == [("a.png", (1, 0))]


def test_first_come_first_served_and_no_more_than_asked_for() -> None:
    disk = Disk(a=(1, 0), b=(1, 0), c=(1, 0))
    arrivals = disk.arrivals()
    for name in "cab":
        arrivals.saw(f"{name}.png", closed=True)
    assert [path for path, _ in arrivals.take(now=0, most=2)] == ["c.png", "a.png"]
    assert arrivals.waiting == 1


def test_what_is_done_gone_or_no_image_is_no_arrival() -> None:
    disk = Disk(a=(1, 0), b=(1, 0))
    disk.done["a.png"] = (1, 0)
    arrivals = disk.arrivals()
    for name in ("a.png", "gone.png", "notes.txt", "b.png"):
        arrivals.saw(name, closed=True)
    assert arrivals.take(now=0, most=9) == [("b.png", (1, 0))]
    assert arrivals.waiting == 0


def test_a_done_file_that_was_replaced_arrives_again() -> None:
    disk = Disk(a=(1, 7))
    disk.done["a.png"] = (1, 0)
    arrivals = disk.arrivals()
    arrivals.saw("a.png", closed=True)
    assert arrivals.take(now=0) == [("a.png", (1, 7))]


def test_an_unreadable_file_is_tried_once_more_after_it_has_settled() -> None:
    disk = Disk(a=(1, 0))
    arrivals = disk.arrivals()
    arrivals.saw("a.png", closed=True)
    [(path, stamp)] = arrivals.take(now=0)
    assert arrivals.again(path, stamp)
    assert arrivals.take(now=0) == []
    [(path, stamp)] = arrivals.take(now=2)
    assert not arrivals.again(path, stamp)
    assert arrivals.waiting == 0
    disk.stamps["a.png"] = (9, 9)  # others may still be written there
    assert arrivals.again("a.png", (9, 9))


def test_a_scan_takes_old_files_at_once_and_lets_new_ones_settle(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name, modified in (("b.png", 100), ("a.png", 100), ("sub/new.png", 999), ("sub/text.md", 100)):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (modified, modified))
    arrivals = Arrivals(lambda path: None, settle=2)
    arrivals.scan(str(tmp_path), wall=1000)
    assert [Path(path).name for path, _ in arrivals.take(now=0, most=9)] == ["a.png", "b.png"]
    assert [Path(path).name for path, _ in arrivals.take(now=2, most=9)] == ["new.png"]


def test_a_folder_that_has_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"watched folder to stay, but found none at .*gone\. What is done is kept"):
        Arrivals(lambda path: None, settle=2).scan(str(tmp_path / "gone"), wall=0)


def test_stamps_are_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert stamp_of(str(tmp_path / "a")) == (3, (tmp_path / "a").stat().st_mtime_ns)
    assert stamp_of(str(tmp_path / "b")) is None


@pytest.mark.parametrize("poll", [False, True], ids=["told by the system", "polled"])
def test_the_system_tells_of_files(tmp_path: Path, poll: bool) -> None:
    pytest.importorskip("watchdog")
    seen: dict[str, bool] = {}

    class Ears(Arrivals):
        def saw(self, path: str, *, closed: bool = False) -> None:
            seen[Path(path).name] = seen.get(Path(path).name, False) or closed
            super().saw(path, closed=closed)

    arrivals = Ears(lambda path: None, settle=0.0)
    (tmp_path / "in").mkdir()
    (tmp_path / "outside.png").write_bytes(b"x")
    with observed(str(tmp_path / "in"), arrivals, poll=poll):
        (tmp_path / "in/written.png").write_bytes(b"x")
        (tmp_path / "outside.png").rename(tmp_path / "in/moved.png")
        for _ in range(50):
            if "moved.png" in seen and seen.get("written.png", False) != poll:
                break
            time.sleep(0.1)
    assert {*seen} == {"written.png", "moved.png"}
    assert seen["written.png"] != poll  # told that it is closed, it need not settle


def test_without_its_extra_it_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchdog.events", None)
    arrivals = Arrivals(lambda path: None, settle=0)
    message = r"got none. Install it: pip install 'anomalib-clipad\[watch\]'"
    with pytest.raises(ModuleNotFoundError, match=message), observed(str(tmp_path), arrivals, poll=False):
        pass
