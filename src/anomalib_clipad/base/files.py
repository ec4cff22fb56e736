# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Files that appear complete or not at all."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TOO_LITTLE_BYTES = 2**14
"""Where so much is free, other errors than the system's are not for want of room."""


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a draft to write; it takes the place of ``path`` when the block ends, and is removed after an error.

    A reader, and a run that is killed at any moment, finds the previous file or the new one. Several processes may
    write one file at the same time. Folders are created. The draft has the file's name, in a folder of its own: what is
    written beside it, as the weights of a graph, moves along.

    Raises:
        OSError: If there is no room for it, in words, whatever the error of the library that writes.

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
        try:
            yield draft
            beside = [file for file in Path(folder).iterdir() if file != draft]
            for file in (*beside, draft):
                with file.open("r+b") as written:
                    os.fsync(written.fileno())  # else a power cut may leave the new name with no content
                file.replace(path.with_name(file.name))
        except Exception as error:
            number = error.errno if isinstance(error, OSError) else None
            if number not in _NO_ROOM:
                if shutil.disk_usage(folder).free > _TOO_LITTLE_BYTES:
                    raise
                number = errno.ENOSPC
            msg = (
                f"Expected room to write {path}, but got: {os.strerror(number)}. What was written before is kept: make "
                "room, and run the same again."
            )
            raise OSError(number, msg) from error
