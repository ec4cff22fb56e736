# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of a watch, which outlive the process: the page of a run can be written again after a restart."""

import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from anomalib_clipad.base.files import atomic_write
from anomalib_clipad.prediction.page import Gallery, Planes, write_page
from anomalib_clipad.prediction.page.gallery import FOLDER, Shown
from anomalib_clipad.prediction.table import PredictionRow, as_line
from anomalib_clipad.scale.journal import Journal, Lines

logger = logging.getLogger(__name__)

SIDE_FILE = "shown.jsonl"


class Album:
    """The newest images, as the page shows them. Their pictures lie in ``report_files``, and what else it needs too.

    Colours of the maps begin at the median of the images' medians, for whose sake no histogram is kept.

    Args:
        folder: Folder of the output.
        rows: Rows of the images that are shown, of those that are done.
        most: Images that are kept; pictures of older ones are removed.
        model: Name of the model.

    Raises:
        OSError: If the side file cannot be read or written.
        ValueError: If it is damaged.
    """

    def __init__(self, folder: Path, rows: Sequence[PredictionRow], most: int, model: str = "") -> None:
        self.folder, self.model = folder, model
        self._kept: deque[tuple[Shown, dict[str, Any]]] = deque(maxlen=most)
        path = folder / FOLDER / SIDE_FILE
        self._lines = Lines(path)
        # Of an image that was not done when the process was killed there may be a line. Later lines count.
        known = {line["position"]: line for line in self._lines}
        lost = 0
        for row in rows:
            line = known.get(row.position)
            if line is None or line["path"] != row.path:
                lost += 1
                continue
            self._kept.append((_shown(row, line), line))
        if lost:
            logger.warning("The page leaves out %d images whose pictures are gone; the tables have them.", lost)
        with atomic_write(path) as draft:
            draft.write_text(
                "".join(as_line(line) for _, line in self._kept), encoding="utf-8", errors="backslashreplace"
            )

    def add(self, images: Sequence[tuple[PredictionRow, Planes, Tensor | None]]) -> None:
        """Add images, with small pictures (3, h, w) of them; they are shown once their rows are given to a page."""
        added = []
        for row, planes, preview in images:
            gallery = Gallery(self.folder)
            gallery.add(row, planes, preview=preview)
            gallery.unload()
            [shown] = gallery.shown
            levels = gallery.levels.cumsum()
            line = {
                "position": row.position,
                "path": row.path,
                "size": shown.size,
                "photo": shown.photo,
                "heat": shown.heat,
                "outline": shown.outline,
                "upright": shown.upright,
                "median": int(np.searchsorted(levels, levels[-1] / 2)),
                "peak": gallery.maxima[0],
            }
            added.append((shown, line))
        self._lines.append([line for _, line in added])
        self._kept += added

    def write(self, rows: Sequence[PredictionRow]) -> Path:
        """Write the page of those of the images that are still the newest of their path; return its path.

        Args:
            rows: What was last said of each file, unreadable ones too.
        """
        gallery = Gallery(self.folder)
        newest = {row.position for row in rows}
        for shown, line in self._kept:
            if shown.row.position in newest:
                gallery.shown.append(shown)
                gallery.levels[line["median"]] += 1
                gallery.maxima.append(line["peak"])
        skipped = [row for row in rows if row.error is not None][-(self._kept.maxlen or 0) :]
        return write_page(gallery, skipped, self.model)


def album_of(journal: Journal, folder: Path, most: int, model: str) -> Album:
    """The album of an output as it was left, see :class:`Album`."""
    shown = {entry.row.position for entry in [each for each in journal.entries if each.row.error is None][-most:]}
    return Album(folder, [entry.row for entry in journal.whole(shown)], most, model)


def _shown(row: PredictionRow, line: dict[str, Any]) -> Shown:
    height, width = line["size"]
    return Shown(row, None, (height, width), line["photo"], line["heat"], line["outline"], upright=line["upright"])
