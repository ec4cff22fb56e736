# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The category of each image, from each kind of datamodule."""

from pathlib import Path

from anomalib.data import Folder, Kolektor, MVTecAD

from anomalib_clipad.data import MVTec
from anomalib_clipad.data.categories import image_categories, own_name


def test_no_datamodule() -> None:
    assert image_categories(None, ["a.png"]) is None


def test_host_datamodule_of_one_category() -> None:
    assert image_categories(MVTecAD(category="cable"), [Path("a.png"), "b.png"]) == ["cable", "cable"]


def test_host_datamodule_without_category() -> None:
    assert image_categories(Folder(name="mine", normal_dir="good"), ["a.png"]) is None


def test_several_categories(tmp_path: Path) -> None:
    datamodule = MVTec(root=tmp_path, categories=["bottle", "cable"])
    paths = [tmp_path / "cable/test/good/000.png", str(tmp_path / "bottle/test/good/000.png")]
    assert image_categories(datamodule, paths) == ["cable", "bottle"]


def test_name_where_there_is_no_category() -> None:
    assert own_name(Folder(name="gasket", normal_dir="good")) == "gasket"
    assert own_name(Kolektor()) == "object"
