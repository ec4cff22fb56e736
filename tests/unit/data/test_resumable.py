# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The order of training images: over epochs, processes and restarts."""

from itertools import chain
from pathlib import Path
from types import SimpleNamespace

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


class Data(LightningDataModule):
    def __init__(self, num_workers: int) -> None:
        super().__init__()
        self.num_workers = num_workers

    def train_dataloader(self) -> ResumableLoader:
        return training_loader(Numbers(), self.trainer, shuffle=True, batch_size=BATCH, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Numbers())


class Records(LightningModule):
    """Writes down the epoch and the batches it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[int]]] = []

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


def one_process(batch_size: int, rank: int, world_size: int, epoch: int, **kwargs: object) -> list[list[int]]:
    progress = SimpleNamespace(
        epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=epoch, ready=epoch)),
        epoch_loop=SimpleNamespace(
            batch_progress=SimpleNamespace(current=SimpleNamespace(processed=0), is_last_batch=False)
        ),
    )
    trainer = SimpleNamespace(world_size=world_size, global_rank=rank, fit_loop=progress)
    return [batch.tolist() for batch in training_loader(Numbers(), trainer, batch_size=batch_size, **kwargs)]


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
