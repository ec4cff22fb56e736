# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""A camera does not wait: what comes faster than it is scored is left out, and that is said."""

import threading
from collections.abc import Generator

import numpy as np
import pytest

from anomalib_clipad.scale.live import newest
from anomalib_clipad.scale.video import Frame


def camera(count: int, ready: threading.Event | None = None) -> Generator[Frame]:
    for number in range(count):
        yield Frame(f"camera0#{number:06d}", number, 0.0, np.zeros((1, 1, 3), np.uint8))
    if ready is not None:
        ready.set()


def test_the_newest_are_kept_and_others_left_out(caplog: pytest.LogCaptureFixture) -> None:
    ready = threading.Event()
    batches = newest(camera(10, ready), 3, threading.Event())
    first = next(batches)
    assert ready.wait(5)
    later = [frame.number for batch in batches for frame in batch]
    seen = [frame.number for frame in first] + later
    assert seen == sorted({*seen})
    assert seen[-3:] == [7, 8, 9] or len(later) < 3
    assert seen[-1] == 9
    left_out = 10 - len(seen)
    assert left_out == sum(int(record.args[0]) for record in caplog.records if record.args)


def test_it_stops_when_told_to() -> None:
    stop = threading.Event()

    def endless() -> Generator[Frame]:
        while True:
            yield from camera(1)

    for count, _ in enumerate(newest(endless(), 2, stop)):
        if count == 2:
            stop.set()
    assert stop.is_set()


def test_a_failure_of_the_camera_is_raised() -> None:
    def broken() -> Generator[Frame]:
        yield from camera(1)
        raise RuntimeError("unplugged")

    with pytest.raises(RuntimeError, match="unplugged"):
        list(newest(broken(), 2, threading.Event()))
