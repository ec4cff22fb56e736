# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What importing the package costs beyond importing the host's models, in fresh processes."""

import json
import statistics

from benchmarks.performance.setting import Setting
from benchmarks.performance.table import Row
from benchmarks.performance.timing import run_module

_MODULE = "benchmarks.performance.import_times"


def measure(setting: Setting) -> list[Row]:
    """Import the host's models, then the package, and take the second time."""
    runs = [json.loads(run_module(_MODULE)) for _ in range(1 if setting.smoke else 5)]
    extra = statistics.median(run["package"] for run in runs)
    host = statistics.median(run["host"] for run in runs)
    note = f"beyond anomalib.models, whose own import takes {host:.1f} s"
    return [Row("import anomalib_clipad", extra, 0.5, unit=" s", note=note)]
