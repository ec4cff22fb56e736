# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Training of SDP+ in two processes, or killed at any moment and resumed, gives the heads of one that ran through."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import warm

pytestmark = pytest.mark.slow

SCRIPT = '''
"""Trains as its argument says, a list of runs; each alone in a copy of this process, which may kill itself."""
import json
import os
import signal
import sys
import time

from anomalib.engine import Engine
from anomalib.engine.plugins import AnomalibCheckpointIO
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from torchvision.transforms.v2 import Compose, RandomAffine, RandomHorizontalFlip

from anomalib_clipad import SDPPlus, SyntheticDefects


class Killer(Callback):
    def __init__(self, moment):
        self.moment = moment

    def reach(self, moment):
        if moment == self.moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_end(self, trainer, *_):
        self.reach(f"after step {trainer.global_step}")

    def on_validation_batch_end(self, trainer, *_):
        self.reach("sanity check" if trainer.sanity_checking else "last validation")

    def on_test_start(self, *_):
        self.reach("test")


class KilledWhileSaving(AnomalibCheckpointIO):
    saved = 0

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        super().save_checkpoint(checkpoint, path, storage_options)
        self.saved += 1
        if self.saved == 2:
            os.truncate(path, 100_000)
            os.kill(os.getpid(), signal.SIGKILL)


def train(results, resume=None, kill=None, devices=1, batch=4, workers=0, augment=False, stop=False, steps=-1, **model):
    recipe = {"image_size": 64, "n_train": 1, "n_test_good": 2, "n_test_per_defect": 1, "num_workers": workers}
    auxiliary = SyntheticDefects(root="data", categories=["nut", "leather"], defects="training", **recipe)
    data = SyntheticDefects(
        root="data",
        categories=["wood"],
        auxiliary=auxiliary,
        train_batch_size=batch,
        eval_batch_size=8,
        train_augmentations=Compose([RandomHorizontalFlip(), RandomAffine(20)]) if augment else None,
        **recipe,
    )
    recipe = {"epochs": 3, "learning_rate": 1e-3, "visualizer": False, "text_cache_dir": "text", **model}
    engine = Engine(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        callbacks=[Killer(kill), *([EarlyStopping("train_loss_epoch", min_delta=1e6, patience=1)] if stop else [])],
        plugins=[KilledWhileSaving()] if kill == "second save" else None,
        max_steps=steps,
        default_root_dir=results,
        enable_progress_bar=False,
    )
    engine.train(SDPPlus("clipad-tiny", image_size=64, seed=42, **recipe), datamodule=data, ckpt_path=resume)


if __name__ == "__main__":
    for run in json.loads(sys.argv[1]):
        if run.get("devices", 1) > 1:
            time.sleep(3 * int(os.environ.get("LOCAL_RANK", 0)))  # the host does not make its folders for a race
            train(**run)
        elif child := os.fork():
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if code != (-signal.SIGKILL if run.get("kill") else 0):
                sys.exit(f"{run} ended with {code}")
        else:
            train(**run)
            sys.stdout.flush()
            os._exit(0)
'''

STEPS = 6
"""Steps of an epoch."""

IN_THE_MIDDLE = {"kill": f"after step {STEPS + 2}"}

KILLED: dict[str, tuple[str, dict[str, Any]]] = {
    "in the middle of an epoch": ("through", IN_THE_MIDDLE),
    "in the middle of an epoch, with tokens in memory": ("memory", IN_THE_MIDDLE),
    "in the middle of an epoch, with tokens on disk": (
        "memory",
        {"kill": f"after step {STEPS + 2}", "token_cache": "disk"},
    ),
    "in the middle of an epoch, with augmentations": ("augmented", IN_THE_MIDDLE),
    "while a checkpoint was written": ("through", {"kill": "second save"}),
    "in the last validation": ("through", {"kill": "last validation"}),
    "in the test, after it was stopped early": ("stopped", {"kill": "test"}),
    "where steps are counted": ("steps", IN_THE_MIDDLE),
}
"""When a training is killed, and the uninterrupted one that it is compared with."""

