# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Training of SDP+ with cached tokens: what later epochs cost beside the first, which runs the tower."""

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from anomalib.engine import Engine
from lightning.pytorch import Callback

from anomalib_clipad import SDPPlus, SyntheticDefects
from benchmarks.performance.setting import Setting
from benchmarks.performance.table import Row
from benchmarks.performance.timing import ratio, time_anomalib

AUXILIARY = ["nut", "leather"]
RECIPE = {"image_size": 240, "n_train": 1, "n_test_per_defect": 1}
# 77 target images for 96 auxiliary ones, as in the paper's protocol: 1,725 of MVTec AD for 2,162 of VisA.
TARGET_GOOD = 63


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
    """Train five epochs in fp32 and compare them; then whole commands, of five epochs and of one."""
    per_category = 2 if setting.smoke else 36
    with TemporaryDirectory() as name:
        folder = Path(name)
        return [*_epochs(setting, folder, per_category), _commands(setting, folder, per_category)]


def _epochs(setting: Setting, folder: Path, per_category: int) -> list[Row]:
    recipe = {"root": folder / "data", "num_workers": 0, **RECIPE}
    auxiliary = SyntheticDefects(categories=AUXILIARY, defects="training", n_test_good=per_category, **recipe)
    target = {**recipe, "root": folder / "target", "n_test_good": 2}
    data = SyntheticDefects(categories=["wood"], auxiliary=auxiliary, train_batch_size=8, **target)
    model = SDPPlus(
        setting.backbone_name,
        "random",
        strategy="mean",
        epochs=5,
        token_cache="memory",
        text_cache_dir=False,
        visualizer=False,
    )
    clock = EpochClock()
    engine = Engine(
        default_root_dir=folder, logger=False, enable_progress_bar=False, callbacks=[clock], accelerator="cpu"
    )
    engine.train(model, datamodule=data)
    first = clock.times[0] - clock.started
    second = clock.times[1] - clock.times[0]
    later = clock.times[4] - clock.times[0]
    note = f"{len(data.train_data)} images; epoch 1 {first:.1f} s, epochs 2–5 together {later:.2f} s"
    return [
        Row("cached-token training: epoch 2 ÷ epoch 1", second / first, 0.03, note=note),
        Row("cached-token training: epochs 2–5 ÷ epoch 1", later / first, 0.10),
    ]


def _commands(setting: Setting, folder: Path, per_category: int) -> Row:
    """What four more epochs add to a command that trains one, calibrates and tests."""
    auxiliary = {"root": "data", **RECIPE, "n_test_good": per_category, "categories": AUXILIARY, "defects": "training"}
    options = {
        "model": "anomalib_clipad.SDPPlus",
        "model.backbone": setting.backbone_name,
        "model.pretrained": "random",
        "model.strategy": "mean",
        "model.token_cache": "memory",
        "model.text_cache_dir": "false",
        "model.visualizer": "false",
        "data": "anomalib_clipad.SyntheticDefects",
        "data.root": "command_target",
        "data.categories": "[wood]",
        **{f"data.{key}": str(value) for key, value in RECIPE.items()},
        "data.n_test_good": "2" if setting.smoke else str(TARGET_GOOD),
        "data.num_workers": "0",
        "data.auxiliary": json.dumps({"class_path": "anomalib_clipad.SyntheticDefects", "init_args": auxiliary}),
        "trainer.accelerator": "cpu",
    }
    arguments = [part for key, value in options.items() for part in (f"--{key}", value)]
    times: dict[str, list[float]] = {"1": [], "5": []}
    if not setting.smoke:  # the first command draws images, and reads files that no cache holds yet
        time_anomalib(folder, "train", *arguments, "--trainer.fast_dev_run", "true")
    for _ in range(1 if setting.smoke else 3):
        for epochs, seconds in times.items():
            seconds.append(time_anomalib(folder, "train", *arguments, "--model.epochs", epochs))
    pairs = ", ".join(f"{one:.0f} and {five:.0f} s" for one, five in zip(*times.values(), strict=True))
    note = f"{pairs}; 96 auxiliary and {TARGET_GOOD + 14} target images, imports, validation and test included"
    value = ratio(times["5"], times["1"]) - 1
    return Row("`anomalib train`: (five epochs − one) ÷ one, whole command", value, 0.10, note=note)
