# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Images that are encoded once and scored under many words."""

from itertools import chain, islice
from typing import TYPE_CHECKING

import torch

from anomalib_clipad.data.image_files import ImageLike
from anomalib_clipad.data.image_loader import engine_transform, read_ahead
from anomalib_clipad.prediction.encoded_image import EncodedImage
from anomalib_clipad.prediction.predictions import in_batches
from anomalib_clipad.prediction.table import describe_skipped, require_readable

if TYPE_CHECKING:
    from anomalib_clipad.prediction.clip_prediction import ClipPrediction as _Base
else:
    _Base = object


class ClipEncoding(_Base):
    """The method by which a model sees an image before it is told what it shows; part of ``ClipModule``."""

    @torch.no_grad()
    def encode(self, image: ImageLike) -> EncodedImage:
        """Run the tower over one image, and keep what it makes of it: changed words then cost the words alone.

        Args:
            image: A file, a Pillow image, an array or a tensor, as in :meth:`predict`.

        Returns:
            The image, to be scored by its ``predict(class_name, normal_states=..., anomalous_states=...)``.

        Raises:
            FileNotFoundError: If there is no such file.
            OSError: If the file cannot be read.
            RuntimeError: If SDP+ has no heads.
            TypeError: If it is not an image.
            ValueError: If it is not valid, or not one image.

        Example:
            >>> import numpy as np
            >>> from anomalib_clipad import SDP
            >>> encoded = SDP("clipad-tiny").encode(np.zeros((90, 120, 3), dtype=np.uint8))
            >>> [encoded.predict(name).class_name for name in ("gasket", "washer")]
            ['gasket', 'washer']
        """
        listed = [*islice(chain.from_iterable(in_batches(image, None, 2)), 2)]
        if len(listed) != 1:
            msg = f"Expected one image, but got {'several' if listed else 'none'}. Encode one after the other."
            raise ValueError(msg)
        self.on_predict_start()  # refuses what `predict` refuses
        self.eval()
        [(read, unreadable)] = read_ahead([listed], engine_transform(self.pre_processor), threads=1)
        require_readable([describe_skipped(each) for each in unreadable])
        return EncodedImage(self, read[0], self.model.see(read[0].pixels[None].to(self.device)))
