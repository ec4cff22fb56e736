# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""bf16 and torch.compile: speed, and what they change in maps and AUROC."""

import time

import torch

from benchmarks.performance.setting import Setting
from benchmarks.performance.table import Row
from benchmarks.performance.timing import alternate, ratio


@torch.inference_mode()
def measure(setting: Setting) -> list[Row]:
    """Time SDP in fp32, under bf16 autocast and compiled."""
    image, eager = setting.images(), setting.sdp()
    compiled = setting.sdp()
    compiled.compile()

    def half() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return eager(image).anomaly_map

    start = time.perf_counter()
    differences = {"bf16": half(), "compiled": compiled(image).anomaly_map}
    compilation = time.perf_counter() - start
    exact = eager(image).anomaly_map
    seconds = alternate(
        {"eager": lambda: eager(image), "bf16": half, "compiled": lambda: compiled(image)}, setting.rounds
    )
    rows = []
    for name, how in (("bf16", "bf16 autocast"), ("compiled", "torch.compile")):
        difference = (differences[name] - exact).abs().max().item()
        note = f"largest difference of a map in [0, 1]: {difference:.1e}"
        if name == "compiled":
            note += f"; compilation {compilation:.0f} s"
        rows.append(Row(f"eager fp32 ÷ {how}", ratio(seconds["eager"], seconds[name]), better="large", note=note))
    return rows
