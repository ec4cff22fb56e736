# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Prediction from Python: images of any kind in, scores and maps out, without a trainer."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice, repeat
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import torch
import torch.nn.functional as F
from anomalib.data import InferenceBatch
from PIL import Image
from torch import Tensor

from anomalib_clipad.data.image_files import ImageLike, Unreadable, as_tensor, read_image
from anomalib_clipad.data.image_list import list_images
from anomalib_clipad.prediction.table import PredictionRow, describe, describe_unreadable, write_tables

logger = logging.getLogger(__name__)

Images = ImageLike | Iterable[ImageLike]
"""One image or many; the path of a folder or of a CSV file stands for the images in it."""

_THREADS = 8
"""Images read at once while the model scores the batch before; decoding lets other threads run."""


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Attributes:
        position: Place of the image among those given, from 0.
        row: Path, class name, score, label and threshold, as in the tables.
        original_size: Height and width of the image as it was given.
        anomaly_map: (H, W) in [0, 1], at the model's size or at the original one; on the CPU.
        mask: (H, W), true where anomalous; ``None`` where the post-processor decides nothing.
    """

    position: int
    row: PredictionRow
    original_size: tuple[int, int]
    anomaly_map: Tensor = field(repr=False)
    mask: Tensor | None = field(repr=False)

    @property
    def score(self) -> float:
        """Image score in [0, 1]."""
        return float("nan") if self.row.score is None else self.row.score

    @property
    def is_anomalous(self) -> bool | None:
        """Whether the score is above the threshold; ``None`` where the post-processor decides nothing."""
        return None if self.row.label is None else self.row.label == "anomalous"

    def at_original_size(self) -> "Prediction":
        """Return the same with map and mask resized to the image as it was given."""
        mask = None if self.mask is None else _resize(self.mask.float(), self.original_size) > 0.5
        return replace(self, anomaly_map=_resize(self.anomaly_map, self.original_size), mask=mask)


class SkippedImage(NamedTuple):
    """A file that could not be read: its place among those given, and its row in the tables."""

    position: int
    row: PredictionRow


class Predictions(Sequence[Prediction]):
    """Predictions of M images in the order given, without those that could not be read.

    Args:
        items: The predictions.
        skipped: The files that could not be read.
    """

    def __init__(self, items: Iterable[Prediction], skipped: Iterable[SkippedImage] = ()) -> None:
        self._items = list(items)
        self.skipped = list(skipped)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...

    @overload
    def __getitem__(self, index: slice) -> "Predictions": ...

    def __getitem__(self, index: int | slice) -> "Prediction | Predictions":
        return Predictions(self._items[index]) if isinstance(index, slice) else self._items[index]

    def __repr__(self) -> str:
        return f"Predictions({len(self)} images, {len(self.skipped)} skipped)"

    @property
    def scores(self) -> Tensor:
        """Image scores (M,) in [0, 1]."""
        return torch.tensor([item.score for item in self._items])

    @property
    def labels(self) -> Tensor | None:
        """Whether each image is anomalous (M,); ``None`` where the post-processor decides nothing."""
        labels = [item.is_anomalous for item in self._items]
        return None if None in labels else torch.tensor(labels, dtype=torch.bool)

    @property
    def anomaly_maps(self) -> Tensor:
        """Anomaly maps (M, H, W) in [0, 1], at the model's size."""
        return _stack([item.anomaly_map for item in self._items])

    @property
    def masks(self) -> Tensor | None:
        """Masks (M, H, W), true where anomalous; ``None`` where the post-processor decides nothing."""
        masks = [item.mask for item in self._items if item.mask is not None]
        return None if len(masks) < len(self) else _stack(masks)

    @property
    def rows(self) -> list[PredictionRow]:
        """Rows of the tables, skipped files among them, in the order given."""
        scored = {item.position: item.row for item in self._items}
        rows = scored | {item.position: item.row for item in self.skipped}
        return [rows[position] for position in sorted(rows)]

    def save(self, folder: str | Path) -> None:
        """Write ``predictions.csv`` and ``predictions.jsonl``, as ``anomalib predict`` does."""
        write_tables(folder, self.rows)


class ReadImage(NamedTuple):
    """An image on its way to the model: transformed pixels (3, H, W), and where it comes from."""

    position: int
    path: str
    class_name: str
    original_size: tuple[int, int]
    pixels: Tensor