THROUGH: dict[str, dict[str, Any]] = {
    "through": {},
    "memory": {"token_cache": "memory"},
    "augmented": {"augment": True},
    "stopped": {"stop": True},
    "steps": {"steps": 2 * STEPS + 3},
}


def run(folder: Path, *runs: dict[str, Any]) -> None:
    """Run the script; text vectors are not read from, nor left in, the user's cache."""
    process = warm.run(["train.py", json.dumps(runs)], cwd=folder)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-6000:]


def results(folder: Path, name: str, version: str = "v0") -> Path:
    return folder / name / "SDPPlus/SyntheticDefects/wood" / version


def resume_file(name: str) -> str:
    return str(results(Path(), name) / "checkpoints/resume.ckpt")


def largest_difference(first: Path, second: Path) -> float:
    heads, others = (load_file(path / "heads.safetensors") for path in (first, second))
    return max(float((heads[name] - others[name]).abs().max()) for name in heads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of trainings that ran through, and of others that were killed and resumed."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "train.py").write_text(SCRIPT)
    runs = [{"results": name, **settings} for name, settings in THROUGH.items()]
    for name, (through, kill) in KILLED.items():
        runs += [
            {"results": name, **THROUGH[through], **kill},
            {"results": name, **THROUGH[through], **kill, "resume": resume_file(name), "kill": None},
        ]
    runs += [{"results": "added", "epochs": 1}, {"results": "added", "epochs": 3, "resume": resume_file("added")}]
    run(folder, *runs)
    return folder


@pytest.mark.parametrize("name", KILLED)
def test_a_training_that_was_killed_resumes_to_the_same_heads(folder: Path, name: str) -> None:
    resumed, through = results(folder, name, "v1"), results(folder, KILLED[name][0])

    assert largest_difference(resumed, through) < 1e-6
    tables = [(path / "metrics_per_category.csv").read_text() for path in (resumed, through)]
    assert tables[0] == tables[1]  # of the heads that the run ended with, not of those that it resumed from
    assert (resumed / "weights/lightning/model.ckpt").is_file()


def test_what_the_trainings_are_compared_with_differs(folder: Path) -> None:
    names = list(THROUGH)
    pairs = [(first, second) for first in names for second in names if first < second]
    assert all(largest_difference(*(results(folder, name) for name in pair)) > 1e-5 for pair in pairs)


def test_a_kill_leaves_no_tokens_behind(folder: Path) -> None:
    killed = results(folder, "in the middle of an epoch, with tokens on disk")
    left = {path.relative_to(killed).as_posix() for path in killed.rglob("*") if path.is_file()}
    assert left == {"checkpoints/resume.ckpt"}


def test_epochs_added_later_are_those_of_a_longer_training(folder: Path) -> None:
    assert largest_difference(results(folder, "added", "v1"), results(folder, "through")) < 1e-6


@pytest.mark.parametrize("through", ["through", "steps", "stopped"])
def test_the_model_is_written_without_the_optimiser_that_its_training_resumes_with(folder: Path, through: str) -> None:
    model, resume = (
        torch.load(results(folder, through) / file, weights_only=False)
        for file in ("weights/lightning/model.ckpt", "checkpoints/resume.ckpt")
    )
    assert "optimizer_states" not in model
    assert resume["optimizer_states"][0]["state"]
    states = [checkpoint["state_dict"] for checkpoint in (model, resume)]
    classes = [state.pop("_extra_state") for state in states]
    assert classes[0] == classes[1] == {"class_names": ["wood", "leather", "nut"]}
    torch.testing.assert_close(*states, rtol=0, atol=0, equal_nan=True)


def test_two_processes_give_the_heads_of_one_with_the_doubled_batch_in_one_folder(folder: Path) -> None:
    two = {"devices": 2, "batch": 2}
    run(folder, {"results": "two", **two}, {"results": "two with tokens", **two, "token_cache": "memory"})

    for name, through in (("two", "through"), ("two with tokens", "memory")):
        latest = results(folder, name, "latest").resolve()
        assert largest_difference(latest, results(folder, through)) < 1e-4
        assert {path.name for path in latest.parent.iterdir()} == {latest.name, "latest"}
        assert (latest / "metrics_per_category.csv").is_file()
