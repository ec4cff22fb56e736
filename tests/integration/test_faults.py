# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Commands that are killed at random moments, or have no room on the disk, and are typed once more.

Whatever was left behind, the second one ends as if nothing had been.
"""

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from safetensors.torch import load_file

import layouts
import warm
from terminal import ANOMALIB, CLIPAD
from tiny import BACKBONE, ON_TINY

pytestmark = pytest.mark.slow

SDP = ("--model", "anomalib_clipad.SDP", *ON_TINY, "--model.visualizer", "false")
PLUS = ("--model", "anomalib_clipad.SDPPlus", *ON_TINY, "--model.visualizer", "false")
POOL = ("--model.pool", "true", "--model.calibrate_unlabelled", "true")
NUT = ("--model.class_name", "nut")
RECIPE = {"n_train": 1, "n_test_good": 3, "n_test_per_defect": 1, "image_size": 64, "num_workers": 0}
DRAWN = {"class_path": "anomalib_clipad.SyntheticDefects", "init_args": {**RECIPE, "root": "drawn"}}
AUXILIARY = {**DRAWN, "init_args": {**DRAWN["init_args"], "categories": ["leather"], "defects": "training"}}


class Work(NamedTuple):
    """Something that is typed, and how to read what comes of it."""

    command: Sequence[str | Path]
    read: Callable[[Path], Any]


def predictions(folder: Path) -> list[dict[str, str]]:
    [table] = {path.resolve() for path in folder.rglob("predictions.csv")}
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in table.with_suffix(".jsonl").read_text("utf-8").splitlines()]
    assert [Path(line["path"]).name for line in lines] == [Path(row["path"]).name for row in rows]
    assert sorted(path.name for path in folder.rglob("report.html") if path.parent == table.parent) == ["report.html"]
    for row in rows:
        row["path"] = str(Path(row["path"]).relative_to(folder.absolute()))
    return sorted(rows, key=lambda row: row["path"])  # those that arrive come in any order


def newest(folder: Path, name: str) -> Path:
    [path] = folder.glob(f"results/*/*/*/latest/{name}")
    return path


def newest_metrics(folder: Path) -> str:
    return newest(folder, "metrics_per_category.csv").read_text()


def newest_heads(folder: Path) -> dict[str, list[float]]:
    heads = load_file(newest(folder, "heads.safetensors"))
    return {name: weight.flatten().tolist() for name, weight in heads.items()}


def compared(folder: Path) -> list[dict[str, str]]:
    with (folder / "out/results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if not key.endswith(("_s", "_mb", "_bytes"))} for row in rows]


def exported(folder: Path) -> list[float]:
    model = torch.load(folder / "out/weights/torch/model.pt", weights_only=False)["model"]
    return model(torch.linspace(0, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)).pred_score.tolist()


WORKS = {
    "training, with a cache of tokens": Work(
        [ANOMALIB, "train", *PLUS, "--model.epochs", "2", "--model.token_cache", "disk", "--config", "train.yaml"],
        newest_heads,
    ),
    "calibration and test": Work([ANOMALIB, "test", *SDP, "--config", "test.yaml"], newest_metrics),
    "text vectors, which are cached": Work([ANOMALIB, "predict", *SDP, *NUT, "--data", "photos"], predictions),
    "a pool": Work(
        [ANOMALIB, "predict", *SDP, *NUT, *POOL, "--data", "photos"],
        predictions,
    ),
    "comparison": Work([CLIPAD, "compare", "--config", "compare.yaml", "--output", "out"], compared),
    "export": Work(
        [ANOMALIB, "export", *SDP, *NUT, "--export_type", "torch", "--export_root", "out"],
        exported,
    ),
    "watching": Work(
        [CLIPAD, "watch", "photos", "--output", "out", "--once", "--settle", "0", *SDP[:4], *NUT], predictions
    ),
}


def prepare(folder: Path) -> Path:
    layouts.write_images(folder / "photos", 6, size=60)
    layouts.write_images(folder / "photos/more", 4, size=60, seed=50, anomalous=True)
    target = {**DRAWN, "init_args": {**DRAWN["init_args"], "categories": ["nut"]}}
    training = {**target, "init_args": {**target["init_args"], "auxiliary": AUXILIARY}}
    (folder / "test.yaml").write_text(yaml.safe_dump({"data": target}))
    (folder / "train.yaml").write_text(yaml.safe_dump({"data": training}))
    model = {"class_path": "anomalib_clipad.SDP", "init_args": {"backbone": BACKBONE}}
    grid = {"models": {"SDP": model}, "datasets": {"drawn": {**DRAWN, "categories": ["nut", "wood"]}}}
    (folder / "compare.yaml").write_text(yaml.safe_dump({**grid, "accelerator": "cpu"}))
    return folder


def start(work: Work, folder: Path) -> warm.Running:
    environment = {**os.environ, "ANOMALIB_CLIPAD_CACHE": str(folder / "cache")}
    environment.pop("PL_GLOBAL_SEED", None)  # of other tests
    return warm.Running(work.command, cwd=folder, env=environment)


RARE = ("test_a_read_only_disk_is_named", "test_a_clock_that_is_set_back")
"""What is tried on all works by `make thorough` only."""
RARELY_ON = ("training, with a cache of tokens", "a pool", "watching")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    thorough = metafunc.config.getoption("--thorough")
    names = RARELY_ON if metafunc.function.__name__ in RARE and not thorough else tuple(WORKS)
    metafunc.parametrize("undisturbed", [WORKS[name] for name in names], indirect=True, scope="module", ids=names)
    if "room" in metafunc.fixturenames:
        metafunc.parametrize("room", [0, 20_000, 400_000] if thorough else [20_000])


@pytest.fixture(scope="module")
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Work, Any, float]:
    """A work, what comes of it in an empty folder, and the seconds that it takes."""
    work, folder = request.param, prepare(tmp_path_factory.mktemp("undisturbed"))
    warm.run([CLIPAD, "--help"])  # what commands are forked from takes longer to start than they do
    begun = time.monotonic()
    process = start(work, folder)
    assert process.wait() == 0, process.printed()[-3000:]
    return work, work.read(folder), time.monotonic() - begun


def test_killed_at_random_moments(
    undisturbed: tuple[Work, Any, float], tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    work, expected, seconds = undisturbed
    moments = random.Random(0)
    wanted, codes = 10 if pytestconfig.getoption("--thorough") else 1, list[int]()
    folder = prepare(tmp_path / "0")
    while codes.count(-signal.SIGKILL) < wanted:
        assert len(codes) < 4 * wanted, f"too often the command had ended before: {codes}"
        process = start(work, folder)
        time.sleep(moments.uniform(0, 0.8 * seconds))
        process.send_signal(signal.SIGKILL)
        codes.append(process.wait())
        if codes[-1] == 0:  # another run would find nothing to do
            folder = prepare(tmp_path / str(len(codes)))
    process = start(work, folder)
    assert process.wait() == 0, process.printed()[-3000:]
    assert work.read(folder) == expected


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Where a small disk is mounted."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a disk can be mounted by root alone")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def remount(disk: Path, *options: str) -> None:
    subprocess.run(["mount", "-o", ",".join(["remount", *options]), disk], check=True)


def resize(disk: Path, size: int) -> None:
    remount(disk, f"size={size // 1024}k")


def test_a_full_disk_is_named_and_leaves_nothing_half(
    undisturbed: tuple[Work, Any, float], disk: Path, room: int
) -> None:
    work, expected, _ = undisturbed
    folder = prepare(disk)
    resize(disk, shutil.disk_usage(disk).used + room)
    process = start(work, folder)
    code = process.wait()
    if code != 0:
        assert code > 0, process.printed()[-3000:]
        assert re.search("disk is full|No space left|Check space and permissions", process.printed())
    resize(disk, 2**28)
    process = start(work, folder)
    assert process.wait() == 0, process.printed()[-3000:]
    assert work.read(folder) == expected


def test_a_read_only_disk_is_named(undisturbed: tuple[Work, Any, float], disk: Path) -> None:
    work, expected, _ = undisturbed
    folder = prepare(disk)
    remount(disk, "ro")
    process = start(work, folder)
    assert process.wait() > 0
    assert "Read-only file system" in process.printed(), process.printed()[-3000:]
    remount(disk, "rw")
    process = start(work, folder)
    assert process.wait() == 0, process.printed()[-3000:]
    assert work.read(folder) == expected


def test_two_at_once(undisturbed: tuple[Work, Any, float], tmp_path: Path) -> None:
    """In one folder, with one cache: one of them may refuse the other, by name; neither harms it."""
    work, expected, _ = undisturbed
    folder = prepare(tmp_path)
    processes = [start(work, folder) for _ in range(2)]
    codes = [process.wait() for process in processes]
    assert 0 in codes, [process.printed()[-3000:] for process in processes]
    for process, code in zip(processes, codes, strict=True):
        assert code == 0 or "another process" in process.printed(), process.printed()[-3000:]
    assert work.read(folder) == expected


def test_a_clock_that_is_set_back(undisturbed: tuple[Work, Any, float], tmp_path: Path) -> None:
    """All files of the first run, and the photographs, are of tomorrow."""
    work, expected, _ = undisturbed
    folder = prepare(tmp_path)
    tomorrow = time.time() + 86_400
    for _ in range(2):
        for path in folder.rglob("*"):
            os.utime(path, (tomorrow, tomorrow))
        process = start(work, folder)
        assert process.wait() == 0, process.printed()[-3000:]
        assert work.read(folder) == expected
