# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Files that arrive in a folder, and which of them are complete."""

import errno
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from anomalib.data.utils.image import is_image_file

from anomalib_clipad.scale.journal import Stamp

logger = logging.getLogger(__name__)


def stamp_of(path: str) -> Stamp | None:
    """Stamp of a file; ``None`` where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - called for each file of a folder again and again
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


@dataclass
class _Waiting:
    stamp: Stamp | None = None
    since: float = 0.0
    closed: bool = False


class Arrivals:
    """Tells which files are complete: those that were closed, or have not changed for a while.

    Names may come from any thread; all else is for one.

    Args:
        done: Stamp with which a file was scored, ``None`` if it was not. A file with that stamp is no arrival.
        settle: Seconds without a change after which a file counts as complete.
        stamp: Stamp of a file as it is now.

    Example:
        >>> arrivals = Arrivals(done=lambda path: None, settle=1, stamp=lambda path: (10, 20))
        >>> arrivals.saw("a.png")
        >>> arrivals.take(now=0.0), arrivals.take(now=1.0)
        ([], [('a.png', (10, 20))])
    """

    def __init__(
        self,
        done: Callable[[str], Stamp | None],
        settle: float,
        stamp: Callable[[str], Stamp | None] = stamp_of,
    ) -> None:
        self._done, self._settle, self._stamp = done, settle, stamp
        self._events: SimpleQueue[tuple[str, bool]] = SimpleQueue()
        self._waiting: dict[str, _Waiting] = {}
        self._failed: dict[str, Stamp] = {}

    def saw(self, path: str, *, closed: bool = False) -> None:
        """Note that a file is there or has changed; ``closed`` if who wrote it has closed it."""
        if is_image_file(path):
            self._events.put((path, closed))

    def scan(self, folder: str, wall: float) -> None:
        """Note all files of a folder and those in it; those unchanged for long before the time ``wall`` are complete.

        Raises:
            OSError: If the folder is gone.
        """
        if not os.path.isdir(folder):  # noqa: PTH112 - as above
            msg = (
                f"Expected the watched folder to stay, but found none at {folder}. What is done is kept: put it back, "
                "or mount it, and start the same command again."
            )
            raise OSError(msg)
        for place, folders, names in os.walk(folder, onerror=lambda error: logger.warning("Left out: %s", error)):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(place, name)  # noqa: PTH118 - as above
                stamp = self._stamp(path) if is_image_file(path) else None
                if stamp is not None and stamp != self._done(path):
                    self.saw(path, closed=wall - stamp[1] / 1e9 >= self._settle)

    def take(self, now: float, most: int = 1) -> list[tuple[str, Stamp]]:
        """Take files that are complete at a time, by the same clock at each call; those that came first go first."""
        self._note_events()
        taken: list[tuple[str, Stamp]] = []
        for path, waiting in list(self._waiting.items()):
            if len(taken) == most:
                break
            stamp = self._stamp(path)
            if stamp is None or stamp == self._done(path):  # gone, or nothing new
                del self._waiting[path]
            elif waiting.closed or (stamp == waiting.stamp and now - waiting.since >= self._settle):
                del self._waiting[path]
                taken.append((path, stamp))
            elif stamp != waiting.stamp:
                waiting.stamp, waiting.since = stamp, now
        return taken

    def again(self, path: str, stamp: Stamp) -> bool:
        """Let a file that could not be read be tried once more, after it has settled; false if it was."""
        if self._failed.pop(path, None) == stamp:
            return False
        self._failed[path] = stamp
        self.saw(path)
        return True

    @property
    def waiting(self) -> int:
        """Number of files that are not complete, or not taken."""
        self._note_events()
        return len(self._waiting)

    def _note_events(self) -> None:
        while True:
            try:
                path, closed = self._events.get_nowait()
            except Empty:
                return
            waiting = self._waiting.setdefault(path, _Waiting())
            waiting.closed = closed


@contextmanager
def observed(folder: str, arrivals: Arrivals, *, poll: bool) -> Iterator[None]:
    """Tell ``arrivals`` of what happens in a folder and those in it.

    Args:
        folder: The folder.
        arrivals: Who is told.
        poll: Look at all files each second, where the system does not tell, as on network drives.

    Raises:
        ModuleNotFoundError: If watchdog is not installed.
        OSError: If the system does not watch so many folders.
    """
    try:
        from watchdog.events import FileSystemEventHandler
        from watchdog.observers import Observer
        from watchdog.observers.polling import PollingObserver
    except ImportError as error:
        msg = (
            "Expected watchdog for `anomalib-clipad watch`, but got none. Install it: pip install "
            "'anomalib-clipad[watch]'"
        )
        raise ModuleNotFoundError(msg) from error

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: Any) -> None:
            if event.event_type in {"created", "modified", "closed", "moved"} and not event.is_directory:
                path = event.dest_path if event.event_type == "moved" else event.src_path
                # A file that is moved into place was written elsewhere.
                arrivals.saw(os.fsdecode(path), closed=event.event_type in {"closed", "moved"})

    observer = PollingObserver() if poll else Observer()
    observer.schedule(Handler(), folder, recursive=True)
    try:
        observer.start()
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EMFILE}:
            raise
        msg = (
            f"Expected the system to watch {folder}, but it watches no more folders ({error.strerror}). Raise "
            "fs.inotify.max_user_watches and max_user_instances, or give --poll."
        )
        raise OSError(msg) from error
    try:
        yield
    finally:
        observer.stop()
        observer.join()
