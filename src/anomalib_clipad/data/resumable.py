# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Training batches that survive a restart and do not depend on the number of processes or workers."""

import os
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader, Dataset, DistributedSampler


class Draw(NamedTuple):
    """An image in one epoch: its place in the dataset, and the seed of its augmentation."""

    place: int
    seed: int


class ResumableSampler(DistributedSampler[Draw]):
    """torch's distributed sampler, for one process too, that can begin in the middle of an epoch.

    The order of an epoch is a function of the seed and the epoch's number alone: a run that was killed continues with
    the images that an uninterrupted one would see. Two processes with batches of b see in each step the images that
    one process sees with batches of 2b; only where they do not come out even does torch repeat some in the last step.
    Each image comes with a seed that follows from the same numbers and its index. Lightning tells the epoch, and leaves
    a distributed sampler as it is.
    """

    _first_epoch, _first_item = 0, 0

    def start_at(self, epoch: int, item: int) -> None:
        """Begin with this epoch, and in it with this item of the process; later epochs are whole."""
        self._first_epoch, self._first_item = epoch, item
        self.set_epoch(epoch)

    def __iter__(self) -> Iterator[Draw]:
        order: list[Any] = list(super().__iter__())
        order = order[self._first_item :] if self.epoch == self._first_epoch else order
        seeds = (np.random.SeedSequence([self.seed, self.epoch, place]).generate_state(1)[0] for place in order)
        return iter([Draw(place, int(seed)) for place, seed in zip(order, seeds, strict=True)])


class SeededItems(Dataset):
    """A dataset whose random augmentations follow from the seed that an image is asked for with.

    Otherwise they would follow from all that the process, and each worker process, has drawn before. They may draw from
    the global generators of torch, numpy or Python.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.samples = getattr(dataset, "samples", None)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: Draw | int) -> Any:
        if not isinstance(item, Draw):  # a sampler that Lightning puts in place, as for overfit_batches
            return self.dataset[item]
        with isolate_rng(include_cuda=False):
            torch.default_generator.manual_seed(item.seed)  # torch.manual_seed would seed the GPUs too
            np.random.seed(item.seed)  # noqa: NPY002
            random.seed(item.seed)
            return self.dataset[item.place]


class ResumableLoader(DataLoader):
    """A dataloader that Lightning knows to be resumable; the state is in the trainer's own progress."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the sampler is placed when the loader is made."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing, see :meth:`state_dict`."""


def training_loader(
    dataset: Any, trainer: Trainer | None, *, shuffle: bool, batch_size: int, **kwargs: Any
) -> ResumableLoader:
    """Make the dataloader of a fit, placed where the trainer resumes; further arguments are ``DataLoader``'s.

    The seed is that of Lightning's ``seed_everything``, else 0. Without ``shuffle`` all epochs have the dataset's
    order. ``batch_size`` is that of one process.
    """
    sampler = ResumableSampler(
        dataset,
        num_replicas=1 if trainer is None else trainer.world_size,
        rank=0 if trainer is None else trainer.global_rank,
        shuffle=shuffle,
        seed=int(os.environ.get("PL_GLOBAL_SEED", "0")),
    )
    if trainer is not None:
        epoch, batches = _resume_point(trainer)
        sampler.start_at(epoch, batches * batch_size)
    return ResumableLoader(SeededItems(dataset), sampler=sampler, batch_size=batch_size, **kwargs)


def _resume_point(trainer: Trainer) -> tuple[int, int]:
    """Epoch and batches of it already trained on, as far as the trainer's restored progress tells; (0, 0) at first.

    Lightning tells the sampler the epoch only after worker processes have asked for the first batches.
    """
    epochs: Any = trainer.fit_loop.epoch_progress.current
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress
    if not batches.is_last_batch:
        return epochs.processed, batches.current.processed
    # The checkpoint is from the end of an epoch, before or after that was counted.
    return max(epochs.processed, epochs.ready), 0
