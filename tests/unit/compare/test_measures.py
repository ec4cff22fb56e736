# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What a job costs."""

import gc
import mmap
import multiprocessing
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from anomalib_clipad.compare.measures import ForwardClock, peak_memory, release_memory


class Sleeper(nn.Module):
    """Takes 20 ms a call."""

    def forward(self, image):
        time.sleep(0.02)
        return image


def test_the_forward_pass_alone_is_timed_without_the_first():
    module, clock = Sleeper(), ForwardClock()
    with clock.on(module):
        for size in (5, 2, 2):
            module(torch.zeros(size, 3))
            time.sleep(0.05)
    assert clock.images == 4
    assert 0.04 <= clock.seconds < 0.09
    assert clock.images_per_s == pytest.approx(4 / clock.seconds)
    module(torch.zeros(1, 3))
    assert clock.images == 4, "a hook was left behind"


def test_one_call_tells_nothing():
    module, clock = Sleeper(), ForwardClock()
    with clock.on(module):
        module(torch.zeros(1, 3))
    assert clock.images_per_s is None


def test_peak_memory_is_that_within_the_block():
    with peak_memory(on_gpu=False) as before:
        pass
    # Mapped: not of what the process has freed and kept.
    with peak_memory(on_gpu=False) as peak, mmap.mmap(-1, 400 * 2**20) as block:
        block.write(b"1" * len(block))
        time.sleep(0.2)
    assert peak[0] - before[0] > 300  # what is shared with other processes comes and goes with them


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")
def test_what_a_worker_shares_counts_once():
    block = np.ones(200 * 2**20, dtype=np.uint8)
    with peak_memory(on_gpu=False) as alone:
        pass
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.5,))
    with peak_memory(on_gpu=False) as both:
        worker.start()
        worker.join()
    assert both[0] - alone[0] < 100
    assert block.sum() > 0


def test_earlier_jobs_do_not_count():
    class Ring:
        def __init__(self):
            self.block, self.ring = np.ones(200 * 2**20, dtype=np.uint8), self

    Ring()
    gc_was_on = gc.isenabled()
    gc.disable()
    try:
        Ring()
        release_memory()
        with peak_memory(on_gpu=False) as after:
            pass
        Ring()
        with peak_memory(on_gpu=False) as left:
            pass
    finally:
        gc.enable() if gc_was_on else None
        gc.collect()
    assert left[0] - after[0] > 150
