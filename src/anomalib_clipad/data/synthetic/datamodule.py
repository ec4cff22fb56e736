# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The procedural dataset as a datamodule."""

from pathlib import Path
from typing import Any

from anomalib.data.datasets.image.mvtecad import MVTecADDataset

from anomalib_clipad.data.multi_category import MultiCategoryDataModule
from anomalib_clipad.data.published import PublishedDataset
from anomalib_clipad.data.synthetic.generate import Recipe, generate
from anomalib_clipad.data.synthetic.render import CATEGORIES, HELD_OUT_CATEGORIES, TRAINING_CATEGORIES

_SUBSETS = {"held_out": HELD_OUT_CATEGORIES, "training": TRAINING_CATEGORIES, "all": CATEGORIES}


class SyntheticDefects(MultiCategoryDataModule):
    """Drawn textures and objects with defects and exact masks, generated on first use in MVTec AD's folder layout.

    The images follow from the seed alone and may be used for anything, so this is also a labelled auxiliary dataset
    without a licence that forbids commercial use. The embedded model ``clipad-tiny`` has been trained on the
    ``training`` categories: report results on those that were ``held_out``.

    Args:
        root: Folder of the dataset; categories that it lacks are drawn.
        categories: ``held_out`` (default), ``training`` or ``all``; a list of names; or names with commas.
        image_seed: Seed of the images.
        image_size: Side of the images in pixels.
        n_train: Good training images of each category.
        n_test_good: Good test images of each category.
        n_test_per_defect: Test images of each kind of defect and category.
        **kwargs: Further arguments of :class:`~anomalib_clipad.data.multi_category.MultiCategoryDataModule`.

    Raises:
        ValueError: If a category is unknown, a number is out of range, or the root holds images of another recipe.

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
        image_seed: int = 0,
        image_size: int = 240,
        n_train: int = 40,
        n_test_good: int = 40,
        n_test_per_defect: int = 5,
        **kwargs: Any,
    ) -> None:
        chosen = _SUBSETS.get(categories, categories) if isinstance(categories, str) else categories
        super().__init__(root=root, categories=chosen, **kwargs)
        self.recipe = Recipe(image_seed, image_size, n_train, n_test_good, n_test_per_defect)

    def prepare_data(self) -> None:
        """Draw the categories that are not there yet."""
        generate(self.root, self.categories, self.recipe)
