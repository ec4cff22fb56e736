# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What comparing with other images costs: ``python -m benchmarks.performance.evidence 200`` for a pool alone."""

import json
import statistics
import sys
import time
from pathlib import Path

import psutil
import torch
from torch import Tensor

from anomalib_clipad.compare.measures import peak_memory, release_memory
from anomalib_clipad.scoring.pool import Pool, PoolTokens
from benchmarks.performance.setting import Setting
from benchmarks.performance.table import Row
from benchmarks.performance.timing import alternate, ratio, run_module

_MODULE = "benchmarks.performance.evidence"


@torch.inference_mode()
def measure(setting: Setting) -> list[Row]:
    """Time SDP with and without references, and pools of two sizes against the tower's pass over their images."""
    clip, image = setting.backbone, setting.images()
    plain, remembering = setting.sdp(), setting.sdp()
    remembering.memory.add(0, remembering.tapped_patches(setting.images(4)).layers)
    seconds = alternate(
        {
            "tower": lambda: clip.model.encode_image(image),
            "SDP": lambda: plain(image),
            "references": lambda: remembering(image),
        },
        rounds=setting.rounds,
    )
    tower = statistics.median(seconds["tower"]) / setting.batch_size
    small, large = (8, 16) if setting.smoke else (100, 200)
    size = "smoke" if setting.smoke else "full"
    pools = {count: json.loads(run_module(_MODULE, str(count), size)) for count in (small, large)}
    (few, few_mib), (many, many_mib) = pools[small], pools[large]
    note = f"{many:.1f} s; the tower's passes over them come on top, two instead of one"
    return [
        Row("SDP with 4 references ÷ SDP", ratio(seconds["references"], seconds["SDP"]), 1.10),
        Row(f"mutual scoring of {large} images ÷ the tower's pass over them", many / (large * tower), note=note),
        Row(f"time of mutual scoring, {large} ÷ {small} images", many / few, note="quadratic: 4"),
        Row(
            f"peak memory of mutual scoring, {large} ÷ {small} images",
            many_mib / few_mib,
            2.0,
            note=f"{few_mib:.0f} and {many_mib:.0f} MiB, tokens included",
        ),
    ]


@torch.inference_mode()
def measure_pool(n_images: int, setting: Setting) -> tuple[float, float]:
    """Seconds, and MiB at the peak beyond the process itself, that a pool takes from its tokens on."""
    rows, columns = setting.backbone.tower.grid_size
    width, generator = setting.backbone.width, torch.Generator().manual_seed(0)

    def tokens() -> list[Tensor]:
        return [torch.randn(4, rows * columns, width, generator=generator) for _ in range(4)]

    tokens()
    release_memory()
    before = psutil.Process().memory_info().rss / 2**20
    with peak_memory(on_gpu=False) as peak:
        pool = PoolTokens(Pool(maximum=n_images), n_images, Path())
        for _ in range(n_images // 4):
            pool.add(tokens(), (rows, columns), torch.randn(4, 8), torch.zeros(4, dtype=torch.long))
        start = time.perf_counter()
        pool.scores(["class"])
        seconds = time.perf_counter() - start
    return seconds, peak[0] - before


if __name__ == "__main__":
    chosen = Setting.for_smoke() if sys.argv[2] == "smoke" else Setting()
    print(json.dumps(measure_pool(int(sys.argv[1]), chosen)))
