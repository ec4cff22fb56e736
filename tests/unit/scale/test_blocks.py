# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Files of finished blocks: whole or not there, and read back in order."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from pyarrow import parquet

from anomalib_clipad.data.image_loader import ListedImage
from anomalib_clipad.prediction.table import COLUMNS, PredictionRow
from anomalib_clipad.scale.blocks import (
    Block,
    Part,
    check_output,
    cut,
    finished,
    read_part,
    score_block,
    sweep,
)
from anomalib_clipad.scale.output import keep

IMAGES = [ListedImage(f"/{index}.png", position=index) for index in range(7)]


class Places:
    """Scores an image by its place; those of odd places cannot be read."""

    def score(self, images: Sequence[ListedImage]) -> list[PredictionRow]:
        return [
            PredictionRow(image.path, error="odd", position=image.position)
            if image.position % 2
            else PredictionRow(
                image.path, "nut", image.position / 10, "normal", 0.5, False, "text", position=image.position
            )
            for image in images
        ]


def test_parts_are_read_as_one_table_in_the_order_of_the_list(tmp_path: Path) -> None:
    folder = tmp_path / "scores.parquet"
    parts = [score_block(Places(), block, folder) for block in reversed(cut(IMAGES, 3))]
    keep(folder, {"a": "b"})
    (folder / ".draft-x").mkdir()
    (folder / ".draft-x/part-000009.parquet").write_bytes(b"half")

    table = pd.read_parquet(folder)

    assert parts == [Part(2, 1, 0), Part(1, 3, 2), Part(0, 3, 1)]
    assert tuple(table.columns) == COLUMNS
    assert list(table["path"]) == [image.path for image in IMAGES]
    assert table["score"].dropna().tolist() == [0.0, 0.2, 0.4, 0.6]
    assert table["error"].dropna().tolist() == ["odd"] * 3
    assert table["label"].isna().tolist() == table["calibrated"].isna().tolist() == [False, True] * 3 + [False]
    sweep(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "_settings.json", "part-000000.parquet", "part-000001.parquet", "part-000002.parquet"
    ]  # fmt: skip


def test_columns_have_their_types_where_they_are_empty(tmp_path: Path) -> None:
    [block] = cut(IMAGES[1:2], 1)
    score_block(Places(), block, tmp_path)
    schema = parquet.read_schema(tmp_path / "part-000000.parquet")
    assert {name: str(schema.field(name).type) for name in ("score", "calibrated", "label")} == {
        "score": "double", "calibrated": "bool", "label": "string"
    }  # fmt: skip


def test_names_that_are_not_utf8_are_escaped(tmp_path: Path) -> None:
    score_block(Places(), Block(0, [ListedImage("/br\udcf6ken.png")]), tmp_path)
    assert pd.read_parquet(tmp_path)["path"].tolist() == [r"/br\udcf6ken.png"]


def test_a_part_that_cannot_be_written_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(table: object, path: Path) -> None:
        path.write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        score_block(Places(), cut(IMAGES, 7)[0], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_scorer_that_leaves_out_an_image_is_refused(tmp_path: Path) -> None:
    class Forgetful(Places):
        def score(self, images: Sequence[ListedImage]) -> list[PredictionRow]:
            return super().score(images)[1:]

    with pytest.raises(RuntimeError, match="a row for each of 7 images in their order, but got 6 others"):
        score_block(Forgetful(), cut(IMAGES, 7)[0], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["truncated", "empty", "rows"])
def test_damaged_parts_are_not_finished(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    blocks = cut(IMAGES, 3)
    for block in blocks:
        score_block(Places(), block, tmp_path)
    path = tmp_path / "part-000001.parquet"
    content = path.read_bytes()
    if damage == "rows":
        path.write_bytes((tmp_path / "part-000002.parquet").read_bytes())
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")

    with caplog.at_level(logging.WARNING):
        found = list(finished(tmp_path, blocks))

    assert found == [Part(0, 3, 1), Part(2, 1, 0)]
    assert "part-000001.parquet" in caplog.text
    assert "scored again" in caplog.text
    assert read_part(tmp_path, Block(5, IMAGES)) is None


@pytest.mark.parametrize("size", [0, -1])
def test_wrong_sizes_of_blocks(size: int) -> None:
    with pytest.raises(ValueError, match=f"block_size to be at least 1 for 7 images, but got {size}"):
        cut(IMAGES, size)


def test_more_blocks_than_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomalib_clipad.scale.blocks.MOST_BLOCKS", 3)
    assert len(cut(IMAGES, 3)) == 3
    with pytest.raises(ValueError, match="block_size to be at least 3 for 7 images, but got 2"):
        cut(IMAGES, 2)


def test_an_output_of_other_settings_is_refused_by_their_names(tmp_path: Path) -> None:
    folder, settings = tmp_path / "scores.parquet", {"model": "SDP", "arguments": "x" * 99, "onnx": ""}
    check_output(folder, settings)
    folder.mkdir()
    check_output(folder, settings)
    keep(folder, settings)
    check_output(folder, settings)
    check_output(folder, {"model": "another, of which nothing was finished"})
    score_block(Places(), cut(IMAGES, 7)[0], folder)
    check_output(folder, settings)
    other = {**settings, "arguments": "y", "block_size": "3"}
    with pytest.raises(ValueError, match=r"others: arguments is y, was x{60}…; block_size is 3, was nothing"):
        check_output(folder, other)


def test_an_output_that_is_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(FileExistsError, match=r"_settings.json cannot be read \(.*\). Give another --output"):
            check_output(folder, {})
    (tmp_path / "_settings.json").write_text("{")
    with pytest.raises(FileExistsError, match="cannot be read"):
        check_output(tmp_path, {})
