# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Small videos whose frames can be told apart."""

from pathlib import Path

import cv2
import numpy as np

from layouts import DEFAULT_SIZE, draw

RATE = 10


def write_video(path: Path, frames: int, *, anomalous: frozenset[int] = frozenset(), size: int = DEFAULT_SIZE) -> Path:
    """Write frames at :data:`RATE` a second, as motion JPEG, which every OpenCV has. Red is 5 times the number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), RATE, (size, size))
    assert writer.isOpened()
    for number in range(frames):
        image = np.array(draw(number, anomalous=number in anomalous, size=size)[0])
        image[..., 0] = min(5 * number, 255)
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    writer.release()
    return path
