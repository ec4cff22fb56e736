# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What the page does, without the page: images are seen once, words are tried as often as one likes."""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from anomalib_clipad.base.recent import Recent
from anomalib_clipad.data.image_files import image_size
from anomalib_clipad.models.clip_module import ClipModule
from anomalib_clipad.prediction.encoded_image import EncodedImage
from anomalib_clipad.prediction.predictions import Prediction

KEPT_IMAGES = 24
"""Encoded images that are kept of all visitors together, 5.5 MB each with the paper's backbone."""

MOST_REFERENCES = 8


class Scored(NamedTuple):
    """A prediction, seconds of the tower, 0 where it had seen the image before, and seconds of the words."""

    prediction: Prediction
    seeing: float
    scoring: float


class Workbench:
    """Scores image files under words, with one model that learns nothing of them.

    Args:
        clipad: The model.
        max_megapixels: Largest image that is taken.

    Raises:
        ValueError: If no image could be taken.
    """

    def __init__(self, clipad: ClipModule, max_megapixels: float) -> None:
        if max_megapixels <= 0:
            msg = f"Expected max_megapixels to be above 0, but got {max_megapixels}."
            raise ValueError(msg)
        self.clipad = clipad
        self.max_megapixels = max_megapixels
        self._seen = Recent[EncodedImage](KEPT_IMAGES)

    @property
    def states(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The model's own normal and anomalous states."""
        prompts = self.clipad.collaborators.text_engine.prompts
        return prompts.normal_states, prompts.anomalous_states

    def score(
        self, path: str, class_name: str, normal_states: str, anomalous_states: str, references: Sequence[str] = ()
    ) -> Scored:
        """Score an image file; states are one a line, or between commas, references files of good images.

        Raises:
            OSError: If a file cannot be read.
            ValueError: If an image is too large, there are too many references, or the words are not valid.
        """
        if len(references) > MOST_REFERENCES:
            msg = f"Expected at most {MOST_REFERENCES} references, but got {len(references)}. Remove some."
            raise ValueError(msg)
        start = time.perf_counter()
        known = self._seen.get(path) is not None
        encoded, good = self._encode(path), [self._encode(each) for each in references]
        seen = time.perf_counter()
        prediction = encoded.predict(
            class_name,
            normal_states=split_states(normal_states),
            anomalous_states=split_states(anomalous_states),
            references=good or None,
        )
        return Scored(prediction, 0.0 if known else seen - start, time.perf_counter() - seen)

    def _encode(self, path: str) -> EncodedImage:
        encoded = self._seen.get(path)
        if encoded is None:
            size = image_size(path)
            if size is not None and size[0] * size[1] > self.max_megapixels * 1e6:
                msg = (
                    f"Expected an image of at most {self.max_megapixels:g} megapixels, but got {Path(path).name} of "
                    f"{size[1]} x {size[0]} pixels. Make it smaller, or start the demo with a higher --max_megapixels."
                )
                raise ValueError(msg)
            encoded = self._seen[path] = self.clipad.encode(path)
        return encoded


def split_states(text: str) -> list[str]:
    r"""States that a person has typed, one a line or between commas.

    Example:
        >>> split_states("torn {}, {} with a burr\n\nwet {}")
        ['torn {}', '{} with a burr', 'wet {}']
    """
    return [state for part in re.split(r"[\n,]", text) if (state := part.strip())]
