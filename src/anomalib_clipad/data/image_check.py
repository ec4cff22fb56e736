# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Clear errors for images that anomalib reads wrongly, or fails on without naming the file."""

import logging
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from anomalib.data.transforms.utils import extract_transforms_by_type
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image, UnidentifiedImageError
from torchvision.transforms.v2 import Resize

from anomalib_clipad.base.text import list_some
from anomalib_clipad.data.fitting import sizes_differ
from anomalib_clipad.data.image_files import DEEP_MODES, Unreadable, image_size, read_image
from anomalib_clipad.data.image_loader import engine_transform
from anomalib_clipad.host.datamodules import allow_no_validation

logger = logging.getLogger(__name__)


def check_depth(paths: Iterable[str | Path]) -> None:
    """Refuse images of more than 8 bits a channel, by their headers alone.

    anomalib converts them to RGB with Pillow, which cuts all values above 255: most of such an image turns white.
    """
    deep = [path for path in paths if _mode(path) in DEEP_MODES]
    if deep:
        msg = (
            f"Expected images of 8 bits a channel, but got {len(deep)} of more: {list_some(deep)}. "
            "Scale them to 8 bits first, for example with numpy: (image // 257).astype('uint8') for 16 bits."
        )
        raise ValueError(msg)


def check_sizes(loaders: Any, transform: Any) -> None:
    """Refuse batches of images that a model's transform leaves at different sizes: the host would squash them.

    Raises:
        ValueError: If there are such batches.
    """
    [resize] = extract_transforms_by_type(transform, Resize)[:1] or [None]
    if not sizes_differ(resize):
        return
    for loader in loaders if isinstance(loaders, list | tuple) else [loaders]:
        if getattr(loader, "batch_size", 1) == 1:
            continue
        sizes = {resize.target(size) for path in image_paths(loader) if (size := image_size(path))}
        if len(sizes) > 1:
            msg = (
                f"Expected images of one size in batches with resize={resize.fit}, but got {len(sizes)} sizes, such as "
                f"{list_some(['x'.join(map(str, size)) for size in sorted(sizes)])}. Use --model.resize pad, or "
                "batches of 1 (--data.eval_batch_size 1)."
            )
            raise ValueError(msg)


class ImageCheck(Callback):
    """Checks the images of a run: their depth before it starts, and which are broken once reading one has failed.

    Where there are none to validate on, validation is skipped.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let a run whose datamodule tests, but has no validation images, skip validation."""
        datamodule: Any = getattr(trainer, "datamodule", None)
        if not hasattr(datamodule, "test_data") or hasattr(datamodule, "val_data"):
            return
        allow_no_validation(datamodule)
        if stage in {TrainerFn.FITTING, TrainerFn.VALIDATING}:
            logger.warning(
                "%s has no validation images (val_split_mode: %s). Validation is skipped and calibrates nothing.",
                datamodule.name,
                datamodule.val_split_mode.value,
            )

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Check that training images come in batches as they are."""
        check_sizes(trainer.train_dataloader, engine_transform(getattr(pl_module, "pre_processor", None)))

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Check the validation images."""
        check_depth(image_paths(trainer.val_dataloaders))
        check_sizes(trainer.val_dataloaders, engine_transform(getattr(pl_module, "pre_processor", None)))

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Check the test images."""
        check_depth(image_paths(trainer.test_dataloaders))
        check_sizes(trainer.test_dataloaders, engine_transform(getattr(pl_module, "pre_processor", None)))

    def on_predict_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Check the images to predict on."""
        check_depth(image_paths(trainer.predict_dataloaders))
        check_sizes(trainer.predict_dataloaders, engine_transform(getattr(pl_module, "pre_processor", None)))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Name the unreadable files, by an ``OSError``, where reading an image has failed; other errors pass."""
        if not _is_of_decoding(exception):
            return
        logger.error("An image could not be read. Looking through all images of the run for broken ones.")
        used = (
            trainer.train_dataloader,
            trainer.val_dataloaders,
            trainer.test_dataloaders,
            trainer.predict_dataloaders,
        )
        paths = dict.fromkeys(path for loaders in used for path in image_paths(loaders))
        broken = [image for path in paths if isinstance(image := read_image(path), Unreadable)]
        if broken:
            msg = (
                f"Expected all images to be readable, but got {len(broken)} that are not: "
                f"{list_some([f'{path} ({reason})' for path, reason in broken])}. Replace or remove these files."
            )
            raise OSError(msg) from exception


def _is_of_decoding(exception: BaseException) -> bool:
    """Whether Pillow has failed to decode an image for a dataset, and not the system, which names its own reasons."""
    # A dataloader's worker process sends no more than the text of a traceback.
    text = "".join(traceback.format_exception(exception))
    return ", in __getitem__" in text and str(Path(Image.__file__).parent) in text and "[Errno " not in text


def image_paths(loaders: Any) -> Iterator[str | Path]:
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
