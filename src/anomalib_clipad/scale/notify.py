# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Tells a command or a server of images, each at least once, also across restarts."""

import json
import logging
import shlex
import shutil
import subprocess
import tempfile
import threading
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from queue import SimpleQueue
from string import Formatter
from typing import Any, Protocol
from urllib.parse import urlsplit

from anomalib_clipad.base.text import printable
from anomalib_clipad.scale.journal import Entry, Lines

logger = logging.getLogger(__name__)

SENT_FILE = "notifications.jsonl"

TIMEOUT = 30.0
"""Seconds after which a command is ended, or a server given up."""

_FIELDS = ("path", "class_name", "score", "label", "threshold", "time")


class Target(Protocol):
    """Someone to be told of images."""

    @property
    def name(self) -> str:
        """What the journal calls it."""

    def send(self, values: Mapping[str, Any]) -> None:
        """Tell of an image.

        Raises:
            OSError: If that failed.
        """


@dataclass(frozen=True)
class Command:
    """Runs a command for an image, without a shell.

    Args:
        template: The command as it is typed; ``{path}``, ``{score}``, ``{class_name}``, ``{label}``, ``{threshold}``
            and ``{time}`` stand for what the tables say. What a path holds is never taken for more than one word.
        timeout: Seconds after which it is ended.

    Raises:
        ValueError: If there is no such program, or a name in braces is not known.

    Example:
        >>> Command("echo {path} {score}").words({"path": "a b.png", "score": 0.7})
        ['echo', 'a b.png', '0.7']
    """

    template: str
    timeout: float = TIMEOUT
    name = "command"

    def __post_init__(self) -> None:
        try:
            words = shlex.split(self.template)
            names = {name for word in words for _, name, _, _ in Formatter().parse(word) if name is not None}
        except ValueError as error:
            msg = f"Expected --command to be a command, but got {self.template!r}: {error}. Write {{{{ for a brace."
            raise ValueError(msg) from error
        unknown = sorted(names - {*_FIELDS})
        if unknown:
            known = ", ".join(f"{{{name}}}" for name in _FIELDS)
            msg = f"Expected --command to name {known}, but got {{{unknown[0]}}}. Write {{{{ for a brace."
            raise ValueError(msg)
        if not words or shutil.which(words[0]) is None:
            msg = (
                f"Expected --command to begin with a program, but found none for {self.template!r}. It is run without "
                "a shell: give the program's path, and make it executable."
            )
            raise ValueError(msg)

    def words(self, values: Mapping[str, Any]) -> list[str]:
        """The command for an image."""
        return [word.format(**{name: values.get(name) for name in _FIELDS}) for word in shlex.split(self.template)]

    def send(self, values: Mapping[str, Any]) -> None:
        """See :class:`Target`."""
        with tempfile.TemporaryFile() as errors:  # a pipe would be waited for as long as a grandchild holds it
            try:
                done = subprocess.run(
                    self.words(values),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    timeout=self.timeout,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                msg = f"the command took more than {self.timeout:g} seconds and was ended"
                raise OSError(msg) from error
            if done.returncode:
                errors.seek(0)
                said = errors.read().decode("utf-8", "replace").strip().splitlines()
                msg = f"the command ended with {done.returncode}" + (f": {said[-1]}" if said else "")
                raise OSError(msg)


@dataclass(frozen=True)
class Post:
    """Sends what the tables say of an image to a server, as JSON, by POST.

    Args:
        url: Address, http or https.
        timeout: Seconds after which the server is given up.
        pause: Seconds before the second and last try.

    Raises:
        ValueError: If it is no such address.
    """

    url: str
    timeout: float = TIMEOUT
    pause: float = 1.0
    name = "post"

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            msg = f"Expected --post to be an address such as http://localhost:8000/alarm, but got {self.url!r}."
            raise ValueError(msg)

    def send(self, values: Mapping[str, Any]) -> None:
        """See :class:`Target`."""
        body = json.dumps(values).encode()  # ASCII: whatever a file's name holds
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"}, method="POST")
        try:
            self._open(request)
        except OSError:
            threading.Event().wait(self.pause)
            self._open(request)

    def _open(self, request: urllib.request.Request) -> None:
        with urllib.request.urlopen(request, timeout=self.timeout) as answer:
            answer.read()


class Outbox:
    """Tells targets of images, one after another in a thread, and keeps who was told: scoring never waits for them.

    An image is done before anyone is told of it. So who is killed in between finds it due when started again; who is
    killed after a target was told, and before that is written, tells it a second time. What failed is logged, and tried
    again at the next start.

    Args:
        folder: Folder of the output.
        targets: Who is told.

    Raises:
        OSError: If the file of those told cannot be read or written.
        ValueError: If it is damaged.
    """

    def __init__(self, folder: Path, targets: Sequence[Target] = ()) -> None:
        self.targets = {target.name: target for target in targets}
        self.failure: OSError | None = None
        """Why it cannot be written any more who was told."""
        self._lines = Lines(folder / SENT_FILE)
        self._told = {(line["position"], line["target"]) for line in self._lines if line["error"] is None}
        self._queue: SimpleQueue[tuple[Entry, Target] | None] = SimpleQueue()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def due(self, entries: Iterable[Entry]) -> set[int]:
        """Positions of the images of which someone is still to be told."""
        return {entry.row.position for entry in entries if self._untold(entry)}

    def put(self, entries: Iterable[Entry]) -> None:
        """Tell those of the images that are due, who was not told yet."""
        for entry in entries:
            for name in self._untold(entry):
                self._queue.put((entry, self.targets[name]))

    def close(self, patience: float | None = None) -> None:
        """Wait until all are told, or for some seconds; what is left is due at the next start."""
        self._queue.put(None)
        self._thread.join(patience)
        if self._thread.is_alive():
            self._hurry.set()
            logger.warning("Stopped before all were told. The next start tells the rest, if it has the same targets.")

    def _untold(self, entry: Entry) -> list[str]:
        return [name for name in entry.notify if name in self.targets and (entry.row.position, name) not in self._told]

    def _run(self) -> None:
        while (job := self._queue.get()) is not None and not self._hurry.is_set():
            entry, target = job
            values = {"position": entry.row.position, **entry.to_json()}
            error = None
            try:
                target.send(values)
            except (OSError, ValueError) as failure:
                error = str(failure)
                logger.warning(
                    "Telling %s of %s failed: %s. The next start tries again.",
                    target.name,
                    printable(entry.row.path),
                    error,
                )
            at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
            try:
                self._lines.append(
                    [{"position": entry.row.position, "target": target.name, "error": error, "sent_at": at}]
                )
            except OSError as failure:
                self.failure = failure
                return
