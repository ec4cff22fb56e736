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
from anomalib_clipad.compare.report import pictures
from anomalib_clipad.compare.report.misses import image_errors, pixel_error
from anomalib_clipad.compare.report.tables import DatasetResults
from anomalib_clipad.metrics.report import mean_of_known

MAX_PICTURES = 360
"""Pictures of a page; about 10 kB each."""

MAX_ROWS = 48
"""Rows of a page, however few models there are."""

_PERCENTILES = (1, 99.9)  # of a model's map values in a category: the ends of its colours


@dataclass(frozen=True)
class MapTile:
    """What one model makes of an image; without a map ``uri`` is ``None``, without a result ``score`` is NaN too."""

    model: str
    uri: str | None
    score: float = math.nan
    image_error: float = math.nan
    pixel_error: float = math.nan


@dataclass(frozen=True)
class GalleryRow:
    """An image with what is known of it, and what each model makes of it. An URI is ``None`` without a file.

    Attributes:
        category: Category of the image.
        name: The last folder and name of the image's path.
        anomalous: Ground truth.
        miss: Mean error over the models.
        image_uri: The image.
        mask_uri: Its mask.
        tiles: One of each model, in the order of the tables.
    """

    category: str
    name: str
    anomalous: bool
    miss: float
    image_uri: str | None
    mask_uri: str | None
    tiles: list[MapTile]


@dataclass
class _Seen:
    """What one model has for one image; the map is ``None`` for models that give none."""

    anomaly_map: NDArray[np.uint8] | None
    limits: tuple[float, float]
    score: float
    image_error: float
    pixel_error: float

    @property
    def miss(self) -> float:
        return mean_of_known([self.image_error, self.pixel_error])


@dataclass
class _Candidate:
    """An image of the test set with the results of the models that have some."""

    category: str
    path: str
    mask_path: str
    anomalous: bool
    seen: dict[str, _Seen] = field(default_factory=dict)

    @property
    def miss(self) -> float:
        return mean_of_known([each.miss for each in self.seen.values()])


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
    return [_row(candidate, results.models) for candidate in sorted(in_turn[:room], key=_by_miss)]


def _worst(output: Path, results: DatasetResults, category: str, count: int) -> list[_Candidate]:
    """Return the images of a category that are missed most; the maps of the others are let go of."""
    found: dict[str, _Candidate] = {}
    masks: dict[tuple[str, tuple[int, int]], NDArray[np.bool_] | None] = {}
    for model in results.models:
        record = results.first_done(model, category)
        images = None if record is None else if_there(read_images, output, record.job)
        if images is None or not len(images.maps):
            continue
        for path, mask_path, anomalous, seen in _results(images, masks):
            candidate = found.setdefault(path, _Candidate(category, path, mask_path, anomalous))
            candidate.seen[model] = seen
    rated = [candidate for candidate in found.values() if math.isfinite(candidate.miss)]
    return sorted(rated, key=_by_miss)[:count]


def _results(
    images: Images, masks: dict[tuple[str, tuple[int, int]], NDArray[np.bool_] | None]
) -> Iterator[tuple[str, str, bool, _Seen]]:
    """Yield path, mask path, ground truth and result of each image of a job; masks are read once for all jobs."""
    low, high = np.percentile(images.maps, _PERCENTILES)
    size = images.maps.shape[1:]
    has_maps = size != (1, 1)  # what is recorded of a model without maps
    errors = image_errors(images.pred_score, images.gt_label)
    for index, (path, mask_path) in enumerate(zip(images.image_path.tolist(), images.mask_path.tolist(), strict=True)):
        anomaly_map, error = None, math.nan
        if has_maps:
            if (mask_path, size) not in masks:
                masks[mask_path, size] = pictures.open_mask(mask_path, size)
            mask = masks[mask_path, size]
            anomaly_map = images.maps[index].copy()  # a view would keep all of them
            error = math.nan if mask is None else pixel_error(anomaly_map, mask)
        seen = _Seen(anomaly_map, (low, high), float(images.pred_score[index]), float(errors[index]), error)
        yield path, mask_path, bool(images.gt_label[index]), seen


def _row(candidate: _Candidate, models: Sequence[str]) -> GalleryRow:
    """Draw the pictures of an image."""
    image = pictures.open_image(candidate.path)
    maps = [seen.anomaly_map for seen in candidate.seen.values() if seen.anomaly_map is not None]
    size = pictures.picture_size(image, maps[0].shape if maps else (1, 1))
    mask = pictures.open_mask(candidate.mask_path, size)
    tiles = []
    for model in models:
        seen = candidate.seen.get(model)
        if seen is None:
            tiles.append(MapTile(model, None))
        else:
            given = seen.anomaly_map
            uri = None if given is None else pictures.map_uri(given, seen.limits, size, mask)
            tiles.append(MapTile(model, uri, seen.score, seen.image_error, seen.pixel_error))
    return GalleryRow(
        category=candidate.category,
        name="/".join(PurePath(candidate.path).parts[-2:]),
        anomalous=candidate.anomalous,
        miss=candidate.miss,
        image_uri=None if image is None else pictures.photograph_uri(image),
        mask_uri=None if mask is None else pictures.mask_uri(mask),
        tiles=tiles,
    )


def _by_miss(candidate: _Candidate) -> tuple[float, str]:
    """Order by miss, largest first, and by path where it is the same."""
    return -candidate.miss, candidate.path
