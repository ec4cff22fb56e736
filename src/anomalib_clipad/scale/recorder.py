# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Scores what has arrived, a batch at a time, and keeps it: pictures, then the journal, then tables and page."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from anomalib_clipad import SDP, SDPPlus
from anomalib_clipad.data.image_loader import ListedImage, engine_transform, read_ahead
from anomalib_clipad.prediction.page import Planes
from anomalib_clipad.prediction.predictions import Prediction
from anomalib_clipad.prediction.table import PredictionRow, row_alone, write_csv
from anomalib_clipad.scale.album import Album
from anomalib_clipad.scale.journal import Entry, Journal, Stamp
from anomalib_clipad.scale.notify import Outbox

_SHARE = 20
"""Tables and page are written again after as many times the seconds that they took: at most 5 % of the time."""


class Taken(NamedTuple):
    """An image to score, in memory, or why there is none; with the stamp of its file, or its time in a video."""

    path: str
    image: Any = None
    error: str | None = None
    stamp: Stamp | None = None
    seconds: float | None = None


class Recorder:
    """Scores images and keeps what was found.

    Args:
        model: Scores them.
        folder: Folder of the output.
        journal: What is done.
        outbox: Tells others of anomalous images.
        album: The page; ``None`` for none.
        refresh: Least seconds between two times that tables and page are written.
        told: Is called with each row that is done.
    """

    def __init__(
        self,
        model: SDP | SDPPlus,
        folder: Path,
        journal: Journal,
        outbox: Outbox,
        album: Album | None,
        refresh: float,
        told: Callable[[PredictionRow], None] | None = None,
    ) -> None:
        self.journal = journal
        self._model, self._folder, self._outbox, self._album = model, folder, outbox, album
        self._refresh, self._told = refresh, told
        self._stale, self._due = True, 0.0  # what a killed process has not written

    def record(self, batch: Sequence[Taken]) -> list[PredictionRow]:
        """Score images and keep them; when this returns they are done.

        Raises:
            OSError: If something cannot be written. The images are not done then; earlier ones are.
        """
        places = [place for place, taken in enumerate(batch) if taken.error is None]
        predictions, unfit = self._predict([batch[place].image for place in places]) if places else ({}, {})
        number_of = {place: number for number, place in enumerate(places)}
        entries, pictures = [], []
        first, now = len(self.journal), datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        for place, taken in enumerate(batch):
            number, position = number_of.get(place, -1), first + place
            item = predictions.get(number)
            if item is None:
                reason = taken.error or unfit[number]
                row = PredictionRow(taken.path, self._model.class_name, error=reason, position=position)
            else:
                row = replace(row_alone(item), path=taken.path, position=position)
                pictures.append((row, Planes(item.anomaly_map, item.pred_mask, box=item.box), item.preview))
            notify = tuple(self._outbox.targets) if row.label == "anomalous" else ()
            entries.append(Entry(row, taken.stamp, taken.seconds, now, notify))
        if self._album is not None:
            self._album.add(pictures)
        self.journal.append(entries)
        self._stale = True
        self._outbox.put(entries)
        rows = [entry.row for entry in entries]
        if self._told is not None:
            for row in rows:
                self._told(row)
        return rows

    def report(self, *, last: bool = False) -> None:
        """Write tables and page, if there is something new and it is time, or the last time.

        Raises:
            OSError: If they cannot be written.
        """
        start = time.monotonic()
        if self._outbox.failure is not None:
            raise self._outbox.failure
        if not self._stale or (start < self._due and not last):
            return
        rows = self.journal.newest()
        write_csv(self._folder, rows)
        if self._album is not None and rows:
            self._album.write(rows)
        end = time.monotonic()
        self._stale, self._due = False, end + max(self._refresh, _SHARE * (end - start))

    def _predict(self, images: Sequence[Any]) -> tuple[dict[int, Prediction], dict[int, str | None]]:
        """Predictions of the images by their place, and why others do not fit the model."""
        try:
            found = self._model.predict(images, batch_size=max(1, len(images)))
        except OSError:
            # None of them fits: that is all that can be wrong with images in memory.
            listed = [ListedImage("", image=image, position=number) for number, image in enumerate(images)]
            read = read_ahead([listed], engine_transform(self._model.pre_processor))
            unfit = {each.source.position: each.reason for _, skipped in read for each in skipped}
            if len(unfit) < len(images):
                raise
            return {}, dict(unfit)
        return {item.position: item for item in found}, {row.position: row.error for row in found.skipped}
