# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Peak memory of one forward pass, each in a process of its own: ``python -m benchmarks.performance.memory SDP``."""

import resource
import sys

import torch

from benchmarks.performance.setting import Setting
from benchmarks.performance.table import Row
from benchmarks.performance.timing import run_module

_MODULE = "benchmarks.performance.memory"


def measure(setting: Setting) -> list[Row]:
    """Compare the peaks of fresh processes that run the bare tower, SDP and SDP+ on one batch."""
    size = "smoke" if setting.smoke else "full"
    peaks = {name: float(run_module(_MODULE, name, size)) for name in ("tower", "SDP", "SDP+")}
    note = f"whole process: tower {peaks['tower']:.0f} MB, SDP {peaks['SDP']:.0f} MB, SDP+ {peaks['SDP+']:.0f} MB"
    return [
        Row("peak memory of SDP ÷ that of the tower", peaks["SDP"] / peaks["tower"], 1.2, note=note),
        Row("peak memory of SDP+ ÷ that of the tower", peaks["SDP+"] / peaks["tower"], 1.2),
    ]


@torch.inference_mode()
def peak(name: str, setting: Setting) -> float:
    """Peak resident memory of this process in MB after a forward pass."""
    models = {"tower": lambda: setting.backbone.model.encode_image, "SDP": setting.sdp, "SDP+": setting.sdp_plus}
    models[name]()(setting.images())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    print(peak(sys.argv[1], Setting.for_smoke() if sys.argv[2] == "smoke" else Setting()))
