# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Datamodules over several categories of MVTec AD and VisA, each the auxiliary dataset of the other."""

from pathlib import Path
from typing import Any, ClassVar

from anomalib.data import AnomalibDataModule
from anomalib.data.utils import Split, TestSplitMode, ValSplitMode
from anomalib.utils.path import resolve_dataset_root
from torchvision.transforms.v2 import Transform

from anomalib_clipad.data.auxiliary import Auxiliary, AuxiliaryDataModule
from anomalib_clipad.data.published import MVTEC_AD, VISA, PublishedDataset


class MultiCategoryDataModule(AuxiliaryDataModule):
    """What :class:`MVTec` and :class:`VisA` share; a subclass names its ``published`` dataset.

    Besides what every anomalib datamodule has, ``categories`` names the selected categories and :meth:`category_of`
    tells the category of an image. The host's ``category`` is set when one category is selected and empty otherwise.

    The dataset is the *target*: validation and test run on it. SDP+ trains on the ``auxiliary`` dataset, other models
    on the target's normal training images, see :class:`~anomalib_clipad.data.auxiliary.AuxiliaryDataModule`.

    Args:
        root: Folder that holds the dataset; ``None`` is anomalib's own dataset folder.
        categories: Categories to use: a list, one name, several names with commas, or ``None`` for all.
        auxiliary: Datamodule or datamodules whose labelled test split SDP+ trains on; ``"default"`` for the paper's, in
            the folder beside ``root``; ``None`` for none.
        allow_same: Accept an auxiliary dataset that shares categories or images with this one.
        shuffle: Whether the training images are shuffled anew in each epoch.
        train_batch_size: Images in a training batch; the paper trains with 8.
        eval_batch_size: Images in a validation or test batch.
        num_workers: Worker processes of each dataloader.
        train_augmentations: Augmentations of the training images.
        val_augmentations: Augmentations of the validation images.
        test_augmentations: Augmentations of the test images.
        augmentations: Augmentations where none are given for the stage.
        test_split_mode: Where the test images come from.
        test_split_ratio: Share of the training images to test on, where there are no normal test images.
        val_split_mode: Where the validation images come from; with ``none`` validation is skipped.
        val_split_ratio: Share of the images to validate on, where they are taken from another split.
        seed: Seed of the splits.

    Raises:
        ValueError: If a category is not one of the dataset.
    """

    published: ClassVar[PublishedDataset]

    def __init__(
        self,
        root: Path | str | None,
        categories: list[str] | str | None = None,
        auxiliary: Auxiliary = "default",
        allow_same: bool = False,
        shuffle: bool = True,
        train_batch_size: int = 8,
        eval_batch_size: int = 32,
        num_workers: int = 8,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            auxiliary=auxiliary,
            allow_same=allow_same,
            shuffle=shuffle,
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            test_split_mode=test_split_mode,
            test_split_ratio=test_split_ratio,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )
        self.root = resolve_dataset_root(root, self.published.folder_name)
        self.categories = self.published.select(categories)
        self.category = self.categories[0] if len(self.categories) == 1 else ""

    def _target_category_of(self, image_path: str | Path) -> str:
        return self.published.category_of(self.root, image_path)

    def _prepare_target(self) -> None:
        self.published.prepare(self.root, self.categories)

    def _setup(self, _stage: str | None = None) -> None:
        self.train_data = self.published.load(self.root, self.categories, Split.TRAIN)
        self.test_data = self.published.load(self.root, self.categories, Split.TEST)


class MVTec(MultiCategoryDataModule):
    """MVTec AD with any of its 15 categories, or all of them (Bergmann et al., CVPR 2019; CC BY-NC-SA 4.0).

    Layout: ``<root>/<category>/{train,test,ground_truth}/…``. SDP+ trains on all of VisA by default. Further arguments:
    :class:`MultiCategoryDataModule`.

    Example:
        >>> datamodule = MVTec(categories=["bottle", "metal_nut"], num_workers=0)
        >>> datamodule.categories
        ('bottle', 'metal_nut')
        >>> datamodule.category_of("datasets/MVTecAD/metal_nut/test/bent/000.png")
        'metal_nut'
    """

    published = MVTEC_AD

    def __init__(self, root: Path | str | None = "./datasets/MVTecAD", **kwargs: Any) -> None:
        super().__init__(root=root, **kwargs)

    def _default_auxiliary(self) -> AnomalibDataModule:
        return VisA(root=self.root.parent / VISA.folder_name)


class VisA(MultiCategoryDataModule):
    """VisA with any of its 12 categories, or all of them (Zou et al., ECCV 2022; CC BY-NC-SA 4.0).

    Raw VisA (``<root>/<category>/Data/…`` with ``split_csv/1cls.csv``) is converted on first use to
    ``<root>/visa_pytorch/<category>/{train,test,ground_truth}/…``, the layout of anomalib's ``Visa``. SDP+
    trains on all of MVTec AD by default. Further arguments: :class:`MultiCategoryDataModule`.

    Example:
        >>> VisA(categories="pcb1", num_workers=0).category
        'pcb1'
    """

    published = VISA

    def __init__(self, root: Path | str | None = "./datasets/visa", **kwargs: Any) -> None:
        super().__init__(root=root, **kwargs)

    def _default_auxiliary(self) -> AnomalibDataModule:
        return MVTec(root=self.root.parent / MVTEC_AD.folder_name)
