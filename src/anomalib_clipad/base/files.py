# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Files that appear complete or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a draft to write; it takes the place of ``path`` when the block ends, and is removed after an error.

    A reader, and a run that is killed at any moment, finds the previous file or the new one. Several processes may
    write one file at the same time. Folders are created. The draft has the file's name, in a folder of its own: what is
    written beside it, as the weights of a graph, moves along.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> with atomic_write(folder / "table.csv") as draft:
        ...     _ = draft.write_text("a,b")
        >>> [file.name for file in folder.iterdir()]
        ['table.csv']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Inside the folder, since a rename is atomic only within one file system.
    with TemporaryDirectory(dir=path.parent, prefix=".draft-") as folder:
        draft = Path(folder) / path.name
        yield draft
        beside = [file for file in Path(folder).iterdir() if file != draft]
        for file in (*beside, draft):
            with file.open("r+b") as written:
                os.fsync(written.fileno())  # else a power cut may leave the new name with no content
            file.replace(path.with_name(file.name))
