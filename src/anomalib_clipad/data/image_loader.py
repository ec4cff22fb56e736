# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Images of a user's own on their way to the model, read ahead in threads; broken files are listed, not fatal."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from anomalib.data import ImageBatch, ImageItem
from anomalib.data.transforms.utils import extract_transforms_by_type
from anomalib.pre_processing import PreProcessor
from lightning.fabric.utilities.data import suggested_max_num_workers
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import Resize, Transform

from anomalib_clipad.data.fitting import UnfitImageError, sizes_differ
from anomalib_clipad.data.image_files import Unreadable, as_tensor, read_image

BATCH_SIZE = 8
"""Images in a batch, unless told otherwise."""

THREADS = 8
"""Images read at once, unless told otherwise."""

_PREVIEW_SIDE = 256


class ListedImage(NamedTuple):
    """An image to predict on.

    Attributes:
        path: Path of the file; empty for an image in memory.
        class_name: What it shows, where that is said.
        image: The image, where it is in memory.
        position: Its place among the images given, from 0.
    """

    path: str
    class_name: str | None = None
    image: Any = None
    position: int = 0


class ReadImage(NamedTuple):
    """A listed image that was read: its own height and width, and its transformed pixels (3, H, W).

    Of an image in memory, and where they are asked for, there is a small ``preview`` (3, h, w) of uint8.
    """

    source: ListedImage
    original_size: tuple[int, int]
    pixels: Tensor
    preview: Tensor | None = None


class SkippedImage(NamedTuple):
    """A listed image that could not be read, and why."""

    source: ListedImage
    reason: str


def read_ahead(
    batches: Iterable[Sequence[ListedImage]],
    transform: Callable[[Tensor], Tensor] | None,
    threads: int = THREADS,
    *,
    previews: bool = False,
) -> Iterator[tuple[list[ReadImage], list[SkippedImage]]]:
    """Read batches of images in threads and transform each, while the batch before them is in use.

    Raises:
        OSError: If a Pillow image in memory cannot be decoded.
        TypeError: If something in memory is not an image.
        ValueError: If an image in memory is not valid.
    """
    ahead = deque[list[Future[ReadImage | SkippedImage]]]()

    def first() -> tuple[list[ReadImage], list[SkippedImage]]:
        images = [future.result() for future in ahead.popleft()]
        skipped = [image for image in images if isinstance(image, SkippedImage)]
        return [image for image in images if isinstance(image, ReadImage)], skipped

    with ThreadPoolExecutor(threads) as pool:
        for batch in batches:
            ahead.append([pool.submit(_read, image, transform, previews) for image in batch])
            if len(ahead) > 1:
                yield first()
        if ahead:
            yield first()


def _read(
    source: ListedImage, transform: Callable[[Tensor], Tensor] | None, previews: bool
) -> ReadImage | SkippedImage:
    try:
        image = read_image(source.path) if source.path else as_tensor(source.image).cpu()
    except (OSError, TypeError, ValueError) as error:
        msg = f"Image {source.position}: {error}"
        raise type(error)(msg) from error
    if isinstance(image, Unreadable):
        return SkippedImage(source, image.reason)
    try:
        pixels = transform(image) if transform else image
    except UnfitImageError as error:
        return SkippedImage(source, str(error))
    preview = small(image) if previews or not source.path else None
    return ReadImage(source, (image.shape[-2], image.shape[-1]), pixels, preview)


def small(image: Tensor) -> Tensor:
    """An image (3, H, W) in [0, 1] as uint8, of at most about 256 pixels a side."""
    step = max(1, round(max(image.shape[-2:]) / _PREVIEW_SIDE))
    steps = tuple(min(step, side) for side in image.shape[-2:])
    reduced = image if step == 1 else functional.avg_pool2d(image, steps)
    return (reduced * 255).round().to(torch.uint8)


class ImageListDataset(Dataset):
    """Listed images for a :class:`ReadableLoader`; ``skipped`` are those that could not be read so far, by path.

    With ``keep_previews`` there are small ``previews`` (3, h, w) of those that were read, by path, to be taken away.
    """

    keep_previews = False

    def __init__(self, images: Sequence[ListedImage], transform: Transform | None = None) -> None:
        self.images = list(images)
        self.transform = transform
        self.skipped: dict[str, SkippedImage] = {}
        self.previews: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.images)


class ReadableLoader(DataLoader):
    """Loads an :class:`ImageListDataset` in threads; files that cannot be read are listed in it and left out."""

    dataset: ImageListDataset

    def __iter__(self) -> Iterator[ImageBatch]:  # type: ignore[override]
        batches = ([self.dataset.images[index] for index in batch] for batch in self.batch_sampler or ())
        dataset, threads = self.dataset, max(1, self.num_workers)
        for read, skipped in read_ahead(batches, dataset.transform, threads, previews=dataset.keep_previews):
            dataset.skipped |= {image.source.path: image for image in skipped}
            dataset.previews |= {image.source.path: image.preview for image in read if image.preview is not None}
            if read:
                yield ImageBatch.collate(
                    [ImageItem(image=image.pixels, image_path=image.source.path) for image in read]
                )


def load_images(
    images: Sequence[ListedImage], transform: Transform | None, batch_size: int = BATCH_SIZE, num_workers: int = THREADS
) -> ReadableLoader:
    """Make a loader that reads in ``num_workers`` threads.

    Of the model's transform the resizing is done before collation, as in anomalib's datamodules. Where sizes may differ
    each image is a batch of its own.
    """
    resizes = extract_transforms_by_type(transform, Resize)
    if resizes and sizes_differ(resizes[0]):
        batch_size = 1
    dataset = ImageListDataset(images, resizes[0] if resizes else None)
    # Lightning and PyTorch warn of other numbers.
    return ReadableLoader(dataset, batch_size=batch_size, num_workers=min(num_workers, suggested_max_num_workers(1)))


def engine_transform(pre_processor: nn.Module | None) -> Transform | None:
    """Transform that the engine applies to images, antialiasing included; ``PreProcessor.forward`` leaves that out."""
    return pre_processor.transform if isinstance(pre_processor, PreProcessor) else None


def pre_process(pre_processor: nn.Module | None, image: Tensor) -> Tensor:
    """Transform images (B, 3, H, W) as the engine does."""
    transform = engine_transform(pre_processor)
    return image if transform is None else transform(image)
