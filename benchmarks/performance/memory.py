# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Peak memory of one forward pass, each in a process of its own: ``python -m benchmarks.performance.memory SDP``."""

import json
import sys

import psutil
import torch

from anomalib_clipad.compare.measures import peak_memory, release_memory
from benchmarks.performance.setting import Setting
from benchmarks.performance.table import Row
from benchmarks.performance.timing import run_module

_MODULE = "benchmarks.performance.memory"


def measure(setting: Setting) -> list[Row]:
    """Compare the peaks of fresh processes that run the bare tower, SDP and SDP+ on one batch."""
    size = "smoke" if setting.smoke else "full"
    peaks = {name: json.loads(run_module(_MODULE, name, size)) for name in ("tower", "SDP", "SDP+")}
    note = ", ".join(
        f"{name} {peak:.0f} MiB, {peak - before:.0f} of them in the pass" for name, (before, peak) in peaks.items()
    )
    tower = peaks["tower"][1]
    return [
        Row("peak memory of SDP ÷ that of the tower", peaks["SDP"][1] / tower, 1.2, note=f"whole process: {note}"),
        Row("peak memory of SDP+ ÷ that of the tower", peaks["SDP+"][1] / tower, 1.2),
    ]


@torch.inference_mode()
def measure_pass(name: str, setting: Setting) -> tuple[float, float]:
    """Resident memory of this process in MiB before forward passes, and its peak in them."""
    models = {"tower": lambda: setting.backbone.model.encode_image, "SDP": setting.sdp, "SDP+": setting.sdp_plus}
    model, image = models[name](), setting.images()
    release_memory()  # what making the model has taken
    before = psutil.Process().memory_info().rss / 2**20
    with peak_memory(on_gpu=False) as peak:
        for _ in range(3):  # it is looked at now and then only
            model(image)
    return before, peak[0]


if __name__ == "__main__":
    print(json.dumps(measure_pass(sys.argv[1], Setting.for_smoke() if sys.argv[2] == "smoke" else Setting())))
