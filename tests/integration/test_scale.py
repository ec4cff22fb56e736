# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""``anomalib-clipad score`` with real workers: killed ones, killed runs, and the scores of one process."""

import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import psutil
import pytest
import ray  # noqa: F401, imported before it is to be kept to this machine

import layouts
import warm
from anomalib_clipad.scale.blocks import Block, Part
from anomalib_clipad.scale.job import score
from anomalib_clipad.scale.ray_scoring import score_by_ray
from anomalib_clipad.scale.scorer import ScorerSpec
from terminal import Terminal
from tiny import BACKBONE, ON_TINY, sdp

pytestmark = pytest.mark.slow

N_IMAGES = 48


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, one of which cannot be read."""
    folder = tmp_path_factory.mktemp("photos")
    layouts.write_images(folder, N_IMAGES, size=250)
    (folder / "017.png").write_bytes(b"no image")
    return folder


@pytest.fixture(autouse=True)
def _as_urgent_as_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray gives its workers the lowest priority: beside other tests they would wait for minutes."""
    monkeypatch.setenv("RAY_worker_niceness", "0")


def check_scores(output: Path, photos: Path) -> None:
    """Nothing is lost or doubled, and scores are those of one process."""
    table = pd.read_parquet(output)
    expected = sdp(class_name="nut").predict(photos).rows
    assert table["path"].tolist() == [row.path for row in expected]
    assert table["score"].tolist() == pytest.approx(
        [row.score or float("nan") for row in expected], abs=1e-6, nan_ok=True
    )
    assert table["error"].dropna().tolist() == ["not an image, or of an unknown format"]
    assert list(output.glob(".*")) == []


def workers_of_this_process() -> list[psutil.Process]:
    return [each for each in psutil.Process().children(recursive=True) if "ScoreBlocks" in command_of(each)]


def strange_addresses() -> list[str]:
    """Where Ray can be reached from other machines."""
    found = [each for child in psutil.Process().children(recursive=True) for each in sockets_of(child)]
    assert found
    return [address for address in found if address not in {"127.0.0.1", "::1", "::ffff:127.0.0.1"}]


def sockets_of(process: psutil.Process) -> list[str]:
    try:
        return [each.laddr.ip for each in process.net_connections() if each.status == psutil.CONN_LISTEN]
    except psutil.Error:
        return []


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


def test_a_killed_worker_loses_and_doubles_nothing(photos: Path, tmp_path: Path) -> None:
    killed, seen = [], []

    def engine(blocks: Sequence[Block], spec: ScorerSpec, folder: Path) -> Iterator[Part]:
        for part in score_by_ray(blocks, spec, folder, workers=2):
            seen.append(part.number)
            if not killed:
                assert strange_addresses() == []
                victim = workers_of_this_process()[0]
                victim.kill()
                killed.append(victim)
            yield part

    spec = ScorerSpec(init_args={"backbone": BACKBONE, "class_name": "nut"}, threads=1)
    summary = score(str(photos), str(tmp_path / "scores.parquet"), spec, engine, block_size=4)

    assert (summary.images, summary.scored, summary.unreadable) == (N_IMAGES, N_IMAGES, 1)
    assert sorted(seen) == list(range(N_IMAGES // 4))
    check_scores(tmp_path / "scores.parquet", photos)


def test_a_killed_run_goes_on(photos: Path, anomalib: Terminal) -> None:
    """Other moments are in tests/unit/scale/test_job.py: Ray takes its time to start."""
    output = anomalib.folder / "scores.parquet"
    command = [
        *(sys.executable, "-m", "anomalib_clipad.cli", "score"),
        *("--input", str(photos), "--output", str(output), "--block_size", "4"),
        *("--model", "anomalib_clipad.SDP", *ON_TINY, "--model.class_name", "nut"),
    ]

    def run(until: str | None) -> tuple[int, str]:
        """Run the command; kill it as soon as there are such files."""
        process = warm.Running(command, env=anomalib.environment)
        while until and process.poll() is None and not list(output.glob(until)):
            time.sleep(0.01)
        if until:
            process.send_signal(signal.SIGKILL)
        return process.wait(300), process.printed()

    def times() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in output.glob("part-*")}

    assert run("part-*")[0] == -signal.SIGKILL
    before = times()
    assert 0 < len(before) < N_IMAGES // 4

    status, printed = run(None)

    assert status == 1  # an image could not be read
    assert "1 could not be read" in printed
    assert "Traceback" not in printed
    assert before.items() <= times().items()
    check_scores(output, photos)
