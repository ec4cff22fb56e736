# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""anomalib's pictures, kept apart by category."""

import os
from collections.abc import Iterable, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data import ImageBatch, ImageItem
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from lightning import LightningModule, Trainer
from PIL import Image, ImageDraw

from anomalib_clipad.data.categories import image_categories
from anomalib_clipad.data.image_check import image_paths
from anomalib_clipad.data.image_files import image_size
from anomalib_clipad.data.image_loader import ReadableLoader, engine_transform
from anomalib_clipad.prediction.geometry import image_box, to_image
from anomalib_clipad.prediction.regions import Regions, find_regions


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
        pl_module: Any,
        outputs: ImageBatch,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the pictures of a batch below ``images``, or below the given ``output_dir``."""
        del outputs, batch_idx
        transform, options = (
            engine_transform(getattr(pl_module, "pre_processor", None)),
            getattr(pl_module, "regions", None),
        )
        # Not kept, unlike in the host: a model used again writes beside the results of that run.
        folder = Path(trainer.default_root_dir) / "images" if self.output_dir is None else Path(self.output_dir)
        for item in batch:
            path = str(item.image_path or "")
            # The whole path, where a loader does not tell its images beforehand.
            place = folder / (self._places[dataloader_idx].get(path) or Path(*Path(path).absolute().parts[1:]))
            size = image_size(path)
            picture = self.visualize(_as_photographed(item, transform, size))
            if isinstance(picture, Image.Image):
                if options and options.boxes and size is not None:
                    _draw_boxes(picture, self.field_size, item, transform, size, options)
                place.parent.mkdir(parents=True, exist_ok=True)
                # Files a tenth larger than by default, in a quarter of the time; only PNG knows the argument.
                picture.save(place, compress_level=2)

    on_predict_batch_end = on_test_batch_end


def _as_photographed(item: ImageItem, transform: Any, size: tuple[int, int] | None) -> ImageItem:
    """The same with masks and map in place on the photograph, where it does not fill the model's input."""
    if transform is None or size is None or item.anomaly_map is None:
        return item
    box = image_box(transform, size)
    if box is None:
        return item
    height, width = item.anomaly_map.shape[-2:]
    if np.allclose(box, (0, 0, width, height), atol=1e-3):
        return item
    changed = copy(item)
    for name in ("anomaly_map", "gt_mask", "pred_mask"):
        plane = getattr(item, name)
        if plane is not None:
            moved = to_image(plane.as_subclass(torch.Tensor).squeeze().float().cpu(), box, size)
            setattr(changed, name, moved if name == "anomaly_map" else moved > 0.5)
    return changed


def _draw_boxes(
    picture: Image.Image,
    field_size: tuple[int, int],
    item: ImageItem,
    transform: Any,
    size: tuple[int, int],
    options: Regions,
) -> None:
    """Draw the boxes of the regions of an image (height, width) into each of the fields that a picture consists of."""
    box = image_box(transform, size)
    if box is None or item.pred_mask is None or item.anomaly_map is None:
        return
    mask, anomaly_map = (each.as_subclass(torch.Tensor).squeeze().cpu() for each in (item.pred_mask, item.anomaly_map))
    found = find_regions(mask, anomaly_map, box, size, options.minimum_area)
    draw, (field_width, field_height) = ImageDraw.Draw(picture), field_size
    for start in range(0, picture.width, field_width):
        for left, top, width, height in (region.box for region in found):
            corners = [(left, top), (left + width, top + height)]
            scaled = [(start + x * field_width / size[1], y * field_height / size[0]) for x, y in corners]
            draw.rectangle(scaled, outline="red", width=2)


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
