# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The folder that a run writes: of one process at a time, and of the settings that it was begun with."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from anomalib_clipad.base.files import atomic_write
from anomalib_clipad.prediction.table import JSON_FILE

SETTINGS_FILE, LOCK_FILE = "_settings.json", "_lock"

_SHOWN = 60


def require_same(folder: Path, settings: Mapping[str, str]) -> None:
    """Compare settings with those that an output was begun with.

    Raises:
        ValueError: If they differ, or what is in the folder is of something else.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        if (folder / JSON_FILE).exists():
            msg = (
                f"Expected --output to be empty or of an earlier watch, but {folder} has a {JSON_FILE} of something "
                "else. Choose another output."
            )
            raise ValueError(msg)
        return
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        msg = f"Expected {path} to hold the settings of a watch, but it is damaged. Choose another output."
        raise ValueError(msg) from error
    refuse_others(folder, before, settings)


def refuse_others(folder: Path, before: Mapping[str, str], settings: Mapping[str, str]) -> None:
    """Refuse an output that was begun with other settings: ValueError, which names what differs."""
    differing = [
        f"{name} is {_shown(settings.get(name))}, was {_shown(before.get(name))}"
        for name in sorted({*before, *settings})
        if before.get(name) != settings.get(name)
    ]
    if differing:
        msg = (
            f"Expected --output to be of the same settings, but {folder} was begun with others: {'; '.join(differing)}"
            ". Choose another output, or the earlier settings."
        )
        raise ValueError(msg)


def _shown(value: str | None) -> str:
    return "nothing" if value is None else value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…"


def keep(folder: Path, settings: Mapping[str, str]) -> None:
    """Write the settings of an output, for the next start to compare with."""
    with atomic_write(folder / SETTINGS_FILE) as draft:
        draft.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Keep a folder from other processes; the system lets go of it when this one ends, however it does.

    Raises:
        ModuleNotFoundError: If filelock is not installed.
        RuntimeError: If another process has it.
    """
    try:
        from filelock import FileLock, Timeout
    except ImportError as error:
        msg = (
            "Expected filelock for `anomalib-clipad watch`, but got none. Install it: pip install "
            "'anomalib-clipad[watch]'"
        )
        raise ModuleNotFoundError(msg) from error
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        msg = (
            f"Expected --output to be used by nobody else, but another process writes to {folder}. Choose another one."
        )
        raise RuntimeError(msg) from error
    try:
        yield
    finally:
        lock.release()
