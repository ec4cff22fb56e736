# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The procedural dataset as a datamodule."""

from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule
from anomalib.data.datasets.image.mvtecad import MVTecADDataset

from anomalib_clipad.data.multi_category import MultiCategoryDataModule
from anomalib_clipad.data.published import PublishedDataset, select_names
from anomalib_clipad.data.synthetic.generate import Recipe, generate
from anomalib_clipad.data.synthetic.render import (
    CATEGORIES,
    DEFECT_KINDS,
    HELD_OUT_CATEGORIES,
    HELD_OUT_DEFECTS,
    TRAINING_CATEGORIES,
    TRAINING_DEFECTS,
)

_CATEGORY_SUBSETS = {"held_out": HELD_OUT_CATEGORIES, "training": TRAINING_CATEGORIES, "all": CATEGORIES}
_DEFECT_SUBSETS = {"held_out": HELD_OUT_DEFECTS, "training": TRAINING_DEFECTS, "all": DEFECT_KINDS}


class SyntheticDefects(MultiCategoryDataModule):
    """Drawn textures and objects with defects and exact masks, generated on first use in MVTec AD's folder layout.

    The images follow from the seed alone and may be used for anything, so this is also a labelled auxiliary dataset
    without a licence that forbids commercial use. The embedded model ``clipad-tiny`` has been trained on the
    ``training`` categories and defects: report results on categories that were ``held_out``. SDP+ trains by default on
    the test split of the training categories, drawn beside the others, with the training kinds of defect only.

    Args:
        root: Folder of the dataset; missing categories are drawn.
        categories: ``held_out`` (default), ``training`` or ``all``; a list of names; or names with commas.
        defects: Kinds of defect to test on, given in the same way; all by default, and all are drawn.
        image_seed: Seed of the images.
        image_size: Side of the images in pixels.
        n_train: Good training images of each category.
        n_test_good: Good test images of each category.
        n_test_per_defect: Test images of each kind of defect and category.
        defect_area: Least and largest share of the image that a defect covers, for small ones in large images; by
            default they are as large as they come.
        **kwargs: Further arguments of :class:`~anomalib_clipad.data.multi_category.MultiCategoryDataModule`.

    Raises:
        ValueError: If a category or defect is unknown, a number is out of range, or the root holds images of another
            recipe.

    Example:
        >>> SyntheticDefects(num_workers=0).categories
        ('wood', 'carpet', 'marble', 'brushed_metal', 'gear', 'button', 'screw', 'capsule')
    """

    published = PublishedDataset(
        name="SyntheticDefects", folder_name="SyntheticDefects", categories=CATEGORIES, dataset=MVTecADDataset
    )

    def __init__(
        self,
        root: Path | str | None = "./datasets/SyntheticDefects",
        categories: list[str] | str | None = "held_out",
        defects: list[str] | str = "all",
        image_seed: int = 0,
        image_size: int = 240,
        n_train: int = 40,
        n_test_good: int = 40,
        n_test_per_defect: int = 5,
        defect_area: tuple[float, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(categories, str) and categories in _CATEGORY_SUBSETS:
            categories = list(_CATEGORY_SUBSETS[categories])
        super().__init__(root=root, categories=categories, **kwargs)
        chosen = _DEFECT_SUBSETS.get(defects, defects) if isinstance(defects, str) else defects
        self.defects = select_names("defects to name kinds of defect", chosen, DEFECT_KINDS, *_DEFECT_SUBSETS)
        counts = {"n_train": n_train, "n_test_good": n_test_good, "n_test_per_defect": n_test_per_defect}
        area = None if defect_area is None else (defect_area[0], defect_area[1])
        self.recipe = Recipe(image_seed, image_size, **counts, defect_area=area)

    def _prepare_target(self) -> None:
        generate(self.root, self.categories, self.recipe)

    def _default_auxiliary(self) -> AnomalibDataModule:
        return SyntheticDefects(
            root=self.root,
            categories="training",
            defects="training",
            image_seed=self.recipe.seed,
            image_size=self.recipe.size,
            n_train=self.recipe.n_train,
            n_test_good=self.recipe.n_test_good,
            n_test_per_defect=self.recipe.n_test_per_defect,
            defect_area=self.recipe.defect_area,
        )

    def _setup(self, _stage: str | None = None) -> None:
        super()._setup(_stage)
        wanted = self.test_data.samples["label"].isin(["good", *self.defects])
        self.test_data.subsample(wanted.to_numpy().nonzero()[0].tolist(), inplace=True)
