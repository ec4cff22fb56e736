# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Labelled images, normal and anomalous with masks, of any of anomalib's datamodules as training data."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataModule, AnomalibDataset, Folder
from anomalib.data.errors import MisMatchError
from anomalib.data.utils import LabelName, ValSplitMode
from torch.utils.data import ConcatDataset
from torchvision.transforms.v2 import Transform

from anomalib_clipad.base.text import list_some
from anomalib_clipad.data.image_check import check_depth
from anomalib_clipad.data.masks import check_masks, unpaired, unpaired_in_layout

# What to run instead, by the class of a datamodule that has only normal training images.
COMMANDS = {
    "MVTecAD": "`anomalib train --model anomalib_clipad.SDPPlus --data MVTec`",
    "Visa": "`anomalib train --model anomalib_clipad.SDPPlus --data VisA`",
}


class LabelledImages(ConcatDataset):
    """Image datasets of any of anomalib's classes one after the other; the host joins those of one class only.

    Each reads its own images. This has what the host's datamodules ask of a dataset.
    """

    def __init__(self, datasets: Iterable[AnomalibDataset]) -> None:
        super().__init__(datasets)
        self.datasets: list[Any]
        self.samples = pd.concat([dataset.samples for dataset in self.datasets], ignore_index=True)

    @property
    def task(self) -> TaskType:
        """Segmentation if all images have masks."""
        tasks = {dataset.task for dataset in self.datasets}
        return TaskType.SEGMENTATION if tasks == {TaskType.SEGMENTATION} else TaskType.CLASSIFICATION

    @property
    def augmentations(self) -> Transform | None:
        """What is applied to each image together with its mask; the host puts the model's resize here."""
        return self.datasets[0].augmentations

    @augmentations.setter
    def augmentations(self, augmentations: Transform | None) -> None:
        for dataset in self.datasets:
            dataset.augmentations = augmentations

    @property
    def collate_fn(self) -> Callable:
        """The host's collation of items into an ``ImageBatch``."""
        return self.datasets[0].collate_fn


@contextmanager
def repeatable_splits() -> Iterator[None]:
    """Let the host draw its random splits the same in every process and run, and leave the global seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def labelled_images(datamodule: AnomalibDataModule) -> AnomalibDataset:
    """Return the labelled test split of a datamodule, set up here and whole.

    Where the host takes the validation images out of the test split, they are put back. Images and masks that cannot
    be paired are named by a ``ValueError``.
    """
    with repeatable_splits():
        try:
            datamodule.setup("test")
        except (MisMatchError, ValueError) as error:
            files = _unpaired_files(datamodule)
            if not files:
                raise
            msg = (
                f"Expected {datamodule.name} to hold one mask for each anomalous image, but got files without a "
                f"partner: {list_some(files)}. Add the missing masks or remove the images."
            )
            raise ValueError(msg) from error
    from_test = datamodule.val_split_mode == ValSplitMode.FROM_TEST
    return datamodule.test_data + datamodule.val_data if from_test else datamodule.test_data


def require_labelled_training_data(datamodule: Any) -> None:
    """Check that the training images of any datamodule set up for ``fit`` are labelled and their masks usable.

    ``None``, where dataloaders were passed, is let through.
    """
    dataset = getattr(datamodule, "train_data", None)
    if dataset is None:
        return
    samples, name = dataset.samples, type(datamodule).__name__
    anomalous = int((samples["label_index"] == LabelName.ABNORMAL).sum())
    if not anomalous:
        command = COMMANDS.get(name, COMMANDS["MVTecAD"])
        msg = (
            f"Expected the training images to be normal and anomalous ones with masks, but got {len(samples)} normal "
            f"images of {name}. SDP+ trains its heads on the labelled test split of another, auxiliary dataset: run "
            f"{command}, or give the datamodule as `target` to anomalib_clipad.Transfer with another as `auxiliary`."
        )
        raise ValueError(msg)
    if dataset.task != TaskType.SEGMENTATION:
        msg = (
            f"Expected the {anomalous} anomalous training images of {name} to have masks, but got images without. "
            "Give the folder of the masks, for example Folder's `mask_dir`."
        )
        raise ValueError(msg)
    check_depth(samples["image_path"])
    check_masks(samples)


def _unpaired_files(datamodule: AnomalibDataModule) -> list[Path]:
    """Return the images and masks that a datamodule could not pair, as far as its layout is known."""
    if not isinstance(datamodule, Folder):
        return unpaired_in_layout(Path(getattr(datamodule, "root", "")) / datamodule.category)
    images, masks = (
        [
            path
            for folder in ([given] if isinstance(given, str | Path) else given or [])
            for path in sorted(Path(datamodule.root or "", folder).rglob("*"))
            if path.is_file()
        ]
        for given in (datamodule.abnormal_dir, datamodule.mask_dir)
    )
    return unpaired(images, masks)
