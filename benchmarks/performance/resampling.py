# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Upsampling and blur of maps: with matrices that are kept, against those built anew in each pass."""

import torch

from anomalib_clipad.scoring.anomaly_map import kept_matrix, sdp_map
from benchmarks.performance.setting import Setting
from benchmarks.performance.table import Row
from benchmarks.performance.timing import alternate, ratio

PATCH = 14


@torch.inference_mode()
def measure(setting: Setting) -> list[Row]:
    """Time the maps of SDP and SDP+ at two sizes of the input."""
    rows = []
    for side in (56, 112) if setting.smoke else (518, 1024):
        grid = (side // PATCH, side // PATCH)
        generator = torch.Generator().manual_seed(0)
        scores = [torch.rand(setting.batch_size, grid[0] * grid[1], generator=generator) for _ in range(4)]
        for name, logits, limit in (("SDP", [], 0.25), ("SDP+", scores, None)):

            def kept(scores=scores, grid=grid, side=side, logits=logits):
                return sdp_map(scores, grid, (side, side), side / 30, logits)

            def anew(kept=kept):
                kept_matrix.cache_clear()
                return kept()

            # The round that does not count leaves matrices to be kept behind, and so does every round of the other.
            seconds = alternate({"anew": anew, "kept": kept}, setting.rounds)
            times = [1000 * sorted(seconds[way])[len(seconds[way]) // 2] for way in ("kept", "anew")]
            measure = f"upsampling and blur at {side} px (batch {setting.batch_size}), {name}: kept ÷ built anew"
            note = "matrices; {:.1f} and {:.1f} ms".format(*times)
            rows.append(Row(measure, ratio(seconds["kept"], seconds["anew"]), limit, note=note))
    return rows
