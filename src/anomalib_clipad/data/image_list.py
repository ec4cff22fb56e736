# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Images to predict on: a folder, a file, or a CSV of paths and class names. Broken files are listed, not fatal."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from anomalib.data import AnomalibDataModule
from anomalib.data.utils.image import is_image_file
from lightning.pytorch.utilities.types import EVAL_DATALOADERS

from anomalib_clipad.data.categories import UNNAMED
from anomalib_clipad.data.image_loader import BATCH_SIZE, THREADS, ListedImage, engine_transform, load_images
from anomalib_clipad.host.prediction import find_images

_PATH, _CLASS_NAME, _LABEL = "path", "class_name", "label"
_LABELS = {"good": False, "bad": True}


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
    rows = _read_rows(path)
    folder = Path(path).parent if root is None else Path(root)
    images = [_listed(cells, folder, where)._replace(position=position) for position, (where, cells) in enumerate(rows)]
    check_list(images, path)
    return images


def check_list(images: Sequence[ListedImage], path: str | Path) -> None:
    """Refuse the images of a list that has some twice, or names the class of some only: ValueError."""
    repeated = [path for path, times in Counter(image.path for image in images).items() if times > 1]
    if repeated:
        msg = f"Expected {path} to list each image once, but got {len(repeated)} more often: {repeated[0]}, …"
        raise ValueError(msg)
    if len({image.class_name is None for image in images}) == 2:
        unnamed = next(image.path for image in images if image.class_name is None)
        msg = f"Expected {path} to name the class of all images or of none, but got none for {unnamed}."
        raise ValueError(msg)


def read_labels(path: str | Path) -> dict[str, bool]:
    """Read whether each image of a CSV file is bad, from its column ``label`` of the words good and bad.

    Such a file is what the page of a run saves. Paths are those of :func:`read_list`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is empty or a line is not valid; the message names the line.
    """
    labels = {}
    for where, cells in _read_rows(path):
        label = cells.get(_LABEL, "").lower()
        if label not in _LABELS:
            msg = (
                f"Expected a label, good or bad, in {where}, but got {label!r}. Write 'path,class_name,label' in the "
                "first line, and mark images by hand or on the page of a run: what a model said is no label."
            )
            raise ValueError(msg)
        labels[_listed(cells, Path(path).parent, where).path] = _LABELS[label]
    return labels


def _read_rows(path: str | Path) -> list[tuple[str, dict[str, str]]]:
    """Cells of each line by column, and where the line stands."""
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
    if not lines:
        msg = f"Expected {file_path} to list images, but it is empty. Write a line 'path,class_name' for each."
        raise ValueError(msg)
    return [(f"{file_path}:{line}", dict(zip(columns, cells, strict=False))) for line, cells in lines]


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
