# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""anomalib's pictures, kept apart by category."""

from pathlib import Path
from typing import Any

from anomalib.data import ImageBatch, ImageItem
from anomalib.utils.path import generate_output_filename
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
        del pl_module, outputs, batch_idx, dataloader_idx
        datamodule = getattr(trainer, "datamodule", None)
        several = len(getattr(datamodule, "categories", ())) > 1
        categories = image_categories(datamodule, batch.image_path) if several and batch.image_path else None
        name, category = getattr(datamodule, "name", None), getattr(datamodule, "category", None)
        folder = self._folder(trainer)
        for index, item in enumerate(batch):
            path = item.image_path or ""
            if categories is None:
                place = generate_output_filename(path, folder, name, category, mkdir=False)
            else:  # the part of an image's path that follows the category
                place = generate_output_filename(path, folder / categories[index], categories[index], mkdir=False)
            self._write(item, place)

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
        for item in batch:
            self._write(item, self._folder(trainer) / loader.dataset.picture_places[item.image_path])

    def _folder(self, trainer: Trainer) -> Path:
        # Not kept, unlike in the host: a model used again writes beside the results of that run.
        return Path(trainer.default_root_dir) / "images" if self.output_dir is None else Path(self.output_dir)

    def _write(self, item: ImageItem, place: Path) -> None:
        picture = self.visualize(item)
        if isinstance(picture, Image.Image):
            place.parent.mkdir(parents=True, exist_ok=True)
            # Files a tenth larger than by default, in a quarter of the time; only PNG knows the argument.
            picture.save(place, compress_level=2)


def _loader(trainer: Trainer, index: int) -> Any:
    loaders = trainer.predict_dataloaders
    return loaders[index] if isinstance(loaders, list | tuple) else loaders
