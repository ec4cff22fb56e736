# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Small defects in large images on ``clipad-tiny`` (docs/large_images.md): one size, several, tiles; aspect ratios.

    python -m benchmarks.large_images                                      # held-out categories, drawn at 960 px
    python -m benchmarks.large_images --categories training                # where sizes were chosen
    python -m benchmarks.large_images --tiles ../shared/real/magnetic_tile

All maps are compared at the size of the photograph. Image scores are fused over the ranges of the test images, as
validation on them does it. Times are of one thread, reading the images included.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from anomalib_clipad import SDP, SDPPlus
from anomalib_clipad.metrics import rank_metrics
from anomalib_clipad.post_processing.calibration import CategoryStatistics, fuse
from benchmarks.visual_evidence import Category, synthetic, tiles

WAYS: dict[str, dict[str, Any]] = {
    "one size, 120": {},
    "one size, 240": {"image_size": 240},
    "two scales, 120 and 240": {"scales": [120, 240]},
    "three scales, 120, 240 and 480": {"scales": [120, 240, 480]},
    "tiles of 120": {"tiles": {"size": 120, "whole": False}},
    "tiles of 120 and whole": {"tiles": {"size": 120}},
}
"""What is compared on large drawings."""

FITS: dict[str, dict[str, Any]] = {
    f"{fit}, {name}": {"resize": fit, **sizes}
    for name, sizes in (("120", {}), ("120 and 240", {"scales": [120, 240]}))
    for fit in ("squash", "keep", "pad")
}
"""What is compared on photographs of different aspect ratios."""

SIZE, AREA = 960, (0.0005, 0.003)


def score(model: SDP, category: Category) -> tuple[Tensor, list[Tensor], float]:
    """Class probabilities (M,), maps at the size of each photograph, and seconds an image."""
    raw = model.eval()
    started, probabilities, maps = time.perf_counter(), [], []
    for path in category.test:
        [prediction] = raw.predict(path, class_name=category.name)
        probabilities.append(prediction.pred_score)
        maps.append(prediction.at_original_size().anomaly_map)
    return torch.tensor(probabilities), maps, (time.perf_counter() - started) / len(maps)


def metrics(probability: Tensor, maps: list[Tensor], masks: list[Tensor]) -> dict[str, float]:
    """Metrics of a category, × 100, of maps and masks (H, W) of any size each."""
    statistics, maxima = CategoryStatistics(), torch.stack([each.max() for each in maps])
    for one, plane in zip(probability, maps, strict=True):
        statistics.update(one[None], plane[None], None, None)
    label = torch.stack([mask.any() for mask in masks])
    image = rank_metrics.RankCurve.from_scores(fuse(probability, maxima, statistics.calibration().score_ranges), label)
    values, truth = (torch.cat([each.flatten() for each in planes]) for planes in (maps, masks))
    pixel = rank_metrics.RankCurve.from_scores(values, truth)
    weights, regions = zip(*(rank_metrics.overlap_weights(mask[None]) for mask in masks if mask.any()), strict=True)
    overlap = np.bincount(pixel.position, weights=np.concatenate(weights), minlength=len(pixel.anomalous))
    figures = {
        "image AUROC": rank_metrics.auroc(image),
        "pixel AUROC": rank_metrics.auroc(pixel),
        "pixel F1-max": rank_metrics.f1_max(pixel),
        "AUPRO": rank_metrics.area_under_pro(pixel, np.cumsum(overlap / sum(regions)), 0.3),
    }
    return {name: 100 * value for name, value in figures.items()}


def read_masks(category: Category, maps: list[Tensor]) -> list[Tensor]:
    """Masks (H, W) at the size of each photograph."""
    return [
        torch.zeros_like(plane, dtype=torch.bool)
        if path is None
        else torch.from_numpy(cv2.imread(path, cv2.IMREAD_GRAYSCALE) > 127)
        for path, plane in zip(category.masks, maps, strict=True)
    ]


def large(root: Path, categories: str, good: int) -> Iterator[Category]:
    """Drawings of 960 px whose defects cover 0.05 to 0.3 % of the image."""
    return synthetic(
        root, categories, image_size=SIZE, defect_area=AREA, n_train=1, n_test_good=good, n_test_per_defect=1
    )


def run(arguments: argparse.Namespace) -> None:
    """Measure and print a table as Markdown: means over categories."""
    ways = FITS if arguments.tiles else WAYS
    if arguments.only:
        ways = {name: ways[name] for name in arguments.only}
    listed = list(
        tiles(arguments.tiles) if arguments.tiles else large(arguments.root, arguments.categories, arguments.good)
    )
    rows = []
    models = {"SDP": (SDP, {}), "SDP+": (SDPPlus, {"heads": "embedded"})}
    for name in arguments.models:
        kind, options = models[name]
        for way, arguments_of_way in ways.items():
            model = kind("clipad-tiny", post_processor=False, **options, **arguments_of_way)
            for category in tqdm(listed, desc=f"{name}, {way}"):
                probability, maps, seconds = score(model, category)
                figures = metrics(probability, maps, read_masks(category, maps))
                rows.append({"model": name, "": way, **figures, "ms an image": 1000 * seconds})
            table = pd.DataFrame(rows).groupby(["model", ""], sort=False).mean().round(1)
            print(table.tail(1).to_markdown(headers=()), flush=True)
    print(table.reset_index().to_markdown(index=False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--categories", default="held_out", help="held_out, training, or names with commas")
    parser.add_argument("--root", type=Path, default=Path("datasets/SyntheticDefects-large"), help="folder of images")
    parser.add_argument("--good", type=int, default=6, help="good images of a category, beside 14 with a defect")
    parser.add_argument("--models", nargs="+", choices=("SDP", "SDP+"), default=("SDP", "SDP+"))
    parser.add_argument("--only", nargs="+", help="ways to compare, by their names")
    parser.add_argument("--tiles", type=Path, help="folder of magnetic tiles, instead of large drawings")
    run(parser.parse_args())
