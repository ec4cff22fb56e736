# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Tokens of a frozen tower, computed once for all epochs of training.

The tower sees the same images in every epoch and costs far more than the heads. Its tapped patches are kept in half
precision, in memory or in one file, and the training dataset is exchanged for one that yields them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from anomalib.data import ImageBatch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.tv_tensors import Mask
from tqdm import tqdm

from anomalib_clipad.base.allocation import CachePlace, allocate
from anomalib_clipad.scoring.heads import TappedPatches
from anomalib_clipad.training.borrowed import Borrowed


@dataclass
class TokenBatch:
    """A training batch of cached tokens: patches in float32, contiguous as a matrix product wants them.

    ``image`` is a placeholder: the host's pre-processor transforms the image of every batch.
    """

    patches: TappedPatches
    gt_mask: Tensor
    image_path: list[str]
    image: Tensor

    @property
    def batch_size(self) -> int:
        """Number B of images."""
        return len(self.image_path)


class CachedTokens(Dataset):
    """Drop-in for a training dataset that yields tokens (M, L, N, D) of M images, float16, and masks (M, H, W).

    An item is an index, a batch is read whole.
    """

    def __init__(self, tokens: Tensor, masks: Tensor, image_paths: Sequence[str], grid: tuple[int, int]) -> None:
        self.tokens = tokens
        self.masks = masks
        self.image_paths = list(image_paths)
        self.grid = grid

    def __len__(self) -> int:
        return len(self.image_paths)

    def __getitem__(self, index: int) -> int:
        return index

    def collate_fn(self, indices: list[int]) -> TokenBatch:
        """Read a batch."""
        layers = torch.stack([self.tokens[index] for index in indices], dim=1).float()
        paths = [self.image_paths[index] for index in indices]
        return TokenBatch(
            TappedPatches(list(layers), self.grid), Mask(self.masks[indices]), paths, image=torch.zeros(1, 3, 1, 1)
        )


def train_on_tokens(
    trainer: Any, borrowed: Borrowed, place: CachePlace, tap: Callable[[ImageBatch], TappedPatches]
) -> None:
    """Exchange the training images of a run for their tokens; the datamodule gets them back when it ends.

    ValueError if there is no datamodule, or it augments the training images.
    """
    datamodule = getattr(trainer, "datamodule", None)
    if datamodule is None:
        msg = f"Expected a datamodule to take images from for token_cache={place!r}, but got dataloaders."
        raise ValueError(msg)
    if getattr(datamodule, "train_augmentations", None) is not None:
        msg = (
            f"Expected token_cache to be None where training images are augmented, but got {place!r}: an image would "
            "be cached as it is augmented once, for all epochs. Choose token_cache=None, or no train_augmentations."
        )
        raise ValueError(msg)
    images = datamodule.train_data
    workers = {"num_workers": datamodule.num_workers, "collate_fn": images.collate_fn}
    loader = DataLoader(images, batch_size=datamodule.eval_batch_size, **workers)
    folder = Path(trainer.default_root_dir)
    with trainer.precision_plugin.train_step_context():
        tokens = cache_tokens(loader, tap, place, folder, trainer.num_devices, progress=trainer.is_global_zero)
    borrowed.replace(datamodule, "train_data", tokens)


def cache_tokens(
    loader: DataLoader,
    tap: Callable[[ImageBatch], TappedPatches],
    place: CachePlace,
    folder: Path,
    processes: int = 1,
    progress: bool = True,
) -> CachedTokens:
    """Run the tower over a dataset once, each image in the dataset's own order; RuntimeError if the tokens do not fit.

    Where they are kept is told in :func:`~anomalib_clipad.base.allocation.allocate`.
    """
    total = len(loader.dataset)  # type: ignore[arg-type]
    tokens = masks = None
    grid = (0, 0)
    paths: list[str] = []
    with tqdm(total=total, desc="Caching tokens", unit="image", delay=2, disable=not progress) as bar:
        for batch in loader:
            tapped = tap(batch)
            found = torch.stack(tapped.layers, dim=1).half().cpu()  # (B, L, N, D)
            if tokens is None or masks is None:
                grid = tapped.grid
                tokens = allocate((total, *found.shape[1:]), place, folder, "token_cache", processes)
                masks = torch.zeros(total, *batch.gt_mask.shape[-2:], dtype=torch.bool)
            rows = slice(len(paths), len(paths) + len(found))
            tokens[rows] = found
            masks[rows] = batch.gt_mask.reshape(-1, *masks.shape[1:]).bool().cpu()
            paths += [str(path) for path in batch.image_path]
            bar.update(len(found))
    if tokens is None or masks is None:
        msg = "Expected the training dataset to hold images, but got none. Check the auxiliary dataset."
        raise RuntimeError(msg)
    return CachedTokens(tokens, masks, paths, grid)
