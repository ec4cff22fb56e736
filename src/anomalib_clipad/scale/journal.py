# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What a watch has done: a line an image, on the disk before anything else says so. It is all the state there is."""

import json
import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from anomalib_clipad.prediction.table import JSON_FILE, PredictionRow, as_line, from_json, to_json

logger = logging.getLogger(__name__)

_BLOCK = 2**16

Stamp = tuple[int, int]
"""Bytes of a file, and when it was last modified, in nanoseconds: another stamp is another image."""


@dataclass(frozen=True)
class Entry:
    """An image that is done.

    Attributes:
        row: What the tables say of it; its position is the number of its line, from 0.
        stamp: Of the file as it was scored; ``None`` for a frame.
        seconds: Time of a frame.
        scored_at: When it was scored, UTC.
        notify: Who is to be told of it: names of targets.
    """

    row: PredictionRow
    stamp: Stamp | None = None
    seconds: float | None = None
    scored_at: str = ""
    notify: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Its line: the columns of the tables, and what else is known."""
        size, modified = self.stamp or (None, None)
        return {
            **to_json(self.row),
            "original_size": self.row.original_size,
            "time": self.seconds,
            "bytes": size,
            "modified": modified,
            "scored_at": self.scored_at,
            "notify": self.notify,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], position: int) -> "Entry":
        """Entry of a line."""
        stamp = None if values["bytes"] is None else (values["bytes"], values["modified"])
        row = from_json(values, position)
        return cls(row, stamp, values["time"], values["scored_at"], tuple(values["notify"]))


class Lines:
    """A file of JSON lines to which is appended: a line is there whole, or not at all.

    What a killed process left of a last line is cut off.

    Args:
        path: The file; made if it is not there.

    Raises:
        OSError: If it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            size = file.seek(0, os.SEEK_END)
            whole = _end_of_last_line(file, size)
            if whole < size:
                logger.warning("Cut off the last line of %s, which was not written to its end.", path)
                file.truncate(whole)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Read the lines, one by one.

        Raises:
            ValueError: If one is not JSON.
        """
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield dict(json.loads(line))
                except (TypeError, ValueError) as error:  # noqa: PERF203 - raised at once
                    msg = (
                        f"Expected line {number} of {self.path} to be JSON, but got {line.rstrip()[:40]!r}. Put the "
                        "file back as it was written, remove that line, or choose another output."
                    )
                    raise ValueError(msg) from error

    def append(self, values: Sequence[Mapping[str, Any]]) -> None:
        """Add lines; when this returns they are on the disk.

        Raises:
            OSError: If they cannot be written; then none of them is there.
        """
        content = "".join(map(as_line, values)).encode("utf-8", "backslashreplace")
        with self.path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                written = 0
                while written < len(content):
                    written += file.write(content[written:])
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise


def _end_of_last_line(file: IO[bytes], size: int) -> int:
    """Place after the last line feed."""
    end = size
    while end:
        start = max(0, end - _BLOCK)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


class Journal:
    """The images that are done, in the order in which they were: ``predictions.jsonl``.

    Args:
        folder: Folder of the output.

    Raises:
        OSError: If the file cannot be read or written.
        ValueError: If it was written by something else, or is damaged.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> Journal(folder).append([Entry(PredictionRow("a.png", "nut", 0.2, "normal"), stamp=(10, 20))])
        >>> Journal(folder).stamps
        {'a.png': (10, 20)}
    """

    def __init__(self, folder: Path) -> None:
        self._lines = Lines(folder / JSON_FILE)
        try:
            self.entries = [_without_regions(entry) for entry in self._read()]
            """The images, without their regions, which would take most of the memory."""
        except (KeyError, TypeError) as error:
            msg = (
                f"Expected {self._lines.path} to be written by `anomalib-clipad watch`, but a line has no "
                f"{error.args[0] if isinstance(error, KeyError) else 'valid regions'}. Choose another output."
            )
            raise ValueError(msg) from error
        self._newest = {entry.row.path: entry for entry in self.entries}

    def __len__(self) -> int:
        return len(self.entries)

    def append(self, entries: Sequence[Entry]) -> None:
        """Add images; when this returns they are done for good.

        Raises:
            OSError: If they cannot be written; then none of them is done.
        """
        self._lines.append([entry.to_json() for entry in entries])
        kept = [_without_regions(entry) for entry in entries]
        self.entries += kept
        self._newest |= {entry.row.path: entry for entry in kept}

    def whole(self, positions: Collection[int]) -> list[Entry]:
        """Images at some positions with their regions, read again from the file."""
        return [entry for entry in self._read() if entry.row.position in positions] if positions else []

    def _read(self) -> Iterator[Entry]:
        return (Entry.from_json(values, number) for number, values in enumerate(self._lines))

    @property
    def stamps(self) -> dict[str, Stamp | None]:
        """Stamp of each file when it was last scored."""
        return {path: entry.stamp for path, entry in self._newest.items()}

    def stamp_of(self, path: str) -> Stamp | None:
        """Stamp of a file when it was last scored; ``None`` where it never was."""
        entry = self._newest.get(path)
        return None if entry is None else entry.stamp

    def newest(self) -> list[PredictionRow]:
        """What was last said of each file, in the order in which it was."""
        return sorted((entry.row for entry in self._newest.values()), key=lambda row: row.position)


def _without_regions(entry: Entry) -> Entry:
    return replace(entry, row=replace(entry.row, regions=None))
