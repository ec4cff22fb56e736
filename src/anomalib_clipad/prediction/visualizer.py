# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""anomalib's pictures, kept apart by category."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from anomalib.data import ImageBatch
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from lightning import LightningModule, Trainer
from PIL import Image

from anomalib_clipad.data.categories import image_categories
from anomalib_clipad.data.image_check import image_paths
from anomalib_clipad.data.image_loader import ReadableLoader


class CategoryVisualizer(ImageVisualizer):
    """The host's visualizer, with a place of its own for each picture.

    The host keeps only the last folder of an image's path unless the datamodule is named after the dataset's folder,
    so that ``bottle/test/good/000.png`` and ``cable/test/good/000.png`` would end in one file. Here a test set over
    several categories has a folder for each, and a user's own images keep the folders that they lie in. Otherwise the
    pictures lie where the host puts them, unless two would lie in one place. Arguments are the host's.
    """

    output_dir: str | Path | None
    _places: Sequence[dict[str, Path]] = ()
    """Place of each picture by the path of its image, for each dataloader of the run."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give each image of the run a place."""
        del pl_module
        self._places = _places(trainer, trainer.test_dataloaders)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give each image of the run a place."""
        del pl_module
        self._places = _places(trainer, trainer.predict_dataloaders)

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
        del pl_module, outputs, batch_idx
        # Not kept, unlike in the host: a model used again writes beside the results of that run.
        folder = Path(trainer.default_root_dir) / "images" if self.output_dir is None else Path(self.output_dir)
        for item in batch:
            path = str(item.image_path or "")
            # The whole path, where a loader does not tell its images beforehand.
            place = folder / (self._places[dataloader_idx].get(path) or Path(*Path(path).absolute().parts[1:]))
            picture = self.visualize(item)
            if isinstance(picture, Image.Image):
                place.parent.mkdir(parents=True, exist_ok=True)
                # Files a tenth larger than by default, in a quarter of the time; only PNG knows the argument.
                picture.save(place, compress_level=2)

    on_predict_batch_end = on_test_batch_end


def _places(trainer: Trainer, loaders: Any) -> list[dict[str, Path]]:
    datamodule = getattr(trainer, "datamodule", None)
    return [_choose(loader, datamodule) for loader in (loaders if isinstance(loaders, list | tuple) else [loaders])]


def _choose(loader: Any, datamodule: Any) -> dict[str, Path]:
    """Place of each picture, as far as the loader tells its images; no two are equal."""
    if isinstance(loader, ReadableLoader):
        return picture_places(image.path for image in loader.dataset.images)
    paths = [str(path) for path in image_paths(loader)]
    several = len(getattr(datamodule, "categories", ())) > 1
    categories = image_categories(datamodule, paths) if several else None
    if categories is not None:  # the part of an image's path that follows the category
        places = [
            generate_output_filename(path, category, category, mkdir=False)
            for path, category in zip(paths, categories, strict=True)
        ]
    else:
        name, category = getattr(datamodule, "name", None), getattr(datamodule, "category", None)
        places = [generate_output_filename(path, "", name, category, mkdir=False) for path in paths]
    return dict(zip(paths, places, strict=True)) if len({*places}) == len({*paths}) else picture_places(paths)


def picture_places(paths: Iterable[str | Path]) -> dict[str, Path]:
    """Place of each image's picture in the results: its path from the folder that holds all images, with its name."""
    absolute = {str(path): Path(os.path.abspath(path)) for path in paths}  # noqa: PTH100 - resolves '..', not links
    if len({path.anchor for path in absolute.values()}) > 1:  # several drives
        return {path: Path(place.drive.rstrip(":"), *place.parts[1:]) for path, place in absolute.items()}
    start = Path(os.path.commonpath([place.parent for place in absolute.values()])).parent if absolute else Path()
    return {path: place.relative_to(start) for path, place in absolute.items()}
