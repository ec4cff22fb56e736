# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What a job costs: time of the model alone, and the largest memory."""

import contextlib
import ctypes
import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import torch
from torch import nn

_INTERVAL_S = 0.05
_MIB = 2**20


class ForwardClock:
    """Seconds that a module spends in its forward pass; the first call, a warm-up, does not count.

    Attributes:
        seconds: Time of all counted calls.
        images: Images of all counted calls.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.images = 0
        self._start = 0.0
        self._calls = 0

    @contextlib.contextmanager
    def on(self, module: nn.Module) -> Iterator[None]:
        """Watch a module whose first argument is a batch (B, ...); no hook is left behind."""
        handles = [module.register_forward_pre_hook(self._before), module.register_forward_hook(self._after)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @property
    def images_per_s(self) -> float | None:
        """Images a second, None where nothing was counted."""
        return self.images / self.seconds if self.seconds else None

    def _before(self, _module: nn.Module, _arguments: Any) -> None:
        _synchronise()
        self._start = time.perf_counter()

    def _after(self, _module: nn.Module, arguments: Any, _output: Any) -> None:
        _synchronise()
        self._calls += 1
        if self._calls > 1:
            self.seconds += time.perf_counter() - self._start
            self.images += len(arguments[0])


def release_memory() -> None:
    """Give back what earlier jobs have left behind, so that the next one's peak is its own.

    Models and trainers refer to each other, so that they wait for the garbage collector, and glibc keeps freed memory.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # there is no glibc everywhere
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def peak_memory(*, on_gpu: bool) -> Iterator[list[float]]:
    """Measure the largest memory in use while the block runs.

    Args:
        on_gpu: Measure the memory that torch allocates on the GPU. Otherwise that of the processes is looked at every
            50 ms: resident memory of this one, and what its children, such as dataloader workers, do not share.

    Yields:
        A list that holds the peak in MiB once the block is left.
    """
    peak = [0.0]
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        try:
            yield peak
        finally:
            peak[0] = torch.cuda.max_memory_allocated() / _MIB
        return
    stop = threading.Event()

    def watch() -> None:
        process = psutil.Process()
        while True:
            peak[0] = max(peak[0], _resident(process) / _MIB)
            if stop.wait(_INTERVAL_S):
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def _resident(process: psutil.Process) -> int:
    total = process.memory_info().rss
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # a worker that has just ended
            total += child.memory_full_info().uss  # a forked one shares most of its resident memory with this process
    return total


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
