# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Clear errors for images that anomalib reads wrongly, or fails on without naming the file."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image, UnidentifiedImageError

from anomalib_clipad.base.text import list_some
from anomalib_clipad.data.image_files import DEEP_MODES


def check_depth(paths: Iterable[str | Path]) -> None:
    """Refuse images of more than 8 bits a channel, by their headers alone.

    anomalib converts them to RGB with Pillow, which cuts all values above 255: most of such an image turns white.

    Raises:
        ValueError: If there are any; the message names the first ones.
    """
    deep = [path for path in paths if _mode(path) in DEEP_MODES]
    if deep:
        msg = (
            f"Expected images of 8 bits a channel, but got {len(deep)} of more: {list_some(deep)}. "
            "Scale them to 8 bits first, for example with numpy: (image // 257).astype('uint8') for 16 bits."
        )
        raise ValueError(msg)


def find_unreadable(paths: Iterable[str | Path]) -> list[str | Path]:
    """Decode each image and return the paths of those that fail: truncated, empty, or no images at all."""
    return [path for path in paths if not _is_readable(path)]


class ImageCheck(Callback):
    """Checks the images of a run: their depth before it starts, and which cannot be read if reading one has failed."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the validation images."""
        del pl_module
        check_depth(_image_paths(trainer.val_dataloaders))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the test images."""
        del pl_module
        check_depth(_image_paths(trainer.test_dataloaders))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the images to predict on."""
        del pl_module
        check_depth(_image_paths(trainer.predict_dataloaders))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Name the unreadable files.

        Raises:
            OSError: If there are any.
        """
        del pl_module
        if not isinstance(exception, OSError | SyntaxError):  # what Pillow raises for broken files
            return
        loaders = (
            trainer.train_dataloader,
            trainer.val_dataloaders,
            trainer.test_dataloaders,
            trainer.predict_dataloaders,
        )
        broken = find_unreadable(dict.fromkeys(path for loader in loaders for path in _image_paths(loader)))
        if broken:
            msg = (
                f"Expected all images to be readable, but got {len(broken)} that are truncated or no images: "
                f"{list_some(broken)}. Replace or remove these files."
            )
            raise OSError(msg) from exception


def _image_paths(loaders: Any) -> Iterator[str | Path]:
    """Paths of the images behind one dataloader or several, as far as the datasets tell them."""
    for loader in loaders if isinstance(loaders, list | tuple) else [loaders]:
        dataset = getattr(loader, "dataset", None)
        samples = getattr(dataset, "samples", None)
        yield from getattr(dataset, "image_filenames", ()) if samples is None else samples["image_path"]


def _mode(path: str | Path) -> str:
    """Pillow's name of the pixel format, empty where the file cannot be opened: reading it will tell."""
    try:
        with Image.open(path) as image:
            return image.mode
    except (OSError, UnidentifiedImageError):
        return ""


def _is_readable(path: str | Path) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError):
        return False
    return True
