# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Seconds that importing the host's models takes, and then this package; for a process of its own."""

import importlib
import json
import time

if __name__ == "__main__":
    start = time.perf_counter()
    importlib.import_module("anomalib.models")
    middle = time.perf_counter()
    importlib.import_module("anomalib_clipad")
    print(json.dumps({"host": middle - start, "package": time.perf_counter() - middle}))
