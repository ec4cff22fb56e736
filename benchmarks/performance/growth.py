# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""How time and memory grow with batch, input size, classes and images."""

import gc
import statistics
import tempfile
import time

import psutil
import torch
from torch import Tensor

from anomalib_clipad.metrics.evaluator import CategoryEvaluator
from anomalib_clipad.scoring.torch_model import SDPModel
from benchmarks.performance.metrics import make_batch
from benchmarks.performance.setting import Setting
from benchmarks.performance.table import Row
from benchmarks.performance.timing import alternate, ratio


@torch.inference_mode()
def measure(setting: Setting) -> list[Row]:
    """Time per image at each size, relative to the first."""
    rows = []
    sdp = setting.sdp()
    batches = [1, 2] if setting.smoke else [1, 8, 32]
    per_image = [_seconds(sdp, setting.images(batch)) / batch for batch in batches]
    rows.append(_relative(f"time per image at batch {', '.join(map(str, batches))}", per_image, limit=1.1))
    side = setting.backbone.image_size[0]
    sides = [_seconds(sdp, setting.images(1, factor * side)) / factor**2 for factor in (1, 2)]
    rows.append(
        _relative(f"time per pixel at {side} and {2 * side} px", sides, note="attention is quadratic in patches")
    )
    image = setting.images(1)
    classes = [_seconds(setting.sdp(classes=count), image) for count in (1, 100)]
    rows.append(_relative("time per image with 1 and 100 classes", classes, limit=1.1))
    return [*rows, *_images(setting)]


def _seconds(model: SDPModel, image: Tensor) -> float:
    class_index = torch.zeros(len(image), dtype=torch.long)
    return min(alternate({"": lambda: model(image, class_index)}, rounds=2)[""])


def _relative(measure: str, values: list[float], limit: float | None = None, note: str = "") -> Row:
    shares = " : ".join(f"{value / values[0]:.2f}" for value in values)
    return Row(f"{measure}, last ÷ first", values[-1] / values[0], limit, note=f"{shares}. {note}".rstrip(". "))


def _images(setting: Setting) -> list[Row]:
    """Memory and time of the evaluation of 200 and 5,000 images, with the maps kept and with counted pixels."""
    small, large, side = (4, 8, 48) if setting.smoke else (200, 5_000, 120)
    rows = []
    for label, options in (("maps kept", {}), ("pixel_bins=65536", {"pixel_bins": 65_536})):
        seconds: dict[int, list[float]] = {small: [], large: []}
        megabytes = {small: 0.0, large: 0.0}
        for _ in range(2 if setting.smoke else 6):
            for n, taken in seconds.items():
                time_taken, grown = _evaluate(CategoryEvaluator(**options), n, side)
                taken.append(time_taken)
                megabytes[n] = max(megabytes[n], grown)
        few, many = (taken[1:] for taken in seconds.values())  # the first round warms up
        rows.append(
            Row(
                f"evaluation of {small} → {large} images, {label}: memory",
                megabytes[large],
                unit=" MB",
                note=f"{small}: {megabytes[small]:.0f} MB",
            )
        )
        note = f"{large} images of {side} px: {statistics.median(many):.1f} s"
        share = ratio(many, few) / (large / small)
        rows.append(Row(f"time per image of {large} ÷ of {small} images, {label}", share, 1.2, note=note))
    return rows


def _evaluate(evaluator: CategoryEvaluator, n: int, side: int) -> tuple[float, float]:
    """Seconds and growth of the resident memory in MB while batches are collected and evaluated."""
    from types import SimpleNamespace

    evaluator.log = lambda *_, **__: None
    batch = make_batch(min(10, n), side)
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trainer = SimpleNamespace(
            datamodule=None, test_dataloaders=None, is_global_zero=True, default_root_dir=folder, barebones=False
        )
        evaluator.on_test_epoch_start(trainer, None)
        for index in range(n // batch.batch_size):
            batch.anomaly_map = batch.anomaly_map.roll(1, dims=-1)  # maps of their own
            evaluator.on_test_batch_end(trainer, None, None, batch, index)
        peak = process.memory_info().rss
        evaluator.on_test_epoch_end(trainer, None)
    return time.perf_counter() - start, max(0, peak - before) / 2**20
