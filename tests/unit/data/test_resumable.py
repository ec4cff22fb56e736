# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Order and augmentation of training images: over epochs, processes and restarts."""

import random
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader, Dataset

from anomalib_clipad.data.resumable import ResumableLoader, training_loader

N, BATCH, EPOCHS = 10, 3, 3


class Numbers(Dataset):
    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> int:
        return index


class Augmented(Numbers):
    """Numbers that are altered at random, by all generators that an augmentation may use."""

    def __getitem__(self, index: int) -> float:
        return index + (torch.rand(()).item() + np.random.rand() + random.random()) / 3  # noqa: NPY002


class Data(LightningDataModule):
    def __init__(self, num_workers: int) -> None:
        super().__init__()
        self.num_workers = num_workers

    def train_dataloader(self) -> ResumableLoader:
        return training_loader(Augmented(), self.trainer, shuffle=True, batch_size=BATCH, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Numbers())


class Records(LightningModule):
    """Writes down the epoch and the batches it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[float]]] = []

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch.tolist()))
        return self.weight * batch.float().mean()

    def validation_step(self, batch: torch.Tensor) -> None:
        """Validation lets checkpoints be saved at its end."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Killed(Callback):
    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.after:
            raise KeyboardInterrupt


def fit(folder: Path, num_workers: int, *callbacks: Callback, resume: Path | None = None) -> list:
    model = Records()
    trainer = Trainer(
        default_root_dir=folder,
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(model, Data(num_workers), ckpt_path=resume)
    except (KeyboardInterrupt, SystemExit):
        assert resume is None
    return model.seen


def one_process(
    batch_size: int, rank: int, world_size: int, epoch: int, dataset: Dataset | None = None, **kwargs: object
) -> list[list[float]]:
    progress = SimpleNamespace(
        epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=epoch, ready=epoch)),
        epoch_loop=SimpleNamespace(
            batch_progress=SimpleNamespace(current=SimpleNamespace(processed=0), is_last_batch=False)
        ),
    )
    trainer = SimpleNamespace(world_size=world_size, global_rank=rank, fit_loop=progress)
    return [batch.tolist() for batch in training_loader(dataset or Numbers(), trainer, batch_size=batch_size, **kwargs)]


def test_each_epoch_has_an_order_of_its_own() -> None:
    epochs = [list(chain(*one_process(BATCH, 0, 1, epoch, shuffle=True))) for epoch in range(3)]
    assert all(sorted(order) == list(range(N)) for order in epochs)
    assert len({tuple(order) for order in epochs}) == 3
    assert epochs[1] == list(chain(*one_process(BATCH, 0, 1, 1, shuffle=True)))


def test_order_without_shuffling_is_the_datasets() -> None:
    assert list(chain(*one_process(BATCH, 0, 1, 1, shuffle=False))) == list(range(N))


def test_order_follows_lightnings_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    first = one_process(BATCH, 0, 1, 0, shuffle=True)
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert one_process(BATCH, 0, 1, 0, shuffle=True) != first


def test_augmentations_follow_from_seed_and_epoch_alone() -> None:
    def draw(epoch: int, **kwargs: int) -> list[float]:
        return list(chain(*one_process(BATCH, 0, 1, epoch, Augmented(), shuffle=False, **kwargs)))

    first = draw(0)
    torch.rand(5)
    assert draw(0) == first
    assert draw(0, num_workers=2) == first
    assert len({round(value - index, 6) for index, value in enumerate(first)}) == N
    assert all(abs(one - other) > 1e-6 for one, other in zip(first, draw(1), strict=True))


def test_augmentations_leave_the_global_generators_alone() -> None:
    after = []
    for dataset in (Numbers(), Augmented()):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        random.seed(0)
        one_process(BATCH, 0, 1, 0, dataset, shuffle=False)
        after.append((torch.rand(()).item(), np.random.rand(), random.random()))  # noqa: NPY002
    assert after[0] == after[1]


def test_a_sampler_that_lightning_puts_in_place_works_too(tmp_path: Path) -> None:
    model = Records()
    trainer = Trainer(default_root_dir=tmp_path, max_epochs=1, overfit_batches=1, accelerator="cpu", barebones=False)
    trainer.fit(model, Data(0))
    assert [[int(value) for value in batch] for _, batch in model.seen] == [[0, 1, 2]]


@pytest.mark.parametrize("shuffle", [True, False])
def test_two_processes_see_in_each_step_what_one_does_with_the_doubled_batch(shuffle: bool) -> None:
    single = one_process(4, 0, 1, 1, shuffle=shuffle)
    ranks = [one_process(2, rank, 2, 1, shuffle=shuffle) for rank in range(2)]
    assert [sorted(first + second) for first, second in zip(*ranks, strict=True)] == [sorted(b) for b in single]


@pytest.mark.parametrize(
    ("when", "killed_after", "num_workers"),
    [
        ({"every_n_train_steps": 2}, 7, 0),  # saved in the middle of epoch 1
        ({"every_n_train_steps": 2}, 7, 1),  # workers ask for batches before Lightning tells the epoch
        ({"every_n_train_steps": 4}, 4, 1),  # saved with the last batch of epoch 0
        ({"every_n_epochs": 1}, 6, 1),  # saved after the validation of epoch 0
        ({"every_n_epochs": 1, "save_on_train_epoch_end": True}, 9, 1),  # saved at the end of epoch 1
        ({"every_n_train_steps": 1}, 1, 0),
    ],
)
def test_a_killed_run_continues_with_the_same_batches(
    tmp_path: Path, when: dict, killed_after: int, num_workers: int
) -> None:
    expected = fit(tmp_path, num_workers)
    assert len(expected) == EPOCHS * 4

    saves = ModelCheckpoint(tmp_path / "saved", filename="{step}", save_top_k=-1, **when)
    before = fit(tmp_path, num_workers, saves, Killed(killed_after))
    assert before == expected[:killed_after]
    last = max((tmp_path / "saved").glob("*.ckpt"), key=lambda path: int(path.stem.removeprefix("step=")))
    done = int(last.stem.removeprefix("step="))

    after = fit(tmp_path, num_workers, resume=last)
    assert [batch for _, batch in after] == [batch for _, batch in expected[done:]]
