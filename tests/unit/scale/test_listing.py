# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Listings from folders, CSV and Parquet files."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import layouts
from anomalib_clipad.data.image_loader import ListedImage
from anomalib_clipad.scale.listing import digest_images, list_input


def write_list(path: Path, columns: dict[str, list[Any]]) -> str:
    table = pd.DataFrame(columns)
    table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path)
    return str(path)


@pytest.mark.parametrize("name", ["images.csv", "images.parquet"])
def test_lists_give_absolute_paths_and_classes_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    columns = {"path": ["b/1.png", str(tmp_path / "a.png")], "label": [0, 1], "class_name": ["nut", "cap"]}
    write_list(tmp_path / name, columns)
    monkeypatch.chdir(tmp_path)
    assert list_input(name) == [
        ListedImage(str(tmp_path / "b/1.png"), "nut", position=0),
        ListedImage(str(tmp_path / "a.png"), "cap", position=1),
    ]


def test_a_parquet_file_without_classes_and_a_folder(tmp_path: Path) -> None:
    layouts.write_images(tmp_path / "photos", 2)
    paths = [str(tmp_path / "photos/000.png"), str(tmp_path / "photos/001.png")]
    listed = list_input(write_list(tmp_path / "images.parquet", {"path": ["photos/000.png", "photos/001.png"]}))
    assert listed == list_input(str(tmp_path / "photos"))
    assert [(image.path, image.class_name) for image in listed] == [(path, None) for path in paths]


def test_a_folder_of_parquet_files_is_a_list(tmp_path: Path) -> None:
    (tmp_path / "images.parquet").mkdir()
    write_list(tmp_path / "images.parquet/part-0.parquet", {"path": ["/a.png"]})
    write_list(tmp_path / "images.parquet/part-1.parquet", {"path": ["/b.png"]})
    assert [image.path for image in list_input(str(tmp_path / "images.parquet"))] == ["/a.png", "/b.png"]


@pytest.mark.parametrize("name", ["images.csv", "images.parquet"])
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["a.png", "b.png", "a.png"]}, "to list each image once, but got 1 more often: .*a.png"),
        ({"path": ["a.png", "b.png"], "class_name": ["nut", None]}, "the class of all images or of none, .*b.png"),
        ({"path": []}, "to list images, but it is empty"),
        ({"path": ["a.png", "s3://bucket/b.png"]}, "paths of a file system, but got .*bucket/b.png. Mount"),
    ],
    ids=["doubled", "named in part", "empty", "address"],
)
def test_wrong_lists(tmp_path: Path, name: str, columns: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list_input(write_list(tmp_path / name, columns))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"file": ["a.png"]}, "to have a column 'path', but got file. Rename yours"),
        ({"path": ["a.png", None]}, "a path in row 1 of .*, but got None"),
        ({"path": [1, 2]}, "a path in row 0 of .*, but got 1"),
    ],
    ids=["column", "missing", "number"],
)
def test_wrong_parquet_files(tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list_input(write_list(tmp_path / "images.parquet", columns))


def test_damaged_and_missing_lists(tmp_path: Path) -> None:
    (tmp_path / "images.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"to be a Parquet file, but reading it failed: [^\n]+$"):
        list_input(str(tmp_path / "images.parquet"))
    with pytest.raises(FileNotFoundError, match=r"found none at .*none\.parquet"):
        list_input(str(tmp_path / "none.parquet"))
    with pytest.raises(ValueError, match=r"but got the address gs://x\. Mount the storage"):
        list_input("gs://x")


def test_the_digest_tells_lists_apart() -> None:
    one = [ListedImage("/a.png", "nut"), ListedImage("/b\udcf6.png", "nut")]
    others = [one[::-1], one[:1], [each._replace(class_name="cap") for each in one], []]
    assert digest_images(one) == digest_images([each._replace(position=7) for each in one])
    assert len({digest_images(each) for each in [one, *others]}) == 5
