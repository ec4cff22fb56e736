# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The command `anomalib-clipad watch` in processes that are killed at chosen moments."""

import os
import resource
import signal
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import warm
from terminal import CLIPAD


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _at_the_second_batch(name: str, fault: Callable[[Any, Callable, Iterable], None]) -> None:
    """Let something happen when lines are appended to a file for the second time."""
    from anomalib_clipad.scale.journal import Lines

    append, calls = Lines.append, []

    def failing(self: Lines, values: Any) -> None:
        calls.append(self.path.name)
        if calls.count(name) == 2 and self.path.name == name:
            fault(self, append, values)
        append(self, values)

    Lines.append = failing  # type: ignore[method-assign]


def _half(lines: Any, append: Callable, values: Any) -> None:
    append(lines, values)
    size = lines.path.stat().st_size
    with lines.path.open("r+b") as file:
        file.truncate(size - 40)
    _die()


def _whole(lines: Any, append: Callable, values: Any) -> None:
    append(lines, values)
    _die()


def _no_room_for_more() -> None:
    """Let files be no larger than a few lines, as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))


FAULTS: dict[str, Callable[[], None]] = {
    "none": lambda: None,
    "killed before the line": lambda: _at_the_second_batch("predictions.jsonl", _die),
    "killed within the line": lambda: _at_the_second_batch("predictions.jsonl", _half),
    "killed after the line": lambda: _at_the_second_batch("predictions.jsonl", _whole),
    "killed before it is noted who was told": lambda: _at_the_second_batch("notifications.jsonl", _die),
    "the disk is full": _no_room_for_more,
}


def _inject(fault: str) -> None:
    FAULTS[fault]()


class Watching:
    """A folder to type the command in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: warm.Running | None = None

    def start(self, *arguments: str, fault: str = "none", **environment: str) -> warm.Running:
        self.process = warm.Running(
            [CLIPAD, "watch", *arguments],
            cwd=self.folder,
            env={**os.environ, **environment},
            before=partial(_inject, fault),
        )
        return self.process

    def __call__(self, *arguments: str, fault: str = "none", **environment: str) -> int:
        """Exit code of the command, negative where a signal ended it."""
        return self.start(*arguments, fault=fault, **environment).wait(60)

    def printed(self) -> str:
        return self.process.printed() if self.process else ""

    def wait_for(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.printed()
            time.sleep(0.05)
