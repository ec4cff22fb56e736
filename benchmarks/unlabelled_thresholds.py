# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Measure thresholds from unlabelled images (docs/thresholds.md) with SDP and ``clipad-tiny`` on synthetic products.

    python benchmarks/unlabelled_thresholds.py                                  # held-out categories
    python benchmarks/unlabelled_thresholds.py --categories training --methods  # how the method was chosen

Each category is scored once. Then pools of a given size and share of anomalous images are drawn from it at random, each
determined by its seed, and calibrated as a user's own images would be; the labels only judge the result. F1 is compared
with that of the best threshold for the same scores, which only someone with labels could have set. Takes three minutes
on two cores, the drawing of the images included, and with ``--categories training --methods`` eight.
"""

import argparse
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import precision_recall_fscore_support
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.nn import functional

from anomalib_clipad import SDP, SyntheticDefects
from anomalib_clipad.post_processing.calibration import (
    Calibration,
    CategoryStatistics,
    best_threshold,
    fuse,
    unit_calibration,
)
from anomalib_clipad.post_processing.unlabelled import calibrate_unlabelled, otsu_split

SHARES = (0, 5, 10, 20, 30, 50)
SIZES = (100, 50, 20, 10)
BINS = 4096
"""Resolution of pixel thresholds; maps lie in [0, 1]."""

Method = Callable[[CategoryStatistics], Calibration]


@dataclass(frozen=True)
class Scores:
    """Raw scores and labels of M images of one category.

    Attributes:
        probability: Class probabilities (M,).
        map_range: Lowest and highest value of each map (M, 2).
        label: True where anomalous (M,).
        pixels: Histograms of the normal and the anomalous pixels of each map (M, 2, BINS).
    """

    probability: Tensor
    map_range: Tensor
    label: Tensor
    pixels: Tensor

    def __getitem__(self, rows: Tensor) -> "Scores":
        return Scores(self.probability[rows], self.map_range[rows], self.label[rows], self.pixels[rows])

    def statistics(self) -> CategoryStatistics:
        """What calibration may see: no labels, no masks."""
        low, high = self.map_range[:, 0].min().item(), self.map_range[:, 1].max().item()
        return CategoryStatistics([self.probability], [self.map_range[:, 1]], pixel_range=(low, high))


@torch.inference_mode()
def score(model: SDP, data: SyntheticDefects) -> Scores:
    """Score the test images of the only category of ``data``."""
    name = data.category
    index = model.model.texts.add(name, model.collaborators.text_engine.text_embeddings(name))
    parts = []
    for batch in data.test_dataloader():
        raw = model(batch.image, torch.full((len(batch.image),), index))
        maps = raw.anomaly_map
        mask = functional.interpolate(batch.gt_mask[:, None].float(), maps.shape[-2:])[:, 0].long()  # nearest
        bins = (maps * (BINS - 1)).long() + BINS * mask
        pixels = torch.stack([image.flatten().bincount(minlength=2 * BINS).reshape(2, BINS) for image in bins])
        extremes = torch.stack(torch.aminmax(maps.flatten(1), dim=1), dim=1)
        parts.append((raw.pred_score, extremes, batch.gt_label.bool(), pixels.int()))
    return Scores(*(torch.cat(part) for part in zip(*parts, strict=True)))


def score_categories(root: Path, categories: str, **recipe: int) -> dict[str, Scores]:
    """Score the test images of some categories of ``SyntheticDefects``, drawn by a recipe, with ``clipad-tiny``."""
    logging.getLogger("anomalib_clipad").setLevel(logging.ERROR)  # one message a pool or draw otherwise
    model = SDP("clipad-tiny", post_processor=False, evaluator=False, visualizer=False)
    scores = {}
    for category in SyntheticDefects(root, categories, **recipe).categories:
        data = SyntheticDefects(root, [category], **recipe, num_workers=0)
        data.prepare_data()
        data.setup()
        scores[category] = score(model, data)
    return scores


def pools(scores: Scores, size: int, percent: int, number: int) -> Iterator[Scores]:
    """Draw pools in which that many percent of the images are anomalous; none where this is no whole number."""
    anomalous, remainder = divmod(size * percent, 100)
    if remainder:
        return
    groups = [(~scores.label).nonzero().flatten().numpy(), scores.label.nonzero().flatten().numpy()]
    for seed in range(number):
        rng = np.random.default_rng((seed, size, percent))
        chosen = [rng.choice(groups[0], size - anomalous, replace=False), rng.choice(groups[1], anomalous, False)]
        yield scores[torch.from_numpy(np.concatenate(chosen))]


def judge(pool: Scores, calibration: Calibration) -> dict[str, float]:
    """Compare the decisions on a pool with its labels."""
    fused = fuse(pool.probability, pool.map_range[:, 1], calibration.score_ranges)
    decided = fused > calibration.image_threshold
    if not pool.label.any():
        return {"false alarms": decided.float().mean().item(), "pools with one": float(decided.any())}
    precision, recall, f1 = _precision_recall_f1(pool.label, decided)
    best_f1 = _precision_recall_f1(pool.label, fused > best_threshold(fused, pool.label))[2]
    normal, anomalous = pool.pixels.sum(0)
    hits = anomalous.flip(0).cumsum(0).flip(0)
    alarms = hits + normal.flip(0).cumsum(0).flip(0)
    pixel_f1 = 2 * hits / (alarms + hits[0])
    threshold_bin = min(int((calibration.pixel_threshold * (BINS - 1)).ceil()), BINS - 1)
    return {
        "F1": f1,
        "best F1": best_f1,
        "difference": best_f1 - f1,
        "precision": precision,
        "recall": recall,
        "pixel F1": pixel_f1[threshold_bin].item(),
        "best pixel F1": pixel_f1.max().item(),
    }


def _precision_recall_f1(label: Tensor, decided: Tensor) -> tuple[float, float, float]:
    return precision_recall_fscore_support(label, decided, average="binary", zero_division=0)[:3]


def _with_threshold(find: Callable[[np.ndarray], float], statistics: CategoryStatistics) -> Calibration:
    """Calibration with another threshold of the fused score."""
    ranges = statistics.calibration().score_ranges
    fused = fuse(statistics.class_probabilities[0], statistics.map_maxima[0], ranges)
    return statistics.calibration()._replace(score_ranges=ranges, image_threshold=torch.tensor(find(fused.numpy())))


def _median_and_deviations(scores: np.ndarray) -> float:
    median = np.median(scores)
    return float(median + 3 * 1.4826 * np.median(abs(scores - median)))


def _mixture(scores: np.ndarray) -> float:
    """Where the upper one of two normal distributions becomes the likelier."""
    start = np.quantile(scores, [[0.1], [0.95]])
    mixture = GaussianMixture(2, means_init=start, reg_covar=4e-4).fit(scores[:, None])
    grid = np.linspace(mixture.means_.min(), mixture.means_.max(), 512)
    upper = mixture.predict_proba(grid[:, None])[:, mixture.means_.argmax()] > 0.5
    return float(grid[upper.argmax()])


def _widest_gap(scores: np.ndarray) -> float:
    """Middle of the widest gap in the upper half."""
    ordered = np.sort(scores)[len(scores) // 2 - 1 :]
    at = np.diff(ordered).argmax()
    return float(ordered[at] + ordered[at + 1]) / 2


def _unlabelled(statistics: CategoryStatistics, **options: float) -> Calibration:
    """As a user's images are calibrated; too few leave the model as it is."""
    return calibrate_unlabelled(statistics, None, **options) or unit_calibration()


