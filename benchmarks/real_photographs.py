# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Photographs of real products for ``configs/real_photographs.yaml``, read where they lie."""

import importlib.util
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from anomalib.data import AnomalibDataModule, AnomalibDataset, Folder
from anomalib.data.utils import LabelName, Split, TestSplitMode, ValSplitMode


class NamedFolder(Folder):
    """anomalib's ``Folder``, whose name is also its category, which is what WinCLIP calls the object.

    Args:
        name: What prompts call the object.
        **kwargs: As in the host's class.
    """

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.category = name


class SolarCells(AnomalibDataModule):
    """Solar cells of PyPI's ``elpv-dataset``: surely good (defect probability 0) and surely defective ones (1).

    There are no masks. Half of the good cells are for training, the other half for the test.

    Args:
        crystal: Silicon of the cells; the two kinds look different.
        root: Folder of ``labels.csv``; ``None`` for that of the installed package.
        eval_batch_size: Images in a test batch.
        num_workers: Worker processes of each dataloader.
        seed: Seed of the halves.

    Raises:
        ImportError: If the package is not installed.
        FileNotFoundError: If there is no ``labels.csv``.
    """

    def __init__(
        self,
        crystal: Literal["mono", "poly"],
        root: str | None = None,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            train_batch_size=32,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            val_split_mode=ValSplitMode.SAME_AS_TEST,
            test_split_mode=TestSplitMode.FROM_DIR,
            test_split_ratio=0.5,
            seed=seed,
        )
        self.crystal = crystal
        self.labels = Path(root or _installed_folder()) / "labels.csv"
        if not self.labels.is_file():
            msg = f"Expected labels of the solar cells, but got no file at {self.labels}. Install elpv-dataset again."
            raise FileNotFoundError(msg)
        self.category = "solar cell"

    def _setup(self, _stage: str | None = None) -> None:
        cells = read_cells(self.labels, self.crystal)
        self.train_data, self.test_data = (
            _dataset(cells[cells["label_index"] == label], split)
            for label, split in ((LabelName.NORMAL, Split.TRAIN), (LabelName.ABNORMAL, Split.TEST))
        )


def read_cells(labels: Path, crystal: str) -> pd.DataFrame:
    """List the cells of one kind whose defect probability is 0 or 1, as anomalib's datasets have it.

    Args:
        labels: File of image path, defect probability and kind of silicon, one cell a line, with spaces between.
        crystal: ``mono`` or ``poly``.
    """
    cells = pd.read_csv(labels, sep=r"\s+", names=["image_path", "probability", "crystal"])
    cells = cells[(cells["crystal"] == crystal) & cells["probability"].isin([0, 1])].reset_index(drop=True)
    return pd.DataFrame(
        {
            "image_path": [str(labels.parent / path) for path in cells["image_path"]],
            "label": cells["probability"].map({0: "good", 1: "defective"}),
            "label_index": cells["probability"].astype(int),
            "mask_path": "",
        }
    )


def _dataset(cells: pd.DataFrame, split: Split) -> AnomalibDataset:
    dataset = AnomalibDataset()
    cells = cells.assign(split=split)
    cells.attrs["task"] = "classification"
    dataset.samples = cells
    return dataset


def _installed_folder() -> Path:
    found = importlib.util.find_spec("elpv_dataset")
    if found is None or found.origin is None:
        msg = "Expected the package elpv-dataset to be installed, but got none. Run `pip install '.[real]'`."
        raise ImportError(msg)
    return Path(found.origin).parent / "data"
