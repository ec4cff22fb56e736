# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Images to predict on: a folder, a file, or a CSV of paths and class names. Broken files are listed, not fatal."""

import csv
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from anomalib.data import AnomalibDataModule, ImageBatch, ImageItem
from anomalib.data.transforms.utils import extract_transforms_by_type
from anomalib.data.utils.image import is_image_file
from anomalib.pre_processing import PreProcessor
from lightning.fabric.utilities.data import suggested_max_num_workers
from lightning.pytorch.utilities.types import EVAL_DATALOADERS
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import Resize, Transform

from anomalib_clipad.data.categories import UNNAMED
from anomalib_clipad.data.image_files import Unreadable, as_tensor, read_image
from anomalib_clipad.host.prediction import find_images

BATCH_SIZE = 8
"""Images in a batch, unless told otherwise."""

THREADS = 8
"""Images read at once, unless told otherwise."""

_PATH, _CLASS_NAME = "path", "class_name"


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


def list_images(path: str | Path, root: str | Path | None = None) -> list[ListedImage]:
    """List the images of a folder and the folders in it, of a CSV file (:func:`read_list`), or a single one.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If there are no images, or the CSV file is not valid.
    """
    if Path(path).suffix.lower() == ".csv":
        return read_list(path, root)
    return [ListedImage(str(file), position=position) for position, file in enumerate(find_images(path))]


def read_list(path: str | Path, root: str | Path | None = None) -> list[ListedImage]:
    """Read a CSV file of paths and class names, one image a line.

    With a first line that names a column ``path``, other columns than that and ``class_name`` are ignored. Without,
    the first column holds paths and the second, if there is one, class names.

    Args:
        path: The file; UTF-8, with commas.
        root: Folder that relative paths start from; ``None`` for the file's own.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is empty or a line is not valid; the message names the line.
    """
    file_path = Path(path)
    if not file_path.is_file():
        msg = f"Expected a CSV file of images, but found none at {file_path.absolute()}."
        raise FileNotFoundError(msg)
    with file_path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
        except (csv.Error, UnicodeDecodeError) as error:
            msg = f"Expected {file_path} to be a CSV file in UTF-8, but reading it failed: {error}."
            raise ValueError(msg) from error
    columns = [cell.lower() for cell in lines[0][1]] if lines else []
    if _PATH in columns:
        del lines[0]
    elif lines and (len(columns) > 2 or not is_image_file(columns[0])):
        msg = f"Expected the first line of {file_path} to be 'path,class_name' or an image, but got {lines[0][1]}."
        raise ValueError(msg)
    else:
        columns = [_PATH, _CLASS_NAME]
    folder = file_path.parent if root is None else Path(root)
    images = [
        _listed(dict(zip(columns, cells, strict=False)), folder, f"{file_path}:{line}")._replace(position=position)
        for position, (line, cells) in enumerate(lines)
    ]
    if not images:
        msg = f"Expected {file_path} to list images, but it is empty. Write a line 'path,class_name' for each."
        raise ValueError(msg)
    repeated = [path for path, times in Counter(image.path for image in images).items() if times > 1]
    if repeated:
        msg = f"Expected {file_path} to list each image once, but got {len(repeated)} more often: {repeated[0]}, …"
        raise ValueError(msg)
    if len({image.class_name is None for image in images}) == 2:
        unnamed = next(image.path for image in images if image.class_name is None)
        msg = f"Expected {file_path} to name the class of all images or of none, but got none for {unnamed}."
        raise ValueError(msg)
    return images


class ReadImage(NamedTuple):
    """A listed image that was read: its own height and width, and its transformed pixels (3, H, W)."""

    source: ListedImage
    original_size: tuple[int, int]
    pixels: Tensor


class SkippedImage(NamedTuple):
    """A listed image that could not be read, and why."""

    source: ListedImage
    reason: str


