# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of pictures: an image, its ground truth and the map of each model, the images that models miss most first."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from anomalib_clipad.compare.records import Images, if_there, read_images
from anomalib_clipad.compare.report.misses import image_errors, pixel_error
from anomalib_clipad.compare.report.tables import DatasetResults
from anomalib_clipad.metrics.report import mean_of_known
from anomalib_clipad.pages import pictures

MAX_PICTURES = 360
"""Pictures of a page; about 10 kB each."""

MAX_ROWS = 48
"""Rows of a page, however few models there are."""

_PERCENTILES = (1, 99.9)  # of a model's map values in a category: the ends of its colours


@dataclass
class MapTile:
    """What one model makes of an image; without a map ``uri`` is ``None``, without a result ``score`` is NaN too."""

    model: str
    score: float = math.nan
    image_error: float = math.nan
    pixel_error: float = math.nan
    anomaly_map: NDArray[np.uint8] | None = None
    limits: tuple[float, float] = (0, 255)
    uri: str | None = None


@dataclass
class GalleryRow:
    """An image of the test set and what each model makes of it; pictures are ``None`` without a file.

    Attributes:
        category: Category of the image.
        path: Path of the image.
        mask_path: Path of its mask.
        anomalous: Ground truth.
        tiles: Those of the models with a result; of all models, in the order of the tables, once it is drawn.
        image_uri: The image.
        mask_uri: Its mask.
    """

    category: str
    path: str
    mask_path: str
    anomalous: bool
    tiles: list[MapTile] = field(default_factory=list)
    image_uri: str | None = None
    mask_uri: str | None = None

    @property
    def name(self) -> str:
        """The last folder and name of the image's path."""
        return "/".join(PurePath(self.path).parts[-2:])

    @property
    def miss(self) -> float:
        """Mean error over the models."""
        return mean_of_known([mean_of_known([tile.image_error, tile.pixel_error]) for tile in self.tiles])


def worst_misses(output: Path, results: DatasetResults, max_pictures: int, max_rows: int) -> list[GalleryRow]:
    """Return the images that the models of a dataset miss most, worst first.

    The miss of an image is the mean of its image error and, where it has a mask, its pixel error
    (:mod:`~anomalib_clipad.compare.report.misses`), averaged over the models. Categories take turns, so that each
    has its worst images in the gallery as far as there is room. Of several seeds the first finished one is shown.

    Args:
        output: Folder of the comparison.
        results: Results of the dataset.
        max_pictures: Bound on the pictures.
        max_rows: Bound on the images.
    """
    room = min(max_rows, max_pictures // (len(results.models) + 2))
    by_category = [_worst(output, results, category, room) for category in results.categories]
    in_turn = [each for turn in zip_longest(*by_category) for each in sorted(filter(None, turn), key=_by_miss)]
    rows = sorted(in_turn[:room], key=_by_miss)
    for row in rows:
        _draw(row, results.models)
    return rows


def _worst(output: Path, results: DatasetResults, category: str, count: int) -> list[GalleryRow]:
    """Return the images of a category that are missed most; the maps of the others are let go of."""
    found: dict[str, GalleryRow] = {}
    masks: dict[tuple[str, tuple[int, int]], NDArray[np.bool_] | None] = {}
    for model in results.models:
        record = results.first_done(model, category)
        images = None if record is None else if_there(read_images, output, record.job)
        if images is None or not len(images.maps):
            continue
        tiles = _tiles(model, images, masks)
        files = zip(images.image_path.tolist(), images.mask_path.tolist(), images.gt_label.tolist(), strict=True)
        for (path, mask_path, anomalous), tile in zip(files, tiles, strict=True):
            found.setdefault(path, GalleryRow(category, path, mask_path, anomalous)).tiles.append(tile)
    rated = [row for row in found.values() if math.isfinite(row.miss)]
    return sorted(rated, key=_by_miss)[:count]


def _tiles(
    model: str, images: Images, masks: dict[tuple[str, tuple[int, int]], NDArray[np.bool_] | None]
) -> Iterator[MapTile]:
    """Yield the result for each image of a job; masks are read once for all jobs."""
    low, high = np.percentile(images.maps, _PERCENTILES)
    size = images.maps.shape[1:]
    errors = image_errors(images.pred_score, images.gt_label)
    for index, mask_path in enumerate(images.mask_path.tolist()):
        tile = MapTile(model, float(images.pred_score[index]), float(errors[index]), limits=(low, high))
        if size != (1, 1):  # what is recorded of a model without maps
            if (mask_path, size) not in masks:
                masks[mask_path, size] = pictures.open_mask(mask_path, size)
            mask = masks[mask_path, size]
            tile.anomaly_map = images.maps[index].copy()  # a view would keep all of them
            tile.pixel_error = math.nan if mask is None else pixel_error(tile.anomaly_map, mask)
        yield tile


def _draw(row: GalleryRow, models: Sequence[str]) -> None:
    """Draw the pictures of an image."""
    image = pictures.open_image(row.path)
    maps = [tile.anomaly_map for tile in row.tiles if tile.anomaly_map is not None]
    size = pictures.picture_size(image, maps[0].shape if maps else (1, 1))
    mask = pictures.open_mask(row.mask_path, size)
    for tile in row.tiles:
        if tile.anomaly_map is not None:
            tile.uri = pictures.map_uri(tile.anomaly_map, tile.limits, size, mask)
    by_model = {tile.model: tile for tile in row.tiles}
    row.tiles = [by_model.get(model) or MapTile(model) for model in models]
    row.image_uri = None if image is None else pictures.photograph_uri(image)
    row.mask_uri = None if mask is None else pictures.mask_uri(mask)


def _by_miss(row: GalleryRow) -> tuple[float, str]:
    """Order by miss, largest first, and by path where it is the same."""
    return -row.miss, row.path
