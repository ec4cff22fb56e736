# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Images to choose from: those of a folder, else drawings made on the fly."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from anomalib_clipad.data.image_files import image_size
from anomalib_clipad.data.image_list import list_images
from anomalib_clipad.data.synthetic.render import photograph

_DRAWINGS = (
    *(("gear", "crack"), ("screw", "scratch"), ("capsule", "chip"), ("button", None)),
    *(("carpet", "hole"), ("wood", "burn"), ("brushed_metal", "scratch"), ("marble", "stain")),
)
_SIDE = 320
_MOST = 24


class Sample(NamedTuple):
    """An image file and what it shows, empty where nobody says."""

    path: str
    class_name: str


def list_samples(folder: str | Path) -> list[Sample]:
    """The first images of a folder that can be read, or of a CSV file with their class names.

    Raises:
        FileNotFoundError: If there is no such folder or file.
        ValueError: If there are no images in it, or none that can be read.
    """
    listed = list_images(folder)[:_MOST]
    samples = [Sample(str(Path(each.path).absolute()), each.class_name or "") for each in listed]
    readable = [sample for sample in samples if image_size(sample.path) is not None]
    if not readable:
        msg = f"Expected samples that can be read, but got none among the first {_MOST} images of {folder}."
        raise ValueError(msg)
    return readable


def draw_samples(folder: Path) -> list[Sample]:
    """Draw products, most of them with a defect, into a folder."""
    samples = []
    for number, (category, defect) in enumerate(_DRAWINGS):
        pixels, _ = photograph(np.random.default_rng(number), category, defect, _SIDE)
        path = folder / f"{category}_{defect or 'good'}.png"
        Image.fromarray(pixels).save(path)
        samples.append(Sample(str(path), category.replace("_", " ")))
    return samples
