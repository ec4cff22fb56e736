# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Draw image, ground truth and the maps of some models side by side, for held-out products.

    python tools/draw_figure.py                  # the first picture of the README: plain similarity, SDP and SDP+
    python tools/draw_figure.py --large_images   # that of docs/large_images.md: sizes and tiles

Always the first test image of a kind of defect; categories and kinds were named before any map was seen.
"""

import argparse
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

from anomalib_clipad import SDP, SDPPlus, SyntheticDefects

SHOWN = {
    "wood": "hole",
    "carpet": "thread",
    "marble": "crack",
    "gear": "burn",
    "button": "stain",
    "screw": "scratch",
}

RECIPE: dict[str, Any] = {
    "image_size": 960,
    "defect_area": (0.0005, 0.003),
    "n_train": 1,
    "n_test_good": 6,
    "n_test_per_defect": 1,
}
"""The large drawings of ``benchmarks/large_images.py``."""


def models() -> dict[str, SDP | SDPPlus]:
    """What the README's picture compares."""
    return {
        "plain\nsimilarity": SDP("clipad-tiny", architecture_surgery=False, feature_surgery=False),
        "SDP": SDP("clipad-tiny"),
        "SDP+": SDPPlus("clipad-tiny", heads="embedded"),
    }


def large_models() -> dict[str, SDP | SDPPlus]:
    """Four ways to look at large images."""
    return {
        "one size": SDP("clipad-tiny"),
        "three\nscales": SDP("clipad-tiny", scales=[120, 240, 480]),
        "tiles": SDP("clipad-tiny", tiles={"size": 120, "whole": False}),
        "tiles and\nwhole": SDP("clipad-tiny", tiles={"size": 120}),
    }


def draw(root: Path, models: dict[str, SDP | SDPPlus], output: Path) -> None:
    """Score the images and write the picture."""
    mpl.use("agg")
    rows = ["image", "ground truth", *models]
    figure, axes = plt.subplots(len(rows), len(SHOWN), figsize=(8.4, 1.42 * len(rows)), layout="constrained")
    for column, (category, kind) in zip(axes.T, SHOWN.items(), strict=True):
        image_path = min((root / category / "test" / kind).glob("*.png"))
        mask_path = next((root / category / "ground_truth" / kind).glob(f"{image_path.stem}*"))
        image, mask = (cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in (image_path, mask_path))
        column[0].imshow(image)
        column[0].set_title(f"{category},\n{kind}", fontsize=10)
        column[1].imshow(mask)
        for axis, model in zip(column[2:], models.values(), strict=True):
            [prediction] = model.predict(image_path, class_name=category)
            heat = prediction.at_original_size().anomaly_map.numpy()
            heat = (heat - heat.min()) / np.ptp(heat)
            axis.imshow(0.45 * image / 255 + 0.55 * mpl.colormaps["jet"](heat)[..., :3])
    for axis, name in zip(axes[:, 0], rows, strict=True):
        axis.set_ylabel(name, fontsize=10)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large_images", action="store_true")
    large = parser.parse_args().large_images
    folder = Path("datasets/SyntheticDefects-large" if large else "datasets/SyntheticDefects")
    recipe = RECIPE if large else {}
    SyntheticDefects(folder, list(SHOWN), num_workers=0, **recipe).prepare_data()
    chosen, name = (large_models(), "large_images.png") if large else (models(), "maps.png")
    draw(folder, chosen, Path("docs/images") / name)
