# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Prediction from Python: images of any kind in, scores and maps out, without a trainer."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, repeat
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from anomalib.data import InferenceBatch
from PIL import Image
from torch import Tensor

from anomalib_clipad.data.image_files import ImageLike
from anomalib_clipad.data.image_list import list_images
from anomalib_clipad.data.image_loader import ListedImage, ReadImage
from anomalib_clipad.prediction.geometry import KNOWN, Box, image_box, to_image
from anomalib_clipad.prediction.page import Gallery, Planes, write_page
from anomalib_clipad.prediction.regions import Regions, locate, write_coco
from anomalib_clipad.prediction.table import PredictionRow, describe, ordered, write_tables

Images = ImageLike | Iterable[ImageLike]
"""One image or many; the path of a folder or of a CSV file stands for the images in it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction(PredictionRow):
    """What the model says of one image: its row in the tables, map and mask.

    ``pred_score``, ``pred_label``, ``anomaly_map`` and ``pred_mask`` are named as in anomalib's ``ImageItem``;
    ``score``, ``label`` and the rest are what the tables say.

    Attributes:
        original_size: Height and width of the image as it was given.
        regions: Connected parts of the mask in pixels of that image, the largest first; ``None`` where they are not
            wanted, or it is not known where the image lies in the mask.
        box: Where the whole image lies in the map, in pixels; ``None`` where the pre-processor does not tell.
        anomaly_map: (H, W) in [0, 1], at the model's size or at the original one; on the CPU.
        pred_mask: (H, W), true where anomalous; ``None`` where the post-processor decides nothing.
        preview: Small picture (3, h, w) of uint8 of an image that was in memory, for the page; ``None`` for a file.
    """

    original_size: tuple[int, int]
    box: Box | None
    anomaly_map: Tensor = field(repr=False)
    pred_mask: Tensor | None = field(repr=False)
    preview: Tensor | None = field(repr=False, default=None)

    @property
    def pred_score(self) -> float:
        """Image score in [0, 1]."""
        return math.nan if self.score is None else self.score

    @property
    def pred_label(self) -> bool | None:
        """Whether the score is above the threshold; ``None`` where the post-processor decides nothing."""
        return None if self.label is None else self.label == "anomalous"

    def at_original_size(self) -> "Prediction":
        """Return the same with map and mask resized to the image as it was given; 0 where it was cropped.

        Raises:
            ValueError: If the pre-processor changes images in an unknown way.
        """
        size, box = self.original_size, self.box
        if box is None:
            known = ", ".join(kind.__name__ for kind in KNOWN)
            msg = (
                f"Expected pre_processor to consist of {known} for a map at the original size, but got another "
                "transform. Use anomaly_map as it is, at the model's input size."
            )
            raise ValueError(msg)
        mask = None if self.pred_mask is None else to_image(self.pred_mask.float(), box, size) > 0.5
        whole = (0.0, 0.0, float(size[1]), float(size[0]))
        return replace(self, box=whole, anomaly_map=to_image(self.anomaly_map, box, size), pred_mask=mask)


class Predictions(Sequence[Prediction]):
    """Predictions of M images in the order given, without those that could not be read.

    Names are those of anomalib's ``ImageBatch``. A slice knows all skipped files of the call.

    Args:
        items: The predictions.
        skipped: Rows of the files that could not be read.
    """

    def __init__(self, items: Iterable[Prediction], skipped: Iterable[PredictionRow] = ()) -> None:
        self._items = list(items)
        self.skipped = list(skipped)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...

    @overload
    def __getitem__(self, index: slice) -> "Predictions": ...

    def __getitem__(self, index: int | slice) -> "Prediction | Predictions":
        return Predictions(self._items[index], self.skipped) if isinstance(index, slice) else self._items[index]

    def __repr__(self) -> str:
        return f"Predictions({len(self)} images, {len(self.skipped)} skipped)"

    @property
    def pred_score(self) -> Tensor:
        """Image scores (M,) in [0, 1]."""
        return torch.tensor([item.pred_score for item in self._items])

    @property
    def pred_label(self) -> Tensor | None:
        """Whether each image is anomalous (M,); ``None`` where the post-processor decides nothing."""
        labels = [item.pred_label for item in self._items]
        return None if None in labels else torch.tensor(labels, dtype=torch.bool)

    @property
    def anomaly_map(self) -> Tensor:
        """Anomaly maps (M, H, W) in [0, 1], at the model's size."""
        return _stack([item.anomaly_map for item in self._items])

    @property
    def pred_mask(self) -> Tensor | None:
        """Masks (M, H, W), true where anomalous; ``None`` where the post-processor decides nothing."""
        masks = [item.pred_mask for item in self._items if item.pred_mask is not None]
        return None if len(masks) < len(self) else _stack(masks)

    @property
    def rows(self) -> list[PredictionRow]:
        """Rows of the tables, skipped files among them, in the order given."""
        return ordered([*self._items, *self.skipped])

    def save(self, folder: str | Path, *, coco: bool = False, page: bool = True) -> None:
        """Write ``predictions.csv``, ``predictions.jsonl`` and ``report.html``, as ``anomalib predict`` does.

        With ``coco`` also ``regions.coco.json``, the boxes of all regions; without ``page`` no page.
        """
        write_tables(folder, self.rows)
        if coco:
            write_coco(folder, self.rows)
        if page:
            gallery = Gallery(folder)
            for item in self._items:
                gallery.add(item, Planes(item.anomaly_map, item.pred_mask, box=item.box), preview=item.preview)
            write_page(gallery, self.skipped)


