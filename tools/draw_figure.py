# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Draw the first picture of the README: image, ground truth, plain similarity, SDP and SDP+ for held-out products.

    python tools/draw_figure.py --output docs/images/maps.png

Always the first test image of a kind of defect; categories and kinds were named before any map was seen.
"""

import argparse
from pathlib import Path

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


def draw(root: Path, output: Path) -> None:
    """Score the images and write the picture."""
    SyntheticDefects(root, list(SHOWN), num_workers=0).prepare_data()
    models = {
        "plain\nsimilarity": SDP("clipad-tiny", architecture_surgery=False, feature_surgery=False),
        "SDP": SDP("clipad-tiny"),
        "SDP+": SDPPlus("clipad-tiny", heads="embedded"),
    }
    mpl.use("agg")
    rows = ["image", "ground truth", *models]
    figure, axes = plt.subplots(len(rows), len(SHOWN), figsize=(8.4, 7.1), layout="constrained")
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
    parser.add_argument("--root", type=Path, default=Path("datasets/SyntheticDefects"))
    parser.add_argument("--output", type=Path, default=Path("docs/images/maps.png"))
    arguments = parser.parse_args()
    draw(arguments.root, arguments.output)
