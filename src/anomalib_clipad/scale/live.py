# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Frames of a camera, which does not wait: what is not scored in time is left out, and said."""

import logging
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence

from anomalib_clipad.scale.video import Frame

logger = logging.getLogger(__name__)


def newest(frames: Generator[Frame], most: int, stop: threading.Event) -> Iterator[Sequence[Frame]]:
    """Read frames in a thread, and give the newest that are there, at most so many.

    Args:
        frames: Frames of a camera.
        most: Frames that are kept while others are scored; older ones are left out.
        stop: Ends it.
    """
    kept: deque[Frame] = deque(maxlen=most)
    there, ended = threading.Condition(), threading.Event()
    left_out = 0
    failures: list[BaseException] = []

    def read() -> None:
        nonlocal left_out
        try:
            for frame in frames:
                with there:
                    left_out += len(kept) == most
                    kept.append(frame)
                    there.notify()
                if stop.is_set():
                    break
        except Exception as failure:  # noqa: BLE001 - raised where the frames are used
            failures.append(failure)
        finally:
            frames.close()
            ended.set()
            with there:
                there.notify()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while not stop.is_set():
            with there:
                there.wait_for(lambda: bool(kept) or ended.is_set() or stop.is_set(), timeout=0.2)
                batch, missed, left_out = list(kept), left_out, 0
                kept.clear()
            if missed:
                logger.warning("Left out %d frames, which came faster than they are scored. Raise --every.", missed)
            if batch:
                yield batch
            elif ended.is_set():
                break
    finally:
        thread.join(timeout=5)
    if failures:
        raise failures[0]
