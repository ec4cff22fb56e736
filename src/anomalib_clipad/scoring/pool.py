# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Images of a run that score each other, class by class: tokens first, then scores."""

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anomalib_clipad.base.allocation import CachePlace, allocate
from anomalib_clipad.host.command_line import plain_errors
from anomalib_clipad.scoring.fusion import DISTANCE_GAIN, PoolScores, as_distances
from anomalib_clipad.scoring.neighbours import mutual_scores, smoothed_by_neighbours

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pool:
    """Lets the images of each class in a run, of which nobody has said whether they are good, score each other.

    Args:
        minimum: Images of a class from which on they do; fewer are scored without.
        maximum: Images that are compared with each other; more are split at random into equal parts, as MuSc does.
        seed: Seed of that split.
        tokens: Where the patch tokens of all images are kept: ``"memory"`` or ``"disk"``, in half precision.

    Raises:
        ValueError: If an argument is not valid.
    """

    minimum: int = 8
    maximum: int = 400
    seed: int = 0
    tokens: CachePlace = "memory"

    @plain_errors()
    def __post_init__(self) -> None:
        if not 2 <= self.minimum <= self.maximum:
            msg = (
                "Expected pool.minimum to be at least 2 and at most pool.maximum, but got "
                f"{self.minimum} and {self.maximum}."
            )
            raise ValueError(msg)
        if self.tokens not in {"memory", "disk"}:
            msg = f"Expected pool.tokens to be memory or disk, but got {self.tokens!r}."
            raise ValueError(msg)

    @classmethod
    def of(cls, given: "Pool | Mapping[str, Any] | bool | None") -> "Pool | None":
        """Pool of what a user gave: whether to use one, or arguments by name."""
        if given is None or isinstance(given, bool):
            return cls() if given else None
        return given if isinstance(given, Pool) else cls(**given)


class PoolTokens:
    """Patch tokens (M, L, N, D) in half precision and image embeddings (M, C) of up to M images, as they come."""

    def __init__(self, options: Pool, n_images: int, folder: Path) -> None:
        self.options = options
        self._n_images, self._folder = n_images, folder
        self._patches: Tensor | None = None
        self._embeddings: list[Tensor] = []
        self._classes: list[Tensor] = []
        self._grid = (0, 0)
        self._seen = 0

    def add(self, layers: list[Tensor], grid: tuple[int, int], embeddings: Tensor, class_index: Tensor) -> None:
        """Add B images: patch tokens (B, N, D) of each of L layers, image embeddings (B, C), classes (B,)."""
        found = torch.stack(layers, dim=1).half().cpu()
        if self._patches is not None and grid != self._grid:
            grids = " and ".join(f"{rows}x{columns}" for rows, columns in (self._grid, grid))
            msg = f"Expected images of one size in a pool, but got such of {grids} patches. Use resize=squash or pad."
            raise ValueError(msg)
        if self._patches is None:
            shape = (self._n_images, *found.shape[1:])
            self._patches, self._grid = allocate(shape, self.options.tokens, self._folder, "pool.tokens"), grid
        self._patches[self._seen : self._seen + len(found)] = found
        self._seen += len(found)
        self._embeddings.append(embeddings.float().cpu())
        self._classes.append(class_index.cpu())

    def scores(self, class_names: list[str], device: torch.device | str = "cpu") -> "ScoredPool":
        """Let the images of each class score each other, on a device."""
        n_patches = 0 if self._patches is None else self._patches.shape[2]
        patch_scores, image_scores = torch.zeros(self._seen, n_patches), torch.zeros(self._seen)
        known, sizes = torch.zeros(self._seen, dtype=torch.bool), dict[str, int]()
        classes = torch.cat([torch.empty(0, dtype=torch.long), *self._classes])
        for index in classes.unique().tolist():
            rows, name = (classes == index).nonzero().flatten(), class_names[index]
            if len(rows) < self.options.minimum:
                logger.warning(
                    "Expected at least %d images of %s in a pool (pool.minimum), but got %d: they are scored without.",
                    self.options.minimum,
                    name,
                    len(rows),
                )
                continue
            known[rows], sizes[name] = True, len(rows)
            for part in self._parts(rows):
                patch_scores[part], image_scores[part] = self._scored(part, device)
        return ScoredPool(PoolScores(patch_scores, image_scores, known), sizes)

    def of_class(self, index: int) -> tuple[Tensor, list[Tensor]]:
        """Which images are of a class (B,), and their patch tokens (B, N, D) of each layer, in half precision."""
        rows = (torch.cat(self._classes) == index).nonzero().flatten()
        tokens: Any = self._patches
        return rows, [tokens[rows, layer] for layer in range(tokens.shape[1])]

    def _scored(self, rows: Tensor, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Scores of the patches and the images of some rows by each other."""
        tokens: Any = self._patches
        patches = mutual_scores((tokens[rows, layer].to(device) for layer in range(tokens.shape[1])), self._grid)
        maxima = (DISTANCE_GAIN * as_distances(patches)).clamp(max=1).amax(dim=-1)
        embeddings = torch.cat(self._embeddings)[rows]
        return patches, smoothed_by_neighbours(maxima, embeddings)

    def _parts(self, rows: Tensor) -> Iterator[Tensor]:
        """Equal parts of the images of a class, drawn at random where there are too many."""
        n_parts = math.ceil(len(rows) / self.options.maximum)
        if n_parts == 1:
            return iter((rows,))
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.options.seed))
        return iter(rows[order].tensor_split(n_parts))


@dataclass(frozen=True)
class ScoredPool:
    """What the M images of a run say of each other, in their order, and of how many images a class was scored."""

    scores: PoolScores
    sizes: dict[str, int]

    def of(self, rows: slice, device: torch.device | str = "cpu") -> PoolScores:
        """Scores of some images that follow each other."""
        return PoolScores(*(part[rows].to(device) for part in self.scores))
