# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The transfer protocol: train on the labelled images of one dataset, validate and test on another."""

import logging
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from anomalib.data import AnomalibDataModule, AnomalibDataset
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import EVAL_DATALOADERS, TRAIN_DATALOADERS

from anomalib_clipad.base.text import list_some
from anomalib_clipad.data.categories import image_categories, own_name
from anomalib_clipad.data.labelled import LabelledImages, labelled_images
from anomalib_clipad.data.published import MVTEC_AD, VISA
from anomalib_clipad.data.resumable import training_loader
from anomalib_clipad.host.datamodules import update_augmentations

logger = logging.getLogger(__name__)

Auxiliary: TypeAlias = AnomalibDataModule | list[AnomalibDataModule] | Literal["default"] | None

_SAME_AS_OURS = {"MVTecAD": MVTEC_AD.name, "Visa": VISA.name}
"""The host's datamodules of datasets that have one of this package as well."""


class AuxiliaryDataModule(AnomalibDataModule):
    """A target dataset to validate and test on, and an auxiliary one whose labelled test split may be trained on.

    What is trained on is the model's choice. A model whose class says ``trains_on_auxiliary = True`` (SDP+) gets the
    auxiliary dataset: all its categories, normal and anomalous images, masks. Any other model gets the target's own
    normal training images, as the host's one-class models expect. Outside of a trainer an auxiliary that was given is
    used. The auxiliary dataset is prepared and read only for ``fit``: a test does not need it.

    Args:
        auxiliary: Datamodule or datamodules to train on; ``"default"`` for the one that the subclass names.
        allow_same: Accept an auxiliary dataset that shares something with the target. A test is not zero-shot then.
        shuffle: Whether the training images are shuffled anew in each epoch; otherwise they come category by category,
            as in the reference implementation.
        **kwargs: Arguments of the host's ``AnomalibDataModule``.
    """

    def __init__(
        self, auxiliary: Auxiliary = "default", allow_same: bool = False, shuffle: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.auxiliary = auxiliary
        self.allow_same = allow_same
        self.shuffle = shuffle
        self._shared_images: list[str] = []
        self._auxiliary_categories: dict[str, str] = {}
        self.train_data: AnomalibDataset | LabelledImages
        self._own_train_data: AnomalibDataset

    @property
    def is_zero_shot(self) -> bool:
        """Whether the auxiliary dataset shares nothing with the target, as far as it has been looked at.

        Categories are always compared, image files once the auxiliary dataset has been read for ``fit``.
        """
        return not (self._shared_products() or self._shared_images)

    @property
    def auxiliary_names(self) -> tuple[str, ...]:
        """Names of the auxiliary datamodules; empty for ``auxiliary=None``."""
        return tuple(dict.fromkeys(datamodule.name for datamodule in self.auxiliaries))

    @property
    def auxiliary_categories(self) -> tuple[str, ...]:
        """Categories trained on, in order; empty until the auxiliary dataset has been read for ``fit``."""
        return tuple(dict.fromkeys(self._auxiliary_categories.values()))

    @cached_property
    def auxiliaries(self) -> list[AnomalibDataModule]:
        """The auxiliary datamodules; made when they are first asked for."""
        chosen = self._default_auxiliary() if self.auxiliary == "default" else self.auxiliary
        if chosen is None:
            return []
        return list(chosen) if isinstance(chosen, list | tuple) else [chosen]

    @property
    def target_train_data(self) -> Any:
        """Training images of the target itself, also where those of the auxiliary dataset are trained on."""
        return getattr(self, "_own_train_data", None) or self.train_data

    def prepare_data(self) -> None:
        """Get the target, and the auxiliary dataset where it is going to be trained on.

        Raises:
            FileNotFoundError: If a dataset is neither there nor available.
            ValueError: If auxiliary and target share categories and ``allow_same`` is not set.
        """
        if self._trains_on_auxiliary():
            self._refuse(self._shared_products())
            self._prepare_auxiliary()
        self._prepare_target()

    def setup(self, stage: str | None = None) -> None:
        """Read the target, and for ``fit`` what is to be trained on.

        Raises:
            ValueError: If auxiliary and target share categories or images and ``allow_same`` is not set.
        """
        super().setup(stage)
        if not isinstance(self.train_data, LabelledImages):
            self._own_train_data = self.train_data
        if stage not in {None, TrainerFn.FITTING}:
            return
        if self._trains_on_auxiliary():
            self.train_data = self._read_auxiliary()
        else:
            self.train_data = self._own_train_data
            if self.auxiliary is not None and self.auxiliary != "default":
                logger.warning("The model trains on no auxiliary dataset: it gets the normal images of %s.", self.name)
        update_augmentations(self)

    def category_of(self, image_path: str | Path) -> str:
        """Return the category of an image of the target or, once it is read, of the auxiliary dataset.

        Raises:
            ValueError: If the path is of neither.
        """
        return self._auxiliary_categories.get(str(image_path)) or self._target_category_of(image_path)

    def train_dataloader(self) -> TRAIN_DATALOADERS:
        """Return the training dataloader; its order depends on seed and epoch alone."""
        return training_loader(
            self.train_data,
            self.trainer,
            shuffle=self.shuffle,
            batch_size=self.train_batch_size,
            num_workers=self.num_workers,
            collate_fn=self.external_collate_fn or self.train_data.collate_fn,
        )

    def val_dataloader(self) -> EVAL_DATALOADERS:
        """Return the validation dataloader, or none where there is no validation split: validation is skipped."""
        return super().val_dataloader() if hasattr(self, "val_data") else []

    @property
    def _target(self) -> AnomalibDataModule:
        """The datamodule of the target dataset."""
        return self

    def _default_auxiliary(self) -> AnomalibDataModule | None:
        """Return the auxiliary dataset where none is given."""
        return None

    def _prepare_target(self) -> None:
        """Get the target."""
        raise NotImplementedError

    def _target_category_of(self, image_path: str | Path) -> str:
        """Return the category of one of the target's images."""
        raise NotImplementedError

    def _trains_on_auxiliary(self) -> bool:
        if self.auxiliary is None:
            return False
        if self.trainer is None:
            return self.auxiliary != "default"
        if self.trainer.state.fn != TrainerFn.FITTING:
            return False
        return getattr(self.trainer.lightning_module, "trains_on_auxiliary", False)

    def _prepare_auxiliary(self) -> None:
        try:
            for datamodule in self.auxiliaries:
                datamodule.prepare_data()
        except FileNotFoundError as error:
            msg = (
                f"Expected the auxiliary dataset that is trained on to be there, but got: {error} Give its folder by "
                f"--data.auxiliary {type(datamodule).__name__} --data.auxiliary.root FOLDER."
            )
            raise FileNotFoundError(msg) from error

    def _read_auxiliary(self) -> AnomalibDataset | LabelledImages:
        """Read the auxiliary dataset, or the target's own training images where there is none."""
        if not self.auxiliaries:
            return self._own_train_data
        self._refuse(self._shared_products())
        datasets = [labelled_images(datamodule) for datamodule in self.auxiliaries]
        for datamodule, dataset in zip(self.auxiliaries, datasets, strict=True):
            paths = [str(path) for path in dataset.samples["image_path"]]
            names = image_categories(datamodule, paths) or [own_name(datamodule)] * len(paths)
            self._auxiliary_categories.update(zip(paths, names, strict=True))
        self._shared_images = self._find_shared_images()
        self._refuse(self._shared_images)
        if not self.is_zero_shot:
            logger.warning(
                "Auxiliary and target dataset share %s: the test on %s is NOT zero-shot.",
                list_some(self._shared_products() or self._shared_images),
                self.name,
            )
        joined = LabelledImages(datasets)
        logger.info(
            "Training on %d labelled images of %s (%s); testing on %s.",
            len(joined),
            ", ".join(self.auxiliary_names),
            ", ".join(self.auxiliary_categories),
            self.name,
        )
        return joined

    def _shared_products(self) -> list[str]:
        """Datasets and categories that both auxiliary and target show."""
        target = _products(self._target)
        return sorted({" ".join(product) for other in self.auxiliaries for product in target & _products(other)})

    def _find_shared_images(self) -> list[str]:
        """Image files that are both trained and tested on; links count as what they lead to."""
        tested = {
            Path(path).resolve()
            for dataset in (getattr(self, "val_data", None), self.test_data)
            if dataset is not None
            for path in dataset.samples["image_path"]
        }
        return [path for path in self._auxiliary_categories if Path(path).resolve() in tested]

    def _refuse(self, shared: list[str]) -> None:
        """Raise ``ValueError`` where auxiliary and target have something in common, unless that is wanted."""
        if shared and not self.allow_same:
            msg = (
                f"Expected auxiliary and target to be different datasets, but got both with {list_some(shared)}. "
                "Choose another auxiliary or other categories, or pass allow_same=True (--data.allow_same true) for a "
                "test that is not zero-shot."
            )
            raise ValueError(msg)


def _products(datamodule: AnomalibDataModule) -> set[tuple[str, str]]:
    """What a datamodule shows: dataset and category, wherever the files lie; nothing where there is no category."""
    name = type(datamodule).__name__
    published = getattr(datamodule, "published", None)
    dataset = _SAME_AS_OURS.get(name, name) if published is None else published.name
    categories = getattr(datamodule, "categories", None) or [datamodule.category]
    return {(dataset, category) for category in categories if category}
