# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Room for the tokens of many images, in memory or on disk."""

import logging
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

logger = logging.getLogger(__name__)

CachePlace = Literal["memory", "disk"]

_SPARE = 0.1
"""Share of the free memory or disk that is left alone."""


def allocate(shape: tuple[int, ...], place: CachePlace, folder: Path, option: str, processes: int = 1) -> Tensor:
    """Make room for float16 tokens, the first axis that of images, after saying how much it takes.

    On disk they take the file system of ``folder``, in a file that has no name where the system allows that: it is gone
    with the last process that uses it, even one that is killed. Each of ``processes`` of a machine keeps all of them.
    ``option`` is what the user chose the place by.

    Raises:
        RuntimeError: If that much is not free.
    """
    size, free = 2 * math.prod(shape), _free_bytes(place, folder)
    each = "" if processes == 1 else f" in each of {processes} processes"
    logger.info("Caching the tokens of %d images takes %.2f GB of %s%s.", shape[0], size / 1e9, place, each)
    if free is not None and size * processes > (1 - _SPARE) * free:
        other = "disk" if place == "memory" else "memory"
        msg = (
            f"Expected the cached tokens to fit into {place}, but got {size / 1e9:.2f} GB of tokens{each} for "
            f"{free / 1e9:.2f} GB that are free. Choose {option}={other!r} or None, or fewer images."
        )
        raise RuntimeError(msg)
    if place == "memory":
        return torch.empty(shape, dtype=torch.float16).share_memory_()  # for the workers of the dataloader
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:  # the mapping outlives it
        return torch.from_numpy(np.memmap(file, dtype=np.float16, mode="w+", shape=shape))


def _free_bytes(place: CachePlace, folder: Path) -> int | None:
    """Free memory or disk, None where the system does not tell."""
    if place == "disk":
        existing: Any = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        return shutil.disk_usage(existing).free
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _reclaimable()
    except (ValueError, OSError):
        return None


def _reclaimable() -> int:
    """Bytes that Linux holds as file cache and gives back when asked."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if len(line.split()) > 1}
    return max(0, values.get("MemAvailable", 0) - values.get("MemFree", 0))
