# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Files that appear complete or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a draft to write; it takes the place of ``path`` when the block ends, and is removed after an error.

    A reader, and a run that is killed at any moment, finds the previous file or the new one. Several processes may
    write one file at the same time. Folders are created.

    Args:
        path: File to write; what is there is replaced.

    Raises:
        OSError: If the file cannot be written.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> with atomic_write(folder / "table.csv") as draft:
        ...     _ = draft.write_text("a,b")
        >>> [file.name for file in folder.iterdir()]
        ['table.csv']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, since a rename is atomic only within one file system.
    draft = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
    try:
        yield draft
        with draft.open("r+b") as file:
            os.fsync(file.fileno())  # else a power cut may leave the new name with no content
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
