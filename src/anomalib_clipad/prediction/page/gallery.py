# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Images of a run as its page shows them: small pictures, outlines, and what the tables say."""

import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from anomalib_clipad.pages.pictures import is_upright, jpeg, jpeg_uri, open_image, outline
from anomalib_clipad.prediction.geometry import Box, to_image
from anomalib_clipad.prediction.table import PredictionRow

EMBEDDED = 400
"""Images up to which a page holds its pictures, 20 kB each; those of more lie in ``FOLDER`` beside it."""

FOLDER = "report_files"

_SIDE = 256
_MAP_SIDE = 128
"""Pixels of the longer side of photographs, and of maps, which are blurred anyway."""

_BINS = 256


@dataclass(frozen=True)
class Shown:
    """An image on the page of a run.

    Attributes:
        row: What the tables say of it.
        anomalous: Ground truth, where there is one.
        size: Height and width of the photograph, on which the outlines are drawn.
        photo: JPEG file, or its name in ``FOLDER``; ``None`` where the image is gone.
        heat: Anomaly map, grey: the same.
        outline: Borders of the mask as an SVG path.
        truth: Borders of the ground truth's mask.
        upright: Whether a browser shows the file as it was scored: it turns photographs by their EXIF orientation.
    """

    row: PredictionRow
    anomalous: bool | None
    size: tuple[int, int]
    photo: bytes | str | None
    heat: bytes | str | None
    outline: str = ""
    truth: str = ""
    upright: bool = True


@dataclass(frozen=True)
class Planes:
    """What a model says of the pixels of an image, (H, W) each, on the CPU, and the box in which the image lies.

    Without a box the image fills the planes.
    """

    anomaly_map: Tensor
    mask: Tensor | None = None
    truth: Tensor | None = None
    box: Box | None = None

    def at(self, plane: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
        """One of the planes, resampled to a picture of the image of this height and width."""
        flat = plane.as_subclass(Tensor).float().reshape(plane.shape[-2:])
        return to_image(flat, self.box or (0.0, 0.0, float(flat.shape[1]), float(flat.shape[0])), size).numpy()


class Gallery:
    """Collects the images of a run; memory does not grow with their number beyond ``EMBEDDED`` pictures.

    Args:
        folder: Folder of the page, where pictures of large runs go.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.shown: list[Shown] = []
        self.levels = np.zeros(_BINS)
        """How many values of the maps lie in each of equal bins of [0, 1]."""
        self.maxima: list[float] = []
        self._held = 0

    def add(
        self, row: PredictionRow, planes: Planes, anomalous: bool | None = None, preview: Tensor | None = None
    ) -> None:
        """Add an image; ``preview`` is a small uint8 picture (3, h, w) of it, where its file need not be read again."""
        photo = open_image(row.path, _SIDE) if preview is None else Image.fromarray(preview.permute(1, 2, 0).numpy())
        size = _fitted(planes.anomaly_map.shape[-2:] if photo is None else (photo.height, photo.width), _SIDE)
        values = planes.at(planes.anomaly_map, _fitted(size, _MAP_SIDE)).clip(0, 1)
        self.levels += np.histogram(values, _BINS, (0, 1))[0]
        self.maxima.append(float(values.max()))
        mask, truth = (
            "" if plane is None or not plane.any() else outline(planes.at(plane, size) > 0.5)
            for plane in (planes.mask, planes.truth)
        )
        heat = jpeg(Image.fromarray(np.rint(255 * values).astype(np.uint8)))
        upright = bool(row.path) and is_upright(row.path)
        small = None if photo is None else jpeg(photo)
        self.shown.append(Shown(row, anomalous, size, small, heat, mask, truth, upright))
        self._held += 1
        if self._held > EMBEDDED:
            self.unload()

    def unload(self) -> None:
        """Write the pictures that are still held to ``FOLDER``.

        A name is that of its content: pictures of an earlier page are never replaced by others.
        """
        for index, each in enumerate(self.shown):
            if isinstance(each.heat, bytes):
                self.shown[index] = replace(each, photo=self._stored(each.photo), heat=self._stored(each.heat))
        self._held = 0

    def settle(self) -> None:
        """Let all pictures be in the page, or all in ``FOLDER``."""
        if len(self.shown) > EMBEDDED:
            self.unload()

    def remove_unused(self) -> None:
        """Remove the pictures of earlier pages from ``FOLDER``."""
        folder = self.folder / FOLDER
        used = {name for each in self.shown for name in (each.photo, each.heat)}
        for path in folder.glob("*.jpg*"):
            if path.name not in used:
                path.unlink()
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    def limits(self) -> tuple[float, float]:
        """Values of the maps that the colours begin and end with: the median of all, and nearly the highest maximum."""
        share = self.levels.cumsum() / max(1.0, self.levels.sum())
        low = float(np.searchsorted(share, 0.5)) / _BINS
        high = float(np.quantile(self.maxima, 0.95)) if self.maxima else 1.0
        return low, max(high, low + 1 / _BINS)

    @classmethod
    def joined(cls, parts: Sequence["Gallery"]) -> "Gallery":
        """One gallery of those of several processes, each image once."""
        whole = cls(parts[0].folder)
        for part in parts:
            whole.levels += part.levels
            whole.maxima += part.maxima
        by_path: dict[str, Shown] = {}
        for position, each in enumerate(each for part in parts for each in part.shown):
            by_path.setdefault(each.row.path or f"{position}", each)
        whole.shown = list(by_path.values())
        return whole

    def _stored(self, content: bytes | str | None) -> str | None:
        if not isinstance(content, bytes):
            return content
        name = f"{hashlib.sha256(content).hexdigest()[:20]}.jpg"
        path = self.folder / FOLDER / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f"{name}.{os.getpid()}.part")
            draft.write_bytes(content)
            draft.replace(path)
        return name


def source(picture: bytes | str | None) -> str | None:
    """Address of a picture, as the page names it."""
    return jpeg_uri(picture) if isinstance(picture, bytes) else picture and f"{FOLDER}/{picture}"


def _fitted(size: Iterable[int], side: int) -> tuple[int, int]:
    """Height and width within a square, in proportion."""
    height, width = size
    scale = min(1.0, side / max(height, width))
    return max(1, math.ceil(height * scale)), max(1, math.ceil(width * scale))
