# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Training of SDP+ with cached tokens: what later epochs cost beside the first, which runs the tower."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from anomalib.engine import Engine
from lightning.pytorch import Callback

from anomalib_clipad import SDPPlus, SyntheticDefects
from benchmarks.performance.setting import Setting
from benchmarks.performance.table import Row


class EpochClock(Callback):
    """Notes when the fit starts, before the images are read and their tokens cached, and when each epoch ends."""

    def __init__(self) -> None:
        self.started = 0.0
        self.times: list[float] = []

    def on_fit_start(self, *_: object) -> None:
        """Start the clock; callbacks of the user come before those of the model."""
        self.started = time.perf_counter()

    def on_train_epoch_end(self, *_: object) -> None:
        """Note the end of an epoch."""
        self.times.append(time.perf_counter())


def measure(setting: Setting) -> list[Row]:
    """Train five epochs on 96 images in fp32 and compare epochs."""
    with TemporaryDirectory() as folder:
        return _train(setting, Path(folder))


def _train(setting: Setting, folder: Path) -> list[Row]:
    per_category = 2 if setting.smoke else 36
    recipe = {"root": folder / "data", "num_workers": 0, "image_size": 240, "n_train": 1, "n_test_per_defect": 1}
    auxiliary = SyntheticDefects(categories=["nut", "leather"], defects="training", n_test_good=per_category, **recipe)
    data = SyntheticDefects(categories=["wood"], auxiliary=auxiliary, n_test_good=2, train_batch_size=8, **recipe)
    model = SDPPlus(
        setting.backbone_name, "random", strategy="mean", epochs=5, cache="memory", cache_dir=False, visualizer=False
    )
    clock = EpochClock()
    start = time.perf_counter()
    engine = Engine(
        default_root_dir=folder, logger=False, enable_progress_bar=False, callbacks=[clock], accelerator="cpu"
    )
    engine.train(model, datamodule=data)
    whole = time.perf_counter() - start
    first = clock.times[0] - clock.started
    second = clock.times[1] - clock.times[0]
    later = clock.times[4] - clock.times[0]
    images = len(data.train_data)
    note = f"{images} images; epoch 1 {first:.1f} s, epochs 2–5 together {later:.2f} s"
    return [
        Row("cached-token training: epoch 2 ÷ epoch 1", second / first, 0.03, note=note),
        Row("cached-token training: epochs 2–5 ÷ epoch 1", later / first, 0.10),
        Row(
            "the same ÷ the whole run of one epoch",
            later / (whole - later),
            0.10,
            note=f"with text vectors, validation and test on {len(data.test_data)} images; without the imports",
        ),
    ]
