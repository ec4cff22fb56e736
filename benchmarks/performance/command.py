# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The whole command ``anomalib test`` against the model alone on as many images."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from anomalib_clipad import SyntheticDefects
from benchmarks.performance.setting import Setting, model_options
from benchmarks.performance.table import Row
from benchmarks.performance.timing import alternate, time_anomalib


@torch.inference_mode()
def measure(setting: Setting) -> list[Row]:
    """Test 200 drawn images: the images run through the model twice, to calibrate and to test."""
    good = 6 if setting.smoke else 186
    with TemporaryDirectory() as name:
        folder = Path(name)
        recipe = {"n_train": 1, "n_test_good": good, "n_test_per_defect": 1}
        SyntheticDefects(folder / "data", categories=["wood"], **recipe).prepare_data()
        arguments = [
            *("test", *model_options(setting, folder)),
            *("--data", "anomalib_clipad.SyntheticDefects", "--data.root", str(folder / "data")),
            *("--data.categories", "[wood]", "--data.eval_batch_size", str(setting.batch_size)),
            *(part for key, value in recipe.items() for part in (f"--data.{key}", str(value))),
            *("--data.num_workers", "2", "--default_root_dir", str(folder / "results")),
        ]
        seconds = {}
        for pictures in (False,) if setting.smoke else (True, False):
            flags = [] if pictures else ["--model.visualizer", "false"]
            seconds[pictures] = time_anomalib(folder, *arguments, *flags)
        share = str(1.5 * setting.batch_size / (good + 14))  # one batch; the command line takes "1" for all of them
        one_batch = ("--trainer.limit_val_batches", share, "--trainer.limit_test_batches", share)
        start_up = time_anomalib(folder, *arguments, *one_batch, "--model.visualizer", "false")
    images = good + 14
    image, sdp = setting.images(), setting.sdp()
    alone = setting.batch_size / min(alternate({"": lambda: sdp(image)}, 3)[""])
    rows = []
    for pictures, taken in sorted(seconds.items()):
        label = "with pictures" if pictures else "without pictures"
        rate = 2 * images / taken
        note = f"{images} images, calibrated and tested: {taken:.0f} s, imports included"
        rows.append(Row(f"`anomalib test` {label} ÷ model alone, images/s", rate / alone, 0.8, "large", note=note))
    further = 2 * (images - setting.batch_size) / max(seconds[False] - start_up, 0.1)
    note = f"a command with one batch takes {start_up:.0f} s, most of them the host's imports"
    rows.append(Row("the same without pictures and start-up", further / alone, 0.8, "large", note=note))
    return rows
