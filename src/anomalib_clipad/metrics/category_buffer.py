# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Predictions and ground truth of one category's images, kept until its metrics are computed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch

from anomalib_clipad.base.processes import gather

Columns = dict[str, torch.Tensor | None]  # values (B, ...) of B images by field; None where images have no such field


class CategoryBuffer:
    """Fields of images in main memory, with the images' paths (``None`` where unknown)."""

    def __init__(self) -> None:
        self._paths: list[str | None] = []
        self._parts: list[Columns] = []

    def __len__(self) -> int:
        return len(self._paths)

    def append(self, columns: Mapping[str, torch.Tensor | None], paths: Sequence[str | Path | None]) -> None:
        """Keep columns as plain tensors in main memory: anomalib's batches hold torchvision's image and mask types."""
        self._paths += [None if path is None else str(path) for path in paths]
        self._parts.append(
            {
                field: None if values is None else values.detach().as_subclass(torch.Tensor).cpu()
                for field, values in columns.items()
            }
        )

    def joined(self) -> Columns:
        """Return the columns of all images; a field that is missing from any image is ``None``."""
        joined: Columns = {}
        for field in self._parts[0] if self._parts else ():
            values = [part[field] for part in self._parts]
            present = [value for value in values if value is not None]
            sizes = {tuple(value.shape[1:]) for value in present}
            if len(sizes) > 1:
                msg = (
                    f"Expected {field} to have one size for exact metrics, but got {len(sizes)}. Use resize=squash or "
                    "pad, or count pixels: CategoryEvaluator(pixel_bins=65536)."
                )
                raise ValueError(msg)
            joined[field] = torch.cat(present) if len(present) == len(values) else None
        return joined

    def gather(self) -> "CategoryBuffer":
        """Return the buffers of all processes as one; each process must call it for the same category.

        An image counts once: a distributed sampler repeats some so that all processes get equally many.
        """
        merged = CategoryBuffer()
        for paths, columns in gather((self._paths, self.joined())):
            known = pd.Series([*merged._paths, *paths], dtype=object)
            rows = (known.isna() | ~known.duplicated())[len(merged) :].to_numpy().nonzero()[0].tolist()
            if rows:  # a process that has none of the category's images knows no fields either
                kept = {field: None if values is None else values[rows] for field, values in columns.items()}
                merged.append(kept, [paths[row] for row in rows])
        return merged

    @classmethod
    def merge(cls, buffers: Sequence["CategoryBuffer"]) -> "CategoryBuffer":
        """Return several buffers as one."""
        merged = cls()
        for buffer in buffers:
            merged._paths += buffer._paths
            merged._parts += buffer._parts
        return merged
