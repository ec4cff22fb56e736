# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The transfer protocol for any two of anomalib's datasets."""

from pathlib import Path

from anomalib.data import AnomalibDataModule
from torchvision.transforms.v2 import Transform

from anomalib_clipad.data.auxiliary import AuxiliaryDataModule
from anomalib_clipad.data.categories import image_categories, own_name
from anomalib_clipad.data.labelled import repeatable_splits


class Transfer(AuxiliaryDataModule):
    """Train on the labelled test split of one datamodule, validate and test on another.

    Both may be any image datamodule of anomalib or this package. Each image's category is that of its own datamodule:
    the ``category``, in one over several each image's own, else the name given to it, as to a ``Folder``; else
    "object". See :class:`~anomalib_clipad.data.auxiliary.AuxiliaryDataModule` for what is trained on and when.

    Args:
        auxiliary: Datamodule, or a list of them, to train on; its whole labelled test split is used, the part that the
            host would validate on included.
        target: Datamodule to validate and test on, with its own splits, batch size and augmentations.
        allow_same: Accept an auxiliary dataset that shares categories or images with the target.
        shuffle: Whether the training images are shuffled anew in each epoch.
        train_batch_size: Images in a training batch; the paper trains with 8.
        num_workers: Worker processes of each dataloader; ``None`` for the target's.
        train_augmentations: Augmentations of the training images and their masks.

    Example:
        >>> from anomalib.data import BTech, Folder
        >>> folder = Folder("gasket", root="gaskets", normal_dir="good", abnormal_dir="bad", mask_dir="masks")
        >>> datamodule = Transfer(auxiliary=folder, target=BTech(category="01"))
        >>> datamodule.name, datamodule.categories
        ('BTech', ('01',))
    """

    def __init__(
        self,
        auxiliary: AnomalibDataModule | list[AnomalibDataModule],
        target: AnomalibDataModule,
        allow_same: bool = False,
        shuffle: bool = True,
        train_batch_size: int = 8,
        num_workers: int | None = None,
        train_augmentations: Transform | None = None,
    ) -> None:
        super().__init__(
            auxiliary=auxiliary,
            allow_same=allow_same,
            shuffle=shuffle,
            train_batch_size=train_batch_size,
            eval_batch_size=target.eval_batch_size,
            num_workers=target.num_workers if num_workers is None else num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=target.val_augmentations,
            test_augmentations=target.test_augmentations,
            val_split_mode=target.val_split_mode,
            val_split_ratio=target.val_split_ratio,
            test_split_mode=target.test_split_mode,
            test_split_ratio=target.test_split_ratio,
            seed=target.seed,
        )
        self.target = target
        self.external_collate_fn = target.external_collate_fn
        self.category = target.category
        self.categories: tuple[str, ...] = tuple(
            getattr(target, "categories", None) or [target.category or own_name(target)]
        )

    @property
    def name(self) -> str:
        """Name of the target, for the results."""
        return self.target.name

    @property
    def _target(self) -> AnomalibDataModule:
        return self.target

    def _prepare_target(self) -> None:
        self.target.prepare_data()

    def _setup(self, _stage: str | None = None) -> None:
        with repeatable_splits():
            self.target.setup("test")
        for split in ("train_data", "val_data", "test_data"):
            if hasattr(self.target, split):
                setattr(self, split, getattr(self.target, split))

    def _create_test_split(self) -> None:
        """The target has its own."""

    def _create_val_split(self) -> None:
        """The target has its own."""

    def _target_category_of(self, image_path: str | Path) -> str:
        names = image_categories(self.target, [image_path])
        return names[0] if names else own_name(self.target)
