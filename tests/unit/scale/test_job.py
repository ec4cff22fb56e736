# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Runs that are stopped, by whatever, and go on: nothing lost, nothing twice, finished work untouched."""

import multiprocessing
import os
import signal
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

import layouts
from anomalib_clipad.data.image_loader import ListedImage
from anomalib_clipad.prediction.table import PredictionRow
from anomalib_clipad.scale.blocks import Block, Part, score_block
from anomalib_clipad.scale.job import Summary, score
from anomalib_clipad.scale.scorer import ScorerSpec


class Constant:
    """Scores all images alike."""

    def score(self, images: Sequence[ListedImage]) -> list[PredictionRow]:
        return [PredictionRow(image.path, "nut", 0.5, position=image.position) for image in images]


class Spec(ScorerSpec):
    """Needs no model; its arguments are what it is told by."""

    def check(self, class_names: Collection[str | None]) -> None:
        if self.init_args.get("damaged"):
            msg = "Expected m.ckpt to be a checkpoint."
            raise ValueError(msg)


def here(blocks: Sequence[Block], spec: ScorerSpec, folder: Path) -> Iterator[Part]:
    """An engine in this process."""
    for block in blocks:
        yield score_block(Constant(), block, folder)


def stopping(after: int, error: BaseException) -> Any:
    """An engine that is stopped after some blocks, with the draft of the next on the disk."""

    def engine(blocks: Sequence[Block], spec: ScorerSpec, folder: Path) -> Iterator[Part]:
        yield from here(blocks[:after], spec, folder)
        (folder / ".draft-abc").mkdir()
        (folder / f".draft-abc/part-{after:06d}.parquet").write_bytes(b"PAR1")
        raise error

    return engine


@pytest.fixture
def photos(tmp_path: Path) -> str:
    layouts.write_images(tmp_path / "photos", 7, size=8)
    return str(tmp_path / "photos")


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("part-*")}


@pytest.mark.parametrize("after", [0, 1, 3], ids=["at once", "in the middle", "at the last block"])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("Block 1 failed: [Errno 28] No space left on device"), "No space left on device {} of 4 blocks"),
        (KeyboardInterrupt(), "{} of 4 blocks are finished and kept in"),
        (SystemError("a kill"), "a kill"),
    ],
    ids=["failure", "Ctrl-C", "kill"],
)
def test_a_stopped_run_goes_on(tmp_path: Path, photos: str, after: int, error: BaseException, message: str) -> None:
    output = tmp_path / "scores.parquet"
    with pytest.raises(type(error), match=message.format(after)):
        score(photos, str(output), Spec(), stopping(after, error), block_size=2)
    before = times(output)
    assert len(before) == after
    if before:
        assert len(pd.read_parquet(output)) == 2 * after

    summary = score(photos, str(output), Spec(), here, block_size=2)

    assert (summary.images, summary.scored) == (7, 7 - 2 * after)
    assert times(output).items() >= before.items()
    table = pd.read_parquet(output)
    assert [Path(path).name for path in table["path"]] == [f"{index:03d}.png" for index in range(7)]
    assert list(output.glob(".*")) == []


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="a process is forked to be killed")
@pytest.mark.parametrize(("moment", "n_finished"), [("scoring", 0), ("draft", 2), ("last draft", 3)])
def test_a_process_that_is_killed_goes_on(
    tmp_path: Path, photos: str, monkeypatch: pytest.MonkeyPatch, moment: str, n_finished: int
) -> None:
    """Really killed: before anything is written, and twice with half a file on the disk."""
    output = tmp_path / "scores.parquet"

    def write(table: pa.Table, path: Path) -> None:
        if moment == "scoring" or path.name == f"part-{n_finished:06d}.parquet":
            path.write_bytes(b"PAR1 half")
            os.kill(os.getpid(), signal.SIGKILL)
        write_table(table, path)

    write_table = parquet.write_table
    monkeypatch.setattr(parquet, "write_table", write)
    killed = multiprocessing.get_context("fork").Process(target=score, args=(photos, str(output), Spec(), here, 2))
    killed.start()
    killed.join(60)
    monkeypatch.undo()
    before = times(output)
    assert killed.exitcode == -signal.SIGKILL
    assert len(before) == n_finished
    assert len(list(output.glob(".draft-*"))) == 1
    assert not n_finished or len(pd.read_parquet(output)) == 2 * n_finished

    score(photos, str(output), Spec(), here, block_size=2)

    assert times(output).items() >= before.items()
    assert [Path(path).name for path in pd.read_parquet(output)["path"]] == [f"{index:03d}.png" for index in range(7)]
    assert list(output.glob(".*")) == []


def test_a_finished_run_does_nothing_more(tmp_path: Path, photos: str) -> None:
    output = str(tmp_path / "scores.parquet")
    score(photos, output, Spec(), here)
    before = times(tmp_path / "scores.parquet")
    summary = score(photos, output, Spec(), stopping(0, AssertionError("was called")))
    assert (summary.scored, summary.images, times(tmp_path / "scores.parquet")) == (0, 7, before)


def test_a_damaged_model_and_other_settings_write_nothing(tmp_path: Path, photos: str) -> None:
    output = tmp_path / "scores.parquet"
    with pytest.raises(ValueError, match="to be a checkpoint"):
        score(photos, str(output), Spec(init_args={"damaged": True}), here)
    assert not output.exists()
    score(photos, str(output), Spec(), here)
    before = times(output)
    layouts.write_images(tmp_path / "photos", 8, size=8)
    with pytest.raises(ValueError, match=r"others: block_size is 2, was 1000; images is .*; model\.\w+ is .*"):
        score(photos, str(output), Spec(init_args={"sigma": 3}), here, block_size=2)
    assert times(output) == before


def test_an_engine_that_forgets_a_block_is_found_out(tmp_path: Path, photos: str) -> None:
    def forgetful(blocks: Sequence[Block], spec: ScorerSpec, folder: Path) -> Iterator[Part]:
        yield from here(blocks[1:], spec, folder)
        yield Part(0, 2, 0)

    with pytest.raises(RuntimeError, match=r"but some are missing\. 3 of 4 blocks"):
        score(photos, str(tmp_path / "scores.parquet"), Spec(), forgetful, block_size=2)


def test_an_output_that_is_an_address(photos: str) -> None:
    with pytest.raises(ValueError, match=r"but got the address s3://x\. Mount the storage"):
        score(photos, "s3://x", Spec(), here)


def test_the_summary_says_what_was_done() -> None:
    assert str(Summary(Path("s.parquet"), 100, 0, 100, 4.0)) == (
        "100 images scored in 4 s (25.0 images/s). Scores: s.parquet"
    )
    assert str(Summary(Path("s.parquet"), 100, 2, 20, 4.0)) == (
        "20 images scored in 4 s (5.0 images/s), 80 were there before. 2 could not be read: see the column error. "
        "Scores: s.parquet"
    )
    assert str(Summary(Path("s.parquet"), 3, 0, 0, 0.0)).startswith("0 images scored in 0 s, 3 were there before.")