class ImageReader:
    """Reads images in batches, the next one while one is scored. Iterate once; no batch is empty.

    Args:
        images: One image or many.
        class_name: What the images show: one name for all, or one for each.
        default: What they show where neither ``class_name`` nor a CSV file says so.
        transform: The model's transform.
        batch_size: Images in a batch.

    Attributes:
        skipped: Files that could not be read so far.

    Raises:
        FileNotFoundError: If there is no such folder or CSV file.
        OSError: At the end, if none of the files could be read.
        TypeError: If an image is none.
        ValueError: If an image in memory or another argument is not valid.
    """

    def __init__(
        self,
        images: Images,
        class_name: str | Sequence[str] | None,
        default: str,
        transform: Callable[[Tensor], Tensor] | None,
        batch_size: int,
    ) -> None:
        if batch_size < 1:
            msg = f"Expected batch_size to be at least 1, but got {batch_size}."
            raise ValueError(msg)
        self._sources = _pair(images, class_name, default)
        self._transform = transform
        self._batch_size = batch_size
        self.skipped: list[SkippedImage] = []

    def __iter__(self) -> Iterator[list[ReadImage]]:
        n_read = 0
        for items in self._read_ahead():
            batch = [item for item in items if isinstance(item, ReadImage)]
            for item in items:
                if isinstance(item, SkippedImage):
                    logger.warning("Skipped %s: %s", item.row.path, item.row.error)
                    self.skipped.append(item)
            n_read += len(batch)
            if batch:
                yield batch
        if self.skipped and not n_read:
            first = self.skipped[0].row
            msg = f"Expected images that can be read, but got none. {first.path}: {first.error}"
            raise OSError(msg)

    def _read_ahead(self) -> Iterator[list[ReadImage | SkippedImage]]:
        """Read one batch more than was asked for."""
        sources = enumerate(self._sources)
        ahead = deque[list[Future[ReadImage | SkippedImage]]]()
        with ThreadPoolExecutor(_THREADS) as pool:
            while chunk := list(islice(sources, self._batch_size)):
                ahead.append([pool.submit(_read, position, *source, self._transform) for position, source in chunk])
                if len(ahead) > 1:
                    yield [future.result() for future in ahead.popleft()]
            if ahead:
                yield [future.result() for future in ahead.popleft()]


def to_predictions(
    batch: Sequence[ReadImage], outputs: InferenceBatch, post_processor: object, class_index: Tensor
) -> list[Prediction]:
    """Predictions of a batch of B images.

    Args:
        batch: The images.
        outputs: Post-processed scores (B,), maps (B, H, W) and, where decided, labels and masks.
        post_processor: What made them.
        class_index: Class of each image (B,).
    """
    rows = describe(
        [image.path for image in batch],
        [image.class_name for image in batch],
        outputs.pred_score,
        outputs.pred_label,
        post_processor,
        class_index.tolist(),
    )
    maps = outputs.anomaly_map.float().cpu()
    masks = [None] * len(batch) if outputs.pred_mask is None else list(outputs.pred_mask.cpu())
    return [
        Prediction(image.position, row, image.original_size, anomaly_map, mask)
        for image, row, anomaly_map, mask in zip(batch, rows, maps, masks, strict=True)
    ]


def _pair(images: Images, class_name: str | Sequence[str] | None, default: str) -> Iterable[tuple[ImageLike, str]]:
    """Pair each image with its class name."""
    if isinstance(images, str | Path):
        listed = list_images(images)
        if class_name is not None and any(image.class_name for image in listed):
            msg = f"Expected class names from {images} or from class_name, but got both. Leave out class_name."
            raise ValueError(msg)
        if class_name is None:
            return [(image.path, image.class_name or default) for image in listed]
        images = [image.path for image in listed]
    elif isinstance(images, Image.Image) or (isinstance(images, np.ndarray | Tensor) and images.ndim < 4):
        images = [images]
    elif not isinstance(images, Iterable):
        msg = f"Expected images to be an image or several, but got {type(images).__name__}."
        raise TypeError(msg)
    if class_name is None or isinstance(class_name, str):
        return zip(images, repeat(class_name or default))
    images, names = list(images), list(class_name)
    if len(images) != len(names):
        msg = f"Expected class_name to be one name or one for each of {len(images)} images, but got {len(names)}."
        raise ValueError(msg)
    return list(zip(images, names, strict=True))


def _read(
    position: int, image: ImageLike, class_name: str, transform: Callable[[Tensor], Tensor] | None
) -> ReadImage | SkippedImage:
    """Read and transform one image."""
    if isinstance(image, str | Path):
        path, read = str(image), read_image(image)
        if isinstance(read, Unreadable):
            return SkippedImage(position, describe_unreadable(read, class_name))
    else:
        try:
            path, read = "", as_tensor(image).cpu()
        except (TypeError, ValueError) as error:
            msg = f"Image {position}: {error}"
            raise type(error)(msg) from error
    size = (read.shape[-2], read.shape[-1])
    return ReadImage(position, path, class_name, size, transform(read) if transform else read)


def _stack(planes: list[Tensor]) -> Tensor:
    return torch.stack(planes) if planes else torch.empty(0, 0, 0)


def _resize(plane: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(plane[None, None], size, mode="bilinear", align_corners=False)[0, 0]
