# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Frames of video files and cameras, by OpenCV's own reader."""

import logging
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import cv2
import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)


class Frame(NamedTuple):
    """A frame: its name, its number from 0, its time in seconds, and its pixels (H, W, 3), RGB of uint8."""

    name: str
    number: int
    seconds: float
    image: NDArray[np.uint8]


class Video:
    """A video file, a camera or a stream.

    Args:
        source: Path of a file; number of a camera, such as ``"0"``; address of a stream, such as ``rtsp://…``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If OpenCV cannot open it.
    """

    def __init__(self, source: str) -> None:
        self.live = source.isdigit() or "://" in source
        self.name = _name(source)
        if not self.live and not Path(source).is_file():
            msg = (
                f"Expected --input to be a video file, a camera's number or an address, but found none at {self.name}."
            )
            raise FileNotFoundError(msg)
        cv2.setNumThreads(0)  # the model has the cores
        self._capture: Any = cv2.VideoCapture(int(source) if source.isdigit() else source)
        if not self._capture.isOpened():
            msg = (
                f"Expected --input to be a video that OpenCV reads, but it cannot open {self.name}. A file may be "
                "damaged, or of a codec that it does not have: convert it, for example to H.264 in .mp4. A camera "
                "may be in use."
            )
            raise ValueError(msg)

    def frames(self, every: int, after: int = -1) -> Generator[Frame]:
        """Read each frame whose number a number divides.

        Of a file those up to ``after`` are passed over, one by one, since seeking is not exact with all codecs. Of a
        camera the count goes on there, and time is in seconds since 1970.
        """
        number = after + 1 if self.live else 0
        try:
            while self._capture.grab():
                if number % every == 0 and number > after:
                    seconds = time.time() if self.live else self._seconds(number)
                    found, pixels = self._capture.retrieve()
                    if found:
                        yield Frame(f"{self.name}#{number:06d}", number, seconds, _rgb(pixels))
                    else:
                        logger.warning("Left out frame %d of %s, which cannot be decoded.", number, self.name)
                number += 1
        finally:
            expected = 0 if self.live else int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
            self._capture.release()
        if number < expected:
            logger.warning(
                "%s ended after %d of %d frames: it may be damaged, or still being written.",
                self.name,
                number,
                expected,
            )

    def _seconds(self, number: int) -> float:
        seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        return round(number / rate if seconds <= 0 and rate > 0 else seconds, 3)


def number_of(name: str) -> int:
    """Number of a frame by its name.

    Example:
        >>> number_of("clip#2.mp4#000120")
        120
    """
    return int(name.rpartition("#")[2])


def _name(source: str) -> str:
    """What frames are named by: addresses without user and password."""
    if source.isdigit():
        return f"camera{source}"
    if "://" not in source:
        return os.path.abspath(source)  # noqa: PTH100 - keeps links
    parts = urlsplit(source)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def _rgb(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    code = cv2.COLOR_GRAY2RGB if pixels.ndim == 2 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(pixels, code), dtype=np.uint8)
