# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Where in an image defects are: connected parts of the mask as boxes, and a file of them that labelling tools read."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from anomalib.data import ImageBatch, InferenceBatch
from scipy import ndimage
from torch import Tensor

from anomalib_clipad.base.files import atomic_write
from anomalib_clipad.base.text import printable
from anomalib_clipad.host.command_line import plain_errors
from anomalib_clipad.prediction.geometry import Box, image_box, pixels_within, to_image

logger = logging.getLogger(__name__)

COCO_FILE = "regions.coco.json"

_NEIGHBOURS = np.ones((3, 3), dtype=bool)
"""Pixels that touch at a side or a corner are connected."""


@dataclass(frozen=True)
class Region:
    """A connected part of the mask, in pixels of the image as it was given.

    Attributes:
        box: Left, top, width and height, as in COCO.
        area: Number of pixels.
        peak: Highest value of the anomaly map in it, in [0, 1].
        mean: Mean of the anomaly map over it, in [0, 1].
    """

    box: tuple[int, int, int, int]
    area: int
    peak: float
    mean: float


@dataclass(frozen=True)
class Regions:
    """Which regions are reported, and where.

    Args:
        minimum_area: Pixels of the image as it was given; smaller regions are left out.
        coco: Whether ``regions.coco.json`` is written beside the tables of a run.
        boxes: Whether their boxes are drawn into the pictures.

    Raises:
        ValueError: If an argument is not valid.
    """

    minimum_area: int = 1
    coco: bool = False
    boxes: bool = False

    @plain_errors()
    def __post_init__(self) -> None:
        if self.minimum_area < 1:
            msg = f"Expected regions.minimum_area to be at least 1 pixel, but got {self.minimum_area}."
            raise ValueError(msg)

    @classmethod
    def of(cls, given: "Regions | Mapping[str, Any] | bool") -> "Regions | None":
        """Options of what a user gave: whether to report regions, or arguments by name."""
        if isinstance(given, bool):
            return cls() if given else None
        return given if isinstance(given, Regions) else cls(**given)


def find_regions(
    mask: Tensor, anomaly_map: Tensor, box: Box, size: tuple[int, int], minimum_area: int = 1
) -> list[Region]:
    """Find the regions of a mask (h, w), the largest first, in pixels of the image (H, W) that lies in a box of it.

    They are the connected parts of the mask at the size of the image. Only pixels that the mask reaches are resampled.

    Example:
        >>> import torch
        >>> mask = torch.zeros(8, 8)
        >>> mask[1, 1:3] = 1
        >>> find_regions(mask, mask * 0.9, (0.0, 0.0, 8.0, 8.0), (8, 8))
        [Region(box=(1, 1, 2, 1), area=2, peak=0.9, mean=0.9)]
    """
    reached = [mask.any(dim=axis).nonzero().flatten().tolist() for axis in (1, 0)]
    if not reached[0]:
        return []
    left, top, right, bottom = box
    rows, columns = (
        pixels_within(side, low, high, seen[0] - 0.5, seen[-1] + 1.5)
        for side, low, high, seen in ((size[0], top, bottom, reached[0]), (size[1], left, right, reached[1]))
    )
    parts = (to_image(plane.float(), box, size, (rows, columns)).numpy() for plane in (mask, anomaly_map))
    anomalous, values = next(parts) > 0.5, next(parts)
    if not anomalous.any():  # the mask is finer than the image, which misses it
        return []
    labels, count = ndimage.label(anomalous, _NEIGHBOURS)
    numbers = range(1, count + 1)
    found = zip(
        ndimage.find_objects(labels),
        ndimage.sum_labels(anomalous, labels, numbers),
        ndimage.maximum(values, labels, numbers),
        ndimage.mean(values, labels, numbers),
        strict=True,
    )
    regions = [
        Region(
            (columns.start + x.start, rows.start + y.start, x.stop - x.start, y.stop - y.start),
            int(area),
            round(float(peak), 6),
            round(float(mean), 6),
        )
        for (y, x), area, peak, mean in found
        if area >= minimum_area
    ]
    return sorted(regions, key=lambda region: -region.area)


def locate(
    predictions: ImageBatch | InferenceBatch,
    sizes: Sequence[tuple[int, int] | None],
    transform: Any,
    options: Regions | None,
) -> list[list[Region] | None]:
    """Find the regions of a batch of post-processed images of some heights and widths.

    ``None`` for an image where they are not wanted, there is no mask, or it is not known where the image lies in it.
    """
    if options is None or predictions.pred_mask is None:
        return [None] * len(sizes)
    boxes = {size: None if size is None else image_box(transform, size) for size in {*sizes}}
    planes = zip(predictions.pred_mask.cpu(), predictions.anomaly_map.cpu(), sizes, strict=True)
    return [
        None
        if size is None or (box := boxes[size]) is None
        else find_regions(mask, anomaly_map, box, size, options.minimum_area)
        for mask, anomaly_map, size in planes
    ]


class Located(Protocol):
    """An image with its path, height and width, and regions, as the tables' rows have them."""

    @property
    def path(self) -> str:
        """Path of the file."""

    @property
    def original_size(self) -> tuple[int, int] | None:
        """Height and width."""

    @property
    def regions(self) -> Sequence[Region] | None:
        """Regions."""


def write_coco(folder: str | Path, images: Iterable[Located]) -> Path:
    """Write the regions of images as a COCO file of boxes, in the order given; return its path.

    Images in which nothing is anomalous are listed too. Those whose regions are not known are left out, with a warning
    unless they could not be read.
    """
    images = list(images)
    unknown = sum(image.original_size is not None and image.regions is None for image in images)
    if unknown:
        logger.warning(
            "%s leaves out %d images whose regions are not known. Regions need --model.regions true, masks of the "
            "post-processor, and a pre-processor that only resizes, crops or pads.",
            COCO_FILE,
            unknown,
        )
    content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    content["categories"].append({"id": 1, "name": "anomaly"})
    for image in images:
        if image.original_size is None or image.regions is None:
            continue
        height, width = image.original_size
        number = len(content["images"]) + 1
        content["images"].append({"id": number, "file_name": printable(image.path), "width": width, "height": height})
        for region in image.regions:
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": list(region.box),
                    "area": region.area,
                    "iscrowd": 0,
                    "segmentation": [],
                    "score": region.peak,
                }
            )
    path = Path(folder) / COCO_FILE
    with atomic_write(path) as draft:
        draft.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path
