# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The host's datamodules."""

from functools import partial

from anomalib.data import AnomalibDataModule
from torch.utils.data import DataLoader


def allow_no_validation(datamodule: AnomalibDataModule) -> None:
    """Let a datamodule without validation images give no dataloader for them, whereupon Lightning skips validation.

    Its own ``val_dataloader`` is replaced. anomalib 2.7 raises ``AttributeError: no attribute 'val_data'`` there;
    superfluous once its datamodules return nothing instead.
    """
    datamodule.val_dataloader = partial(_val_dataloader, datamodule)


def update_augmentations(datamodule: AnomalibDataModule) -> None:
    """Give a training set that was put in place after ``setup`` the augmentations and the model's resize.

    anomalib 2.7 does so for those that ``setup`` made; superfluous once that method is public.
    """
    datamodule._update_augmentations()


def _val_dataloader(datamodule: AnomalibDataModule) -> DataLoader | list:
    return type(datamodule).val_dataloader(datamodule) if hasattr(datamodule, "val_data") else []
