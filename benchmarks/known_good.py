# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Does the bound of a threshold from good images hold for new ones (docs/thresholds.md)? SDP, ``clipad-tiny``.

    python -m benchmarks.known_good

Of each held-out category 1,000 good drawings are scored once. A draw calibrates on some at random, as
``calibrate(..., known_good=True)`` does, and counts how many of as many others, and of all others, are flagged. About
eight minutes on one core, the drawing of the images included.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from anomalib_clipad.post_processing.calibration import fuse
from anomalib_clipad.post_processing.known_good import KnownGood, calibrate_known_good, limit_false_alarms
from benchmarks.unlabelled_thresholds import Scores, score_categories


def draws(scores: Scores, size: int, number: int, options: KnownGood) -> Iterator[dict[str, float]]:
    """Shares of fresh images flagged, and whether they lie under the bound, for images and for their maps."""
    for seed in range(number):
        order = torch.randperm(len(scores.label), generator=torch.Generator().manual_seed(seed))
        known, fresh = scores[order[:size]], scores[order[size:]]
        calibration = calibrate_known_good(known.statistics(), options)
        ranges = calibration.score_ranges
        values = {
            "image": [fuse(part.probability, part.map_range[:, 1], ranges) for part in (known, fresh)],
            "map": [part.map_range[:, 1] for part in (known, fresh)],
        }
        row: dict[str, float] = {}
        for name, (of_known, of_fresh) in values.items():
            limit = limit_false_alarms(of_known, options)
            flagged = (of_fresh > limit.threshold).double()
            row |= {
                f"{name}: bound": limit.bound,
                f"{name}: flagged": flagged.mean().item(),
                f"{name}: {size} fresh under the bound": float(flagged[:size].mean() < limit.bound),
                f"{name}: all others under the bound": float(flagged.mean() < limit.bound),
            }
        yield row


def main() -> None:
    """Parse arguments, measure and print means over draws, by category."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--categories", default="held_out", help="held_out, training, or names with commas")
    parser.add_argument("--root", type=Path, default=Path("datasets/SyntheticDefects-good"), help="folder of images")
    parser.add_argument("--images", type=int, default=1000, help="good images of a category")
    parser.add_argument("--size", type=int, default=200, help="images to calibrate on")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--false-alarms", type=float, default=0.02)
    arguments = parser.parse_args()
    recipe = {"n_train": 1, "n_test_good": arguments.images, "n_test_per_defect": 1, "image_seed": 11}
    options, rows = KnownGood(false_alarms=arguments.false_alarms), list[dict[str, Any]]()
    for category, scores in score_categories(arguments.root, arguments.categories, **recipe).items():
        good = scores[(~scores.label).nonzero().flatten()]
        rows += [{"category": category, **row} for row in draws(good, arguments.size, arguments.draws, options)]
    table = pd.DataFrame(rows).groupby("category", sort=False).mean()
    table.loc["**mean**"] = table.mean()
    print(table.round(3).to_markdown())


if __name__ == "__main__":
    main()