METHODS: dict[str, Method] = {
    "Otsu, tested for two groups": _unlabelled,
    "the same, at most 2 % false alarms": partial(_unlabelled, false_alarms=0.02),
    "Otsu": partial(_with_threshold, lambda scores: float(otsu_split(torch.from_numpy(scores)).threshold)),
    "middle of the range": partial(_with_threshold, lambda _: 0.5),
    "median + 3 deviations": partial(_with_threshold, _median_and_deviations),
    "two normal distributions": partial(_with_threshold, _mixture),
    "widest gap": partial(_with_threshold, _widest_gap),
}


def measure(scores: dict[str, Scores], methods: dict[str, Method], sizes: list[int], number: int) -> pd.DataFrame:
    """One row for each method, category, size, share and pool."""
    rows = []
    for category, of_category in scores.items():
        for size, percent in itertools.product(sizes, SHARES):
            for pool in pools(of_category, size, percent, number):
                what = {"category": category, "images": size, "anomalous %": percent}
                statistics = pool.statistics()
                rows += [{"method": name, **what, **judge(pool, find(statistics))} for name, find in methods.items()]
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """A table with its index as first columns."""
    table = table.reset_index()
    rows = table.itertuples(index=False)
    cells = [[f"{value:.3f}" if isinstance(value, float) else str(value) for value in row] for row in rows]
    lines = [list(map(str, table.columns)), ["---"] * len(table.columns), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Parse arguments, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--categories", default="held_out", help="held_out, training, or names with commas")
    parser.add_argument("--root", type=Path, default=Path("datasets/SyntheticDefects-pools"), help="folder of images")
    parser.add_argument("--good", type=int, default=160, help="normal images of a category to draw pools from")
    parser.add_argument("--per-defect", type=int, default=12, help="anomalous ones of each of the 14 kinds of defect")
    parser.add_argument("--image-seed", type=int, default=7)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="images in a pool")
    parser.add_argument("--pools", type=int, default=20, help="pools of each size, share and category")
    parser.add_argument("--methods", action="store_true", help="compare with other methods")
    parser.add_argument("--csv", type=Path, help="write one row for each pool")
    arguments = parser.parse_args()
    recipe = {"n_train": 1, "n_test_good": arguments.good, "n_test_per_defect": arguments.per_defect}
    scores = score_categories(arguments.root, arguments.categories, **recipe, image_seed=arguments.image_seed)
    methods = METHODS if arguments.methods else dict(list(METHODS.items())[:2])
    rows = measure(scores, methods, arguments.sizes, arguments.pools)
    if arguments.csv:
        rows.to_csv(arguments.csv, index=False)
    if arguments.methods:
        print(markdown(_by_method(rows)))
        return
    usual, bounded = (rows[rows["method"] == name] for name in methods)
    some, none = usual[usual["anomalous %"] > 0], usual[usual["anomalous %"] == 0]
    figures = ["F1", "best F1", "difference", "precision", "recall", "pixel F1", "best pixel F1"]
    print(markdown(some.groupby(["images", "anomalous %"])[figures].mean()), end="\n\n")
    print(markdown(some.groupby("images")[figures].mean()), end="\n\n")
    print(markdown(none.groupby("images")[["false alarms", "pools with one"]].mean()), end="\n\n")
    print(f"The same, at most 2 % false alarms:\n\n{markdown(_by_method(bounded))}", end="\n\n")
    most = max(arguments.sizes)
    difference = some[some["images"] == most].pivot_table("difference", "category", "anomalous %", sort=False)
    alarms = none[none["images"] == most].groupby("category")["false alarms"].mean()
    print(f"Difference by category, {most} images:\n\n{markdown(difference.join(alarms))}")


def _by_method(rows: pd.DataFrame) -> pd.DataFrame:
    """Difference to the best F1 by share of anomalous images, and false alarms where there are none."""
    table = rows[rows["anomalous %"] > 0].pivot_table("difference", ["images", "method"], "anomalous %", sort=False)
    return table.join(rows.groupby(["images", "method"])["false alarms"].mean())


if __name__ == "__main__":
    main()
