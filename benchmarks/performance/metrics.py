# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""All seven metrics of a category from one sort, against the host's slowest single one."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import torch
from anomalib.data import ImageBatch

from anomalib_clipad.metrics.evaluator import CategoryEvaluator, default_metrics
from benchmarks.performance.setting import Setting
from benchmarks.performance.table import Row


def measure(setting: Setting) -> list[Row]:
    """Time the metrics of 100 images of 240x240 pixels, half of them with a defect of 1 % of the pixels."""
    n, side = (10, 48) if setting.smoke else (100, 240)
    batch = make_batch(n, side)
    single = {}
    for metric in default_metrics():
        start = time.perf_counter()
        metric.update(batch)
        metric.compute()
        single[metric.name] = time.perf_counter() - start
    start = time.perf_counter()
    evaluate(CategoryEvaluator(), batch)
    ours = time.perf_counter() - start
    slowest = max(single, key=single.__getitem__)
    together = sum(single.values())
    note = f"ours {ours:.2f} s; the host's {slowest} {single[slowest]:.2f} s, its seven together {together:.2f} s"
    return [
        Row("seven metrics of a category − the slowest single one", ours - single[slowest], 1, unit=" s", note=note),
        Row("the host's seven metrics ÷ ours", together / ours, better="large"),
    ]


def make_batch(n: int, side: int) -> ImageBatch:
    """Scores and ground truth of n images."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(n, side, side, dtype=torch.bool)
    masks[::2, side // 4 : side // 4 + side // 10, side // 3 : side // 3 + side // 10] = True
    return ImageBatch(
        image=torch.zeros(n, 3, 1, 1),
        image_path=[f"{index}.png" for index in range(n)],
        gt_label=masks.flatten(1).any(dim=1).long(),
        gt_mask=masks,
        pred_score=torch.rand(n, generator=generator),
        anomaly_map=(0.5 * torch.rand(n, side, side, generator=generator) + 0.3 * masks),
    )


def evaluate(evaluator: CategoryEvaluator, batch: ImageBatch) -> None:
    """Drive an evaluator through a test of one batch."""
    evaluator.log = lambda *_, **__: None
    with TemporaryDirectory() as folder:
        trainer = SimpleNamespace(
            datamodule=None, test_dataloaders=None, is_global_zero=True, default_root_dir=Path(folder), barebones=False
        )
        evaluator.on_test_epoch_start(trainer, None)
        evaluator.on_test_batch_end(trainer, None, None, batch, 0)
        evaluator.on_test_epoch_end(trainer, None)
