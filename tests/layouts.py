# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny datasets in the folder layouts of the real ones, for tests that read them with the host's datamodules.

Images are noise of low contrast; an anomalous image has a bright square, which its mask marks, so that a detector of
brightness finds every defect. Equal arguments give equal files.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

DEFAULT_SIZE = 48


def draw(seed: int, *, anomalous: bool, size: int = DEFAULT_SIZE) -> tuple[Image.Image, Image.Image]:
    """Return an RGB image and its mask (0 or 255), both ``size`` pixels wide and high."""
    random = np.random.default_rng(seed)
    image = random.integers(80, 120, (size, size, 3), dtype=np.uint8)
    mask = np.zeros((size, size), dtype=np.uint8)
    if anomalous:
        side = size // 4
        top, left = random.integers(0, size - side, 2)
        image[top : top + side, left : left + side] = random.integers(200, 250, (side, side, 3), dtype=np.uint8)
        mask[top : top + side, left : left + side] = 255
    return Image.fromarray(image), Image.fromarray(mask)


def write_images(
    folder: Path,
    n: int,
    *,
    anomalous: bool = False,
    masks: str | None = None,
    size: int = DEFAULT_SIZE,
    suffix: str = ".png",
    seed: int = 0,
) -> None:
    """Write ``000.png``, ... into a folder.

    Args:
        folder: Made if it is not there.
        n: Number of images.
        anomalous: Whether the images have a defect.
        masks: Path of the masks with ``{stem}`` for the image's stem; none are written without it.
        size: Width and height in pixels.
        suffix: Image format.
        seed: Seed of the first image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(n):
        stem = f"{index:03d}"
        image, mask = draw(seed + index, anomalous=anomalous, size=size)
        image.save(folder / f"{stem}{suffix}")
        if masks is not None:
            path = Path(masks.format(stem=stem))
            path.parent.mkdir(parents=True, exist_ok=True)
            mask.save(path)


def write_mvtec_ad(
    root: Path,
    categories: Sequence[str] = ("bottle",),
    *,
    defects: Sequence[str] = ("scratch",),
    n_train: int = 2,
    n_good: int = 3,
    n_defect: int = 3,
    size: int = DEFAULT_SIZE,
) -> Path:
    """Write MVTec AD: ``<category>/{train/good, test/good, test/<defect>, ground_truth/<defect>/*_mask.png}``."""
    for number, category in enumerate(categories):
        folder, seed = root / category, 1000 * number
        write_images(folder / "train/good", n_train, size=size, seed=seed)
        write_images(folder / "test/good", n_good, size=size, seed=seed + 100)
        for index, defect in enumerate(defects):
            masks = str(folder / "ground_truth" / defect / "{stem}_mask.png")
            first = seed + 200 + 100 * index
            write_images(folder / "test" / defect, n_defect, anomalous=True, masks=masks, size=size, seed=first)
    return root


def write_mpdd(root: Path, categories: Sequence[str] = ("bracket_black",), *, size: int = DEFAULT_SIZE) -> Path:
    """Write MPDD, which has MVTec AD's layout."""
    return write_mvtec_ad(root, categories, size=size)


def write_visa(
    root: Path,
    categories: Sequence[str] = ("capsules",),
    *,
    n_train: int = 2,
    n_good: int = 3,
    n_defect: int = 3,
    size: int = DEFAULT_SIZE,
) -> Path:
    """Write VisA as it is downloaded, with the split file by which the host makes ``visa_pytorch`` of it.

    ``<category>/Data/{Images/Normal/*.JPG, Images/Anomaly/*.JPG, Masks/Anomaly/*.png}`` and ``split_csv/1cls.csv``.
    Masks hold 1 for a defect, not 255, as some of the real ones do.
    """
    rows = [("object", "split", "label", "image", "mask")]
    for number, category in enumerate(categories):
        data, seed = root / category / "Data", 1000 * number
        write_images(data / "Images/Normal", n_train + n_good, size=size, suffix=".JPG", seed=seed)
        masks = str(data / "Masks/Anomaly/{stem}.png")
        write_images(
            data / "Images/Anomaly", n_defect, anomalous=True, masks=masks, size=size, suffix=".JPG", seed=seed + 100
        )
        for path in (data / "Masks/Anomaly").iterdir():
            Image.fromarray(np.asarray(Image.open(path)) // 255).save(path)
        for index in range(n_train + n_good):
            split = "train" if index < n_train else "test"
            rows.append((category, split, "normal", f"{category}/Data/Images/Normal/{index:03d}.JPG", ""))
        for index in range(n_defect):
            image = f"{category}/Data/Images/Anomaly/{index:03d}.JPG"
            rows.append((category, "test", "anomaly", image, f"{category}/Data/Masks/Anomaly/{index:03d}.png"))
    (root / "split_csv").mkdir(parents=True, exist_ok=True)
    with (root / "split_csv/1cls.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return root


def write_folder(root: Path, *, n_normal: int = 6, n_abnormal: int = 4, size: int = DEFAULT_SIZE) -> Path:
    """Write ``normal``, ``abnormal`` and ``mask`` for the host's ``Folder`` datamodule."""
    write_images(root / "normal", n_normal, size=size)
    masks = str(root / "mask/{stem}.png")
    write_images(root / "abnormal", n_abnormal, anomalous=True, masks=masks, size=size, seed=100)
    return root


def write_mvtec_loco(root: Path, categories: Sequence[str] = ("breakfast_box",), *, size: int = DEFAULT_SIZE) -> Path:
    """Write MVTec LOCO: a ``validation`` split and a folder of masks for each anomalous image."""
    for category in categories:
        folder = root / category
        write_images(folder / "train/good", 2, size=size)
        write_images(folder / "validation/good", 2, size=size, seed=100)
        write_images(folder / "test/good", 3, size=size, seed=200)
        for index, defect in enumerate(("logical_anomalies", "structural_anomalies")):
            masks = str(folder / "ground_truth" / defect / "{stem}/000.png")
            write_images(folder / "test" / defect, 2, anomalous=True, masks=masks, size=size, seed=300 + 100 * index)
    return root


def write_btech(root: Path, categories: Sequence[str] = ("01",), *, size: int = DEFAULT_SIZE) -> Path:
    """Write BTech: ``ok`` and ``ko`` instead of ``good`` and the defect's name."""
    for category in categories:
        folder = root / category
        write_images(folder / "train/ok", 2, size=size)
        write_images(folder / "test/ok", 3, size=size, seed=100)
        masks = str(folder / "ground_truth/ko/{stem}.png")
        write_images(folder / "test/ko", 3, anomalous=True, masks=masks, size=size, seed=200)
    return root
