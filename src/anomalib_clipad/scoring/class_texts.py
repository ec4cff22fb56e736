# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The classes a model knows, and the text embeddings that its images are compared with."""

import torch
from torch import Tensor, nn

from anomalib_clipad.base.text import list_some


class ClassTexts(nn.Module):
    """Text embeddings (K, C, 2), normal and anomalous, of K named classes; in checkpoints and exported graphs."""

    embeddings: Tensor

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.names: list[str] = []
        self.register_buffer("embeddings", torch.empty(0, embed_dim, 2))

    def add(self, name: str, embeddings: Tensor) -> int:
        """Make a class known by its unit embeddings (C, 2), or give a known one new ones; return its index."""
        index = self.names.index(name) if name in self.names else len(self.names)
        known, row = self.embeddings, embeddings.to(self.embeddings)[None]
        # A new tensor: the old one may be an inference tensor, or in use.
        self.embeddings = torch.cat([known[:index], row, known[index + 1 :]])
        self.names[index : index + 1] = [name]
        return index

    def replace(self, names: list[str], embeddings: Tensor) -> None:
        """Forget all classes and know these: K names and their embeddings (K, C, 2)."""
        self.names = list(names)
        self.embeddings = embeddings.to(self.embeddings)

    def forward(self, class_index: Tensor | None = None, batch_size: int | None = None) -> Tensor:
        """Text embeddings (B, C, 2) of the class of each image (B,); for ``None`` (C, 2) of the only class known.

        Whatever else ``class_index`` is, is a ValueError, but for an index without a class in a compiled graph, which
        cannot raise. ``batch_size`` checks its length.
        """
        count = len(self.embeddings)
        if not count:
            msg = "Expected text embeddings of at least one class, but got none. Add a class first."
            raise RuntimeError(msg)
        if class_index is None:
            if count > 1:
                msg = f"Expected class_index for a model of {count} classes, but got none. {self._describe()}"
                raise ValueError(msg)
            return self.embeddings[0]
        if not torch.compiler.is_compiling():
            if batch_size is not None and class_index.shape != (batch_size,):
                msg = (
                    f"Expected class_index to hold one index for each of {batch_size} images, "
                    f"but got shape {tuple(class_index.shape)}."
                )
                raise ValueError(msg)
            if not ((class_index >= 0) & (class_index < count)).all():
                msg = (
                    f"Expected class_index to be between 0 and {count - 1}, but got {class_index.tolist()}. "
                    f"{self._describe()}"
                )
                raise ValueError(msg)
        return self.embeddings[class_index]

    def _describe(self) -> str:
        return f"Classes: {list_some([f'{index} {name}' for index, name in enumerate(self.names)], 20)}."
