# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""anomalib's pictures, kept apart by category."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from anomalib.data import ImageBatch
from anomalib.visualization import ImageVisualizer
from lightning import LightningModule, Trainer
from PIL import Image

from anomalib_clipad.data.categories import image_categories
from anomalib_clipad.data.image_list import ReadableLoader


class CategoryVisualizer(ImageVisualizer):
    """The host's visualizer with a folder for each category of a test set over several.

    The host keeps only the last folder of an image's path unless the datamodule is named after the dataset's folder,
    so that ``bottle/test/good/000.png`` and ``cable/test/good/000.png`` would end in one file. Without a datamodule
    or a category the pictures lie where the host puts them. Arguments are the host's.
    """

    output_dir: str | Path | None

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: ImageBatch,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the pictures of a batch below ``images``, or below the given ``output_dir``."""
        datamodule = getattr(trainer, "datamodule", None)
        several = len(getattr(datamodule, "categories", ())) > 1
        categories = image_categories(datamodule, batch.image_path) if several and batch.image_path else None
        given = self.output_dir
        folder = Path(given) if given is not None else Path(trainer.default_root_dir) / "images"
        write = super().on_test_batch_end
        try:
            if categories is None:
                self.output_dir = folder
                write(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
                return
            items = list(batch)
            for category in dict.fromkeys(categories):
                chosen = [item for item, name in zip(items, categories, strict=True) if name == category]
                self.output_dir = folder / category
                # The host keeps the part of an image's path that follows the name of the dataset.
                named = SimpleNamespace(datamodule=SimpleNamespace(name=category))
                batch_of_category = ImageBatch.collate(chosen)
                write(cast("Trainer", named), pl_module, outputs, batch_of_category, batch_idx, dataloader_idx)
        finally:
            self.output_dir = given  # so that a model used again writes beside the results of that run

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: ImageBatch,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the pictures of a batch; those of a user's own images in the folders that the images lie in."""
        loader = _loader(trainer, dataloader_idx)
        if not isinstance(loader, ReadableLoader):
            self.on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
            return
        folder = Path(trainer.default_root_dir) / "images" if self.output_dir is None else Path(self.output_dir)
        for item in batch:
            picture = self.visualize(item)
            if isinstance(picture, Image.Image):
                place = folder / loader.dataset.picture_places[item.image_path]
                place.parent.mkdir(parents=True, exist_ok=True)
                picture.save(place)


def _loader(trainer: Trainer, index: int) -> Any:
    loaders = trainer.predict_dataloaders
    return loaders[index] if isinstance(loaders, list | tuple) else loaders