def to_predictions(
    images: Sequence[ReadImage],
    transform: Any,
    outputs: InferenceBatch,
    post_processor: object,
    classes: Tensor,
    evidence: Callable[[str], str],
    regions: Regions | None = None,
) -> list[Prediction]:
    """Predictions of a batch of B images from post-processed outputs and the class of each image (B,)."""
    rows = describe([image.source for image in images], outputs, post_processor, classes, evidence)
    maps = outputs.anomaly_map.float().cpu()
    masks = [None] * len(rows) if outputs.pred_mask is None else list(outputs.pred_mask.cpu())
    sizes = [image.original_size for image in images]
    boxes = {size: image_box(transform, size) for size in {*sizes}}
    found = locate(outputs, sizes, transform, regions)
    return [
        Prediction(
            **{**vars(row), "original_size": size, "regions": parts},
            box=boxes[size],
            anomaly_map=anomaly_map,
            pred_mask=mask,
            preview=image.preview,
        )
        for image, row, size, parts, anomaly_map, mask in zip(images, rows, sizes, found, maps, masks, strict=True)
    ]


def by_size(images: Sequence[ReadImage]) -> Iterator[list[ReadImage]]:
    """Images whose pixels are of one size, together."""
    sizes = dict.fromkeys(image.pixels.shape for image in images)
    yield from ([image for image in images if image.pixels.shape == size] for size in sizes)


def in_batches(images: Images, class_name: str | Sequence[str] | None, batch_size: int) -> Iterator[list[ListedImage]]:
    """List images as ``predict`` takes them, in batches, with its errors."""
    if batch_size < 1:
        msg = f"Expected batch_size to be at least 1, but got {batch_size}."
        raise ValueError(msg)
    listed = _listed(images, class_name)
    return iter(lambda: list(islice(listed, batch_size)), [])


def _listed(images: Images, class_name: str | Sequence[str] | None) -> Iterator[ListedImage]:
    if class_name is not None and not all([class_name] if isinstance(class_name, str) else class_name):
        msg = "Expected class_name to be a string that is not blank, but got ''. Use 'object' where it is unknown."
        raise ValueError(msg)
    if isinstance(images, str | Path):
        found = list_images(images)
        if class_name is None:
            return iter(found)
        if any(image.class_name for image in found):
            msg = f"Expected class names from {images} or from class_name, but got both. Leave out class_name."
            raise ValueError(msg)
        images = [image.path for image in found]
    elif isinstance(images, Image.Image) or (isinstance(images, np.ndarray | Tensor) and images.ndim < 4):
        images = [images]
    elif not isinstance(images, Iterable):
        msg = f"Expected images to be an image or several, but got {type(images).__name__}."
        raise TypeError(msg)
    if class_name is None or isinstance(class_name, str):
        names: Iterable[str | None] = repeat(class_name)
    else:
        images, names = list(images), list(class_name)
        if len(images) != len(names):
            msg = f"Expected class_name to be one name or one for each of {len(images)} images, but got {len(names)}."
            raise ValueError(msg)
    return (
        ListedImage(str(image), name, None, position)
        if isinstance(image, str | Path)
        else ListedImage("", name, image, position)
        for position, (image, name) in enumerate(zip(images, names, strict=False))
    )


def _stack(planes: list[Tensor]) -> Tensor:
    return torch.stack(planes) if planes else torch.empty(0, 0, 0)
