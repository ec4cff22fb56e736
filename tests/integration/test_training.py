# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Training of SDP+ in two processes, and after a kill, gives the heads of one that ran through."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
from anomalib.engine import Engine
from anomalib_clipad import SDPPlus, SyntheticDefects

if __name__ == "__main__":
    results, processes, batch_size, checkpoint = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    recipe = {"image_size": 64, "n_train": 1, "n_test_good": 4, "n_test_per_defect": 1, "num_workers": 0}
    auxiliary = SyntheticDefects(root="data", categories=["nut", "leather"], defects="training", **recipe)
    data = SyntheticDefects(
        root="data", categories=["wood"], auxiliary=auxiliary, train_batch_size=batch_size, eval_batch_size=8, **recipe
    )
    model = SDPPlus(image_size=64, epochs=4, learning_rate=1e-3, visualizer=False, cache_dir=False)
    parallel = {"devices": processes, "strategy": "ddp"} if processes > 1 else {"devices": 1}
    engine = Engine(accelerator="cpu", default_root_dir=results, enable_progress_bar=False, **parallel)
    engine.train(model, datamodule=data, ckpt_path=checkpoint or None)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the training script; the drawn dataset is shared by all runs."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "train.py").write_text(SCRIPT)
    return folder


def start(folder: Path, results: str, processes: int, batch_size: int, checkpoint: str = "") -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "train.py", results, str(processes), str(batch_size), checkpoint],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> None:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-5000:]


def newest(folder: Path, results: str) -> Path:
    return (folder / results / "SDPPlus/SyntheticDefects/wood/latest").resolve()


def largest_difference(first: Path, second: Path) -> float:
    heads, others = (load_file(results / "heads.safetensors") for results in (first, second))
    return max(float((heads[name] - others[name]).abs().max()) for name in heads)


@pytest.fixture(scope="module")
def through(folder: Path) -> Path:
    """Results of one process that ran through with batches of 4."""
    finish(start(folder, "through", 1, 4))
    return newest(folder, "through")


def test_two_processes_give_the_heads_of_one_with_the_doubled_batch_in_one_folder(folder, through):
    finish(start(folder, "two", 2, 2))

    assert largest_difference(newest(folder, "two"), through) < 1e-4
    assert {path.name for path in newest(folder, "two").parent.iterdir()} == {"v0", "latest"}
    assert (newest(folder, "two") / "metrics_per_category.csv").is_file()


def test_a_killed_training_resumes_to_the_same_heads(folder, through):
    process = start(folder, "killed", 1, 4)
    checkpoint = folder / "killed/SDPPlus/SyntheticDefects/wood/v0/checkpoints/resume.ckpt"
    for _ in range(3000):
        if checkpoint.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.exists()
    assert not (checkpoint.parents[1] / "heads.safetensors").exists(), "the training was over before it was killed"
    assert torch.load(checkpoint, weights_only=False)["epoch"] < 3

    finish(start(folder, "killed", 1, 4, str(checkpoint)))

    assert largest_difference(newest(folder, "killed"), through) < 1e-6
    tables = [(results / "metrics_per_category.csv").read_text() for results in (newest(folder, "killed"), through)]
    assert tables[0] == tables[1]  # of the heads that the run ended with, not of those that it resumed from
