# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The photograph with the anomaly map over it and a box round each region, small enough for a browser."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageOps

from anomalib_clipad.prediction.page import Planes
from anomalib_clipad.prediction.predictions import Prediction
from anomalib_clipad.prediction.regions import Region

_SIDES = 640, 1024
"""Least and most pixels of the longer side of a picture."""

_THUMBNAIL = 160
_COLOURS = "turbo"


def overlay(path: str, prediction: Prediction, opacity: float, regions: Sequence[Region] = ()) -> Image.Image:
    """Lay the map over the photograph, the more opaque the higher it is, and draw a box round regions.

    Colours span [0, 1] where the model is calibrated, else the range of this map.
    """
    with Image.open(path) as opened:
        photograph = opened.convert("RGB")
    longer = max(photograph.size)
    shown = min(max(longer, _SIDES[0]), _SIDES[1])
    width, height = (max(1, round(side * shown / longer)) for side in photograph.size)
    photograph = photograph.resize((width, height))
    values = _scaled(prediction, (height, width))
    colours = colormaps[_COLOURS](values)[..., :3] * 255
    alpha = opacity * values[..., None]
    blended = Image.fromarray(((1 - alpha) * np.asarray(photograph) + alpha * colours).astype(np.uint8))
    draw, scale = ImageDraw.Draw(blended), width / prediction.original_size[1]
    for region in regions:
        left, top, of_width, of_height = (side * scale for side in region.box)
        draw.rectangle((left, top, left + of_width, top + of_height), outline="white", width=max(1, width // 256))
    return blended


def thumbnail(path: str) -> Image.Image:
    """A small square of the middle of an image file."""
    with Image.open(path) as opened:
        return ImageOps.fit(opened.convert("RGB"), (_THUMBNAIL, _THUMBNAIL))


def _scaled(prediction: Prediction, size: tuple[int, int]) -> Any:
    plane = prediction.anomaly_map
    values = Planes(plane, box=prediction.box).at(plane, size)
    if not prediction.calibrated:
        low, high = plane.min().item(), plane.max().item()
        values = (values - low) / max(high - low, 1e-6)
    return np.clip(values, 0, 1)