def read_ahead(
    batches: Iterable[Sequence[ListedImage]], transform: Callable[[Tensor], Tensor] | None, threads: int = THREADS
) -> Iterator[tuple[list[ReadImage], list[SkippedImage]]]:
    """Read batches of images in threads, each while the one before it is in use; decoding lets other threads run.

    Args:
        batches: The images.
        transform: Applied to each.
        threads: Images read at once.

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
            ahead.append([pool.submit(_read, image, transform) for image in batch])
            if len(ahead) > 1:
                yield first()
        if ahead:
            yield first()


def _read(source: ListedImage, transform: Callable[[Tensor], Tensor] | None) -> ReadImage | SkippedImage:
    try:
        image = read_image(source.path) if source.path else as_tensor(source.image).cpu()
    except (OSError, TypeError, ValueError) as error:
        msg = f"Image {source.position}: {error}"
        raise type(error)(msg) from error
    if isinstance(image, Unreadable):
        return SkippedImage(source, image.reason)
    return ReadImage(source, (image.shape[-2], image.shape[-1]), transform(image) if transform else image)


class ImageListDataset(Dataset):
    """Listed images, for a :class:`ReadableLoader`.

    Args:
        images: The images.
        transform: Applied to each, so that they can be collated.

    Attributes:
        skipped: Files that could not be read so far, by path.
    """

    def __init__(self, images: Sequence[ListedImage], transform: Transform | None = None) -> None:
        self.images = list(images)
        self.transform = transform
        self.skipped: dict[str, SkippedImage] = {}

    def __len__(self) -> int:
        return len(self.images)


class ReadableLoader(DataLoader):
    """Loads an :class:`ImageListDataset` in threads; files that cannot be read are listed in it and left out."""

    dataset: ImageListDataset

    def __iter__(self) -> Iterator[ImageBatch]:  # type: ignore[override]
        batches = ([self.dataset.images[index] for index in batch] for batch in self.batch_sampler or ())
        for read, skipped in read_ahead(batches, self.dataset.transform, max(1, self.num_workers)):
            self.dataset.skipped |= {image.source.path: image for image in skipped}
            if read:
                items = [ImageItem(image=image.pixels, image_path=image.source.path) for image in read]
                yield ImageBatch.collate(items)


def load_images(
    images: Sequence[ListedImage], transform: Transform | None, batch_size: int = BATCH_SIZE, num_workers: int = THREADS
) -> ReadableLoader:
    """Make a loader of images.

    Args:
        images: The images.
        transform: The model's transform. Its resizing is done before collation, as in anomalib's datamodules.
        batch_size: Images in a batch.
        num_workers: Threads that read images; there are never more than processors.
    """
    resizes = extract_transforms_by_type(transform, Resize)
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


def picture_places(paths: Iterable[str | Path]) -> dict[str, Path]:
    """Place of each image's picture in the results: its path from the folder that holds all images, with its name.

    Example:
        >>> {path: place.as_posix() for path, place in picture_places(["/a/b/x/1.png", "/a/b/y/1.png"]).items()}
        {'/a/b/x/1.png': 'b/x/1.png', '/a/b/y/1.png': 'b/y/1.png'}
    """
    absolute = {str(path): Path(os.path.abspath(path)) for path in paths}  # noqa: PTH100 - resolves '..', not links
    if len({path.anchor for path in absolute.values()}) > 1:  # several drives
        return {path: Path(place.drive.rstrip(":"), *place.parts[1:]) for path, place in absolute.items()}
    start = Path(os.path.commonpath([place.parent for place in absolute.values()])).parent if absolute else Path()
    return {path: place.relative_to(start) for path, place in absolute.items()}


class ImageList(AnomalibDataModule):
    """Images without labels for ``anomalib predict``, of one class or of many.

    ``anomalib predict --model anomalib_clipad.SDP --data anomalib_clipad.ImageList --data.path images.csv``

    Args:
        path: CSV file of paths and class names (:func:`read_list`), folder or image.
        root: Folder that the CSV file's relative paths start from; ``None`` for the file's own.
        batch_size: Images in a batch.
        num_workers: Threads that read images.

    Raises:
        FileNotFoundError: If there is no such file or folder. Files that the list names may be missing.
        ValueError: If there are no images, or the list or another argument is not valid.
    """

    def __init__(
        self, path: str | Path, root: str | Path | None = None, batch_size: int = BATCH_SIZE, num_workers: int = THREADS
    ) -> None:
        if batch_size < 1 or num_workers < 0:
            msg = (
                f"Expected batch_size to be at least 1 and num_workers at least 0, but got {batch_size} and "
                f"{num_workers}."
            )
            raise ValueError(msg)
        super().__init__(train_batch_size=1, eval_batch_size=batch_size, num_workers=num_workers)
        self.images = list_images(path, root)
        self._class_names = {image.path: image.class_name for image in self.images if image.class_name is not None}
        self.categories = tuple(dict.fromkeys(self._class_names.values()))

    def category_of(self, image_path: str | Path) -> str:
        """Class name of an image, "object" where the list has none."""
        return self._class_names.get(str(image_path), UNNAMED)

    def setup(self, stage: str | None = None) -> None:
        """Check that the list and the model do not contradict each other.

        Raises:
            ValueError: If both name classes.
        """
        del stage
        named = getattr(self._model, "class_name", None)
        if named is not None and self.categories:
            msg = (
                f"Expected class names from the list or from the model, but got {', '.join(self.categories[:3])}, … "
                f"and {named!r}. Leave out class_name (--model.class_name)."
            )
            raise ValueError(msg)

    def predict_dataloader(self) -> EVAL_DATALOADERS:
        """Batches of the images that can be read."""
        transform = engine_transform(getattr(self._model, "pre_processor", None))
        return load_images(self.images, transform, self.eval_batch_size, self.num_workers)

    def val_dataloader(self) -> EVAL_DATALOADERS:
        """No validation: there are no labels."""
        return []

    def train_dataloader(self) -> NoReturn:
        """There are no labels.

        Raises:
            RuntimeError: Always.
        """
        msg = "Expected ImageList to be predicted on, but it is trained or tested on, for which it has no labels."
        raise RuntimeError(msg)

    test_dataloader = train_dataloader

    @property
    def _model(self) -> Any:
        """The model of the run; None outside of one."""
        return getattr(self.trainer, "lightning_module", None)

    def _setup(self, _stage: str | None = None) -> None:
        """Nothing to prepare."""


def _listed(cells: dict[str, str], folder: Path, where: str) -> ListedImage:
    """Image of one line; absolute paths stay what they are."""
    if not cells.get(_PATH):
        msg = f"Expected a path in {where}, but got none. Write 'path,class_name'."
        raise ValueError(msg)
    return ListedImage(str(folder / cells[_PATH]), cells.get(_CLASS_NAME) or None)
