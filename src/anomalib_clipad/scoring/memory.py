# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Patches of references, images known to be good, by class; in checkpoints and exported graphs, unlike the images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from anomalib.models.components.sampling import KCenterGreedy
from torch import Tensor, nn
from torch.nn import functional

from anomalib_clipad.scoring.neighbours import reference_distances

_EQUAL = 1e-5
"""Patches of one image, scored twice, differ less than this in their cosines."""

_BUFFERS = ("patches", "class_index", "image_index", "counts")


class Memory(nn.Module):
    """Unit patch tokens (L, M, D) of the references of all classes, of L tapped layers and width D.

    ``class_index`` (M,) says of which class each is, ``image_index`` (M,) of which image of that class, and
    ``counts`` (K,) how many images each class has. Copies of an image, turned or mirrored, count as that image.
    """

    patches: Tensor
    class_index: Tensor
    image_index: Tensor
    counts: Tensor

    def __init__(self, n_layers: int, width: int) -> None:
        super().__init__()
        self.register_buffer("patches", torch.empty(n_layers, 0, width))
        for name in _BUFFERS[1:]:
            self.register_buffer(name, torch.empty(0, dtype=torch.long))

    def __len__(self) -> int:
        """Number M of patches."""
        return self.patches.shape[1]

    def add(self, index: int, layers: Sequence[Tensor], copies: int = 1, kept: Tensor | None = None) -> None:
        """Remember patch tokens (B, N, D) of each layer, of B images of a class that follow what is known of it.

        With ``copies`` each so many rows belong to one image. Where ``kept`` (B, N) is false a patch is left out.
        """
        n_rows, n_patches = layers[0].shape[:2]
        rows = torch.stack([functional.normalize(layer.float(), dim=-1).flatten(0, 1) for layer in layers])
        known = self.n_images(index)
        images = (known + torch.arange(n_rows) // copies).repeat_interleave(n_patches)
        if kept is not None:
            chosen = kept.flatten().cpu()
            rows, images = rows[:, chosen.to(rows.device)], images[chosen]
        counts = self.counts.new_zeros(max(len(self.counts), index + 1))
        counts[: len(self.counts)] = self.counts
        counts[index] = known + n_rows // copies
        self.patches = torch.cat([self.patches, rows.to(self.patches)], dim=1)
        self.class_index = _appended(self.class_index, torch.full((len(images),), index))
        self.image_index = _appended(self.image_index, images)
        self.counts = counts

    def forget(self, index: int | None = None) -> None:
        """Forget the references of a class, or of all."""
        known = torch.arange(len(self.counts)).to(self.counts)
        self.counts = self.counts * (known != index) if index is not None else torch.zeros_like(self.counts)
        self._keep(self.class_index != index if index is not None else torch.zeros_like(self.class_index).bool())

    def select(self, indices: Sequence[int]) -> None:
        """Keep what belongs to the classes of these indices only, and number them anew, in this order."""
        self._keep(torch.isin(self.class_index, torch.tensor(indices).to(self.class_index)))
        numbers = self.class_index.new_zeros(max(indices, default=0) + 1)
        numbers[list(indices)] = torch.arange(len(indices)).to(numbers)
        self.class_index = numbers[self.class_index]
        self.counts = torch.tensor([self.n_images(index) for index in indices]).to(self.counts)

    def thin(self, index: int, n_patches: int) -> None:
        """Keep so many patches of a class, evenly spread: the host's coreset, of all layers side by side."""
        rows = (self.class_index == index).nonzero().flatten()
        if len(rows) <= n_patches:
            return
        joined = self.patches[:, rows].permute(1, 0, 2).flatten(1)
        coreset = KCenterGreedy(joined, (n_patches + 0.5) / len(rows))
        with torch.random.fork_rng(devices=[]):  # equal patches, equal coreset
            torch.manual_seed(0)
            coreset.model.random_state = np.random.RandomState(0)
            chosen = coreset.select_coreset_idxs()
        kept = self.class_index != index
        kept[rows[torch.as_tensor(chosen, device=rows.device)]] = True
        self._keep(kept)

    def n_images(self, index: int) -> int:
        """Number of references of a class."""
        return int(self.counts[index]) if index < len(self.counts) else 0

    def knows(self, class_index: Tensor | None, batch_size: int) -> Tensor:
        """Whether there are references of the class of each of B images (B,); ``None`` stands for the only class."""
        index = self.class_index.new_zeros(batch_size) if class_index is None else class_index
        return (index[:, None] == self.class_index).any(dim=1)

    def forward(
        self, patches: Sequence[Tensor], class_index: Tensor | None = None, *, left_out: bool = False
    ) -> Tensor:
        """Distances (B, N) in [0, 1] of patch tokens (B, N, D) of each layer to the references of their classes (B,).

        ``None`` stands for the only class. An image of a class without references has the distance 0. With ``left_out``
        an image that is a reference itself is compared with the others only.
        """
        if class_index is None and not left_out:
            return reference_distances(patches, list(self.patches))
        size = patches[0].shape[0]
        index = self.class_index.new_zeros(size) if class_index is None else class_index
        if torch.compiler.is_compiling():
            return reference_distances(patches, list(self.patches), index[:, None] == self.class_index)
        # One product for each class instead of one with the memory of all.
        distances = patches[0].new_zeros(patches[0].shape[:2], dtype=torch.float32)
        for each in index.unique().tolist():
            images, rows = index == each, self.class_index == each
            if rows.any():
                of_class, memory = [layer[images] for layer in patches], list(self.patches[:, rows])
                allowed = ~_own(of_class[-1], memory[-1], self.image_index[rows]) if left_out else None
                distances[images] = reference_distances(of_class, memory, allowed)
        return distances

    def _keep(self, rows: Tensor) -> None:
        self.patches = self.patches[:, rows]
        self.class_index, self.image_index = self.class_index[rows], self.image_index[rows]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Make room for what is loaded; checkpoints of earlier versions hold no references."""
        self.forget()
        for name in _BUFFERS:
            saved = state_dict.setdefault(prefix + name, getattr(self, name))
            setattr(self, name, torch.empty_like(saved, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _appended(known: Tensor, new: Tensor) -> Tensor:
    return torch.cat([known, new.to(known)])


def _own(patches: Tensor, memory: Tensor, image_index: Tensor) -> Tensor:
    """Which rows of a memory (M, D) are those of each image itself (B, M): all its patches (B, N, D) are among them."""
    cosines = functional.normalize(patches.float(), dim=-1) @ memory.T  # (B, N, M)
    n_images = int(image_index.max()) + 1
    nearest = cosines.new_full((*cosines.shape[:2], n_images), -1.0)
    nearest.scatter_reduce_(2, image_index.expand_as(cosines), cosines, "amax")
    return (nearest.amin(dim=1) > 1 - _EQUAL)[:, image_index]
