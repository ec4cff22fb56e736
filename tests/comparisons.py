# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Finished comparisons to write reports of, without running a model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anomalib_clipad.compare.expected import Expectation
from anomalib_clipad.compare.records import (
    Images,
    Measures,
    Provenance,
    Record,
    write_curves,
    write_grid,
    write_images,
    write_record,
)

WIDTH, HEIGHT = 64, 48
N_GOOD = N_BROKEN = 3


def job(model: str = "SDP", category: str = "bottle", seed: int = 0, **changes: Any) -> Record:
    """A finished job; ``changes`` are fields of the record."""
    done = Record(
        job=f"{model}-{category}-{seed}",
        status="done",
        model=model,
        class_path=f"anomalib_clipad.{model}",
        init_args={"sigma": 4},
        dataset="MVTec",
        category=category,
        seed=seed,
        metrics={"image_AUROC": 0.9, "pixel_AUPRO": 0.8},
        measures=Measures(10.0, 2.0, 5.0, 6, 20.0, 10.0, 900.0, 1_500_000, 4_600_000),
        provenance=Provenance(
            input_size=[24, 32],
            backbone="clipad-tiny",
            weights="embedded",
            metrics="exact, at model size",
            calibrated_on_test=True,
            zero_shot=True,
            versions={"anomalib": "2.7.0"},
            device="a processor",
        ),
    )
    return replace(done, **changes)


def failed_job(model: str = "SDP", category: str = "bottle", seed: int = 0, **changes: Any) -> Record:
    """A job that failed before it knew anything."""
    nothing = {"status": "failed", "error": "RuntimeError: out of luck", "traceback": "Traceback: line 1"}
    unknown = {"metrics": {}, "measures": Measures(), "provenance": Provenance()}
    return job(model, category, seed, **{**nothing, **unknown, **changes})


def expectation(model: str, metric: str, figure: float, jobs: Sequence[str], tolerance: float = 1.0) -> Expectation:
    """What is expected of a model on the dataset of :func:`job`."""
    return Expectation(model, "MVTec", metric, figure, "a paper", tolerance, list(jobs))


def write_comparison(output: Path, records: Sequence[Record], *, jobs: Sequence[str] | None = None) -> Path:
    """Write records as a comparison leaves them, with pictures, maps and curves of the finished ones.

    Each category has three good images and three with a square defect, oblong. The maps of a job are brighter in the
    defect by the job's pixel AUPRO, so that a better figure belongs to a better map.

    Args:
        output: Folder of the comparison; the dataset is drawn beside it.
        records: Jobs that have finished.
        jobs: Ids of the grid; those of the records by default.
    """
    for record in records:
        if record.status == "done":
            write_images(output, record.job, _images(output.parent / "data" / record.category, record))
            rates = {"fpr": [0.0, 0.0, 0.5, 1.0], "tpr": [0.0, 0.5, 0.9, 1.0]}
            pro = {"fpr": [0.0, 0.1, 0.3], "pro": [0.0, 0.7, 0.9]}
            write_curves(output, record.job, {"image_roc": rates, "pixel_roc": rates, "pro": pro})
        write_record(output, record)
    write_grid(output, [record.job for record in records] if jobs is None else jobs)
    return output


def _images(folder: Path, record: Record) -> Images:
    """Draw the test set of a category where it is not there yet, and maps of it."""
    quality = record.metrics.get("pixel_AUPRO", 0.5)
    noise = np.random.default_rng(0)
    image_paths, mask_paths, maps = [], [], []
    for number in range(N_GOOD + N_BROKEN):
        broken = number >= N_GOOD
        image_path = folder / "test" / ("broken" if broken else "good") / f"{number:03}.png"
        mask_path = folder / "ground_truth" / "broken" / f"{number:03}_mask.png"
        mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        mask[8:24, 4 * number : 4 * number + 16] = 255 * broken
        for path, pixels in ((image_path, 120 + mask // 4), (mask_path, mask)):
            if not path.is_file() and (broken or path == image_path):
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
        image_paths.append(str(image_path))
        mask_paths.append(str(mask_path) if broken else "")
        maps.append(noise.uniform(0, 60, (HEIGHT // 2, WIDTH // 2)) + 190 * quality * (mask[::2, ::2] > 0))
    return Images(
        image_path=np.array(image_paths),
        mask_path=np.array(mask_paths),
        gt_label=np.array([bool(path) for path in mask_paths]),
        pred_score=np.array([each.max() / 255 for each in maps], dtype=np.float32),
        maps=np.array(maps).astype(np.uint8),
    )
