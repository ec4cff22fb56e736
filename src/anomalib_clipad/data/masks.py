# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Clear errors for masks that would be trained on wrongly, or fail in the middle of an epoch."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from anomalib.data.utils import LabelName
from lightning.pytorch.utilities import rank_zero_only
from pandas import DataFrame
from PIL import Image
from tqdm import tqdm

from anomalib_clipad.base.text import list_some

MAX_CLASS_ID = 31  # values up to here are taken for numbers of defect classes, as in VisA, and not for grey levels


def check_masks(samples: DataFrame) -> None:
    """Refuse anomalous images whose mask is missing, unreadable, empty, of another size, or not binary.

    anomalib reads every mask as ``> 0``. That is right for {0, 255}, {0, 1} and numbers of defect classes, and wrong
    for grey levels, where soft borders and JPEG artefacts count as defect. A mask counts as binary if all its values
    are 0, one other value, or class numbers up to ``MAX_CLASS_ID``. The samples are anomalib's table of images with
    ``image_path``, ``label_index`` and ``mask_path`` (a path or a list of them).
    """
    anomalous = samples[samples["label_index"] == LabelName.ABNORMAL]
    column = anomalous["mask_path"] if "mask_path" in anomalous else [None] * len(anomalous)
    pairs = [
        (image, mask) for image, masks in zip(anomalous["image_path"], column, strict=True) for mask in _masks(masks)
    ]
    missing = [f"{image} (mask: {mask})" for image, mask in pairs if mask is None or not Path(mask).is_file()]
    if missing:
        msg = (
            f"Expected a mask for each anomalous image, but got none for {list_some(missing)}. "
            "Add the masks or remove the images."
        )
        raise FileNotFoundError(msg)
    silent = getattr(rank_zero_only, "rank", 0) != 0
    with ThreadPoolExecutor() as threads:  # Pillow releases the interpreter lock while it decodes
        checks = threads.map(lambda pair: _check(*pair), pairs)
        list(tqdm(checks, total=len(pairs), desc="Checking masks", unit="mask", delay=2, disable=silent))


def unpaired(images: Iterable[Path], masks: Iterable[Path]) -> list[Path]:
    """Return the images without a mask, then the masks without an image, by file names, with ``_mask`` added or not.

    anomalib takes images and masks in order, so that one missing file shifts all others.
    """
    images, masks = list(images), list(masks)
    named = {path.stem for path in images}
    drawn = {path.stem.removesuffix("_mask") for path in masks}
    return [path for path in images if path.stem not in drawn] + [
        path for path in masks if path.stem.removesuffix("_mask") not in named
    ]


def unpaired_in_layout(category: Path) -> list[Path]:
    """Return :func:`unpaired` files of a category in MVTec AD's layout, ``<category>/{test,ground_truth}/<label>``."""
    labels = {path.name for split in ("test", "ground_truth") for path in (category / split).glob("*/")}
    return [
        path
        for label in sorted(labels - {"good"})
        for path in unpaired(_files(category / "test" / label), _files(category / "ground_truth" / label))
    ]


def _check(image_path: str, mask_path: str) -> None:
    try:
        with Image.open(image_path) as image, Image.open(mask_path) as mask:
            image_size, mask_size = image.size, mask.size
            values = np.unique(np.asarray(mask if mask.mode == "P" else mask.convert("L")))
            is_empty = not np.asarray(mask.convert("L")).any()
    except (OSError, SyntaxError) as error:
        msg = f"Expected mask and image to be readable, but got an error for {mask_path} of {image_path}: {error}."
        raise OSError(msg) from error
    if mask_size != image_size:
        msg = (
            f"Expected the mask to have its image's size, {_size(image_size)}, but got {_size(mask_size)}: {mask_path} "
            f"of {image_path}. Resize the mask, without interpolation, or correct the pair."
        )
        raise ValueError(msg)
    if is_empty:
        msg = (
            f"Expected the mask of an anomalous image to mark a defect, but got an empty one: {mask_path} of "
            f"{image_path}. Draw the defect, or sort the image with the normal ones."
        )
        raise ValueError(msg)
    grey = values[(values > MAX_CLASS_ID) & (values < values.max())]
    if len(grey):
        msg = (
            f"Expected the mask to be binary, but got the grey levels {list_some(list(grey))} besides "
            f"{values.max()}: {mask_path}. Valid: 0 and one other value, or class numbers up to {MAX_CLASS_ID}. "
            "Save it as PNG, for example with numpy: (mask > 127).astype('uint8') * 255."
        )
        raise ValueError(msg)


def _masks(value: object) -> Sequence[str | None]:
    """Mask paths of one image; MVTec LOCO has several. Where there is none, the host says so in many ways."""
    if isinstance(value, list | tuple):
        return list(value) or [None]
    return [str(value)] if isinstance(value, str | Path) and str(value) not in {"", "None"} else [None]


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.glob("*")) if path.is_file() and not path.name.startswith("."))


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]} pixels"
