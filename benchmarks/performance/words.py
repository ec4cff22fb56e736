# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What changed words cost on an image that was seen before, against seeing and scoring it the first time."""

import statistics
import time
from collections.abc import Sequence

from anomalib_clipad import SDP
from benchmarks.performance.setting import Setting
from benchmarks.performance.table import Row

_STATES = ("torn {}", "bent {}", "rusty {}", "{} with a burr", "wet {}")
_NAMES = ("gasket", "washer", "screw", "bottle", "cable")


def measure(setting: Setting) -> list[Row]:
    """Time ``encode`` and ``predict`` together, then ``predict`` alone under the same and under other words."""
    rounds = 1 if setting.smoke else 5
    side = setting.backbone.image_size[0]
    image = setting.images(1, side)[0].sigmoid()
    clipad = SDP(setting.backbone_name, "random", text_cache_dir=False, visualizer=False)
    clipad.encode(image).predict("object")  # imports, matrices and memory are there from now on
    start = time.perf_counter()
    encoded = clipad.encode(image)
    seeing = time.perf_counter() - start
    encoded.predict("nut")
    first = time.perf_counter() - start
    anomalous = clipad.collaborators.text_engine.prompts.anomalous_states

    def seconds(words: Sequence[tuple[str, tuple[str, ...]]]) -> float:
        taken = []
        for name, states in words:
            begin = time.perf_counter()
            encoded.predict(name, anomalous_states=states)
            taken.append(time.perf_counter() - begin)
        return statistics.median(taken)

    again = seconds([("nut", anomalous)] * rounds)
    switched = seconds([("object", anomalous), ("nut", anomalous)] * rounds)
    one_state = seconds([("nut", (state, *anomalous[1:])) for state in _STATES[:rounds]])
    new_name = seconds([(name, anomalous) for name in _NAMES[:rounds]])
    note = f"{first:.2f} s the first time, {seeing:.2f} of them the tower, the rest its 418 prompts; no disk cache"
    return [
        Row("an image seen before, same words ÷ the first time", again / first, 0.05, note=note),
        Row("the same, words known from before", switched / first, 0.05, note=f"{1000 * switched:.0f} ms"),
        Row("the same, one anomalous state of ten new", one_state / first, 0.05, note="22 of 418 prompts are new"),
        Row("the same, another class name", new_name / first, note="all 418 prompts are new"),
    ]
