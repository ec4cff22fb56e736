# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Photographs of real products: which are taken, and which train; drawn ones stand in for them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from anomalib.data import AnomalibDataModule
from PIL import Image

from anomalib_clipad.compare.config import make_config
from anomalib_clipad.compare.grid import expand
from anomalib_clipad.data.categories import image_categories
from benchmarks import real_photographs
from benchmarks.real_photographs import NamedFolder, SolarCells

CONFIG = Path(__file__).parents[3] / "configs" / "real_photographs.yaml"
# Probability and silicon of each cell.
CELLS = [("0.0", "mono")] * 6 + [("1.0", "mono")] * 3 + [("0.3333333333333333", "mono")] + [("0.0", "poly")] * 2


@pytest.fixture
def solar(tmp_path: Path) -> Path:
    """A folder as the package elpv-dataset has it."""
    lines = [f"images/cell{number:04}.png  {p}                 {kind}" for number, (p, kind) in enumerate(CELLS, 1)]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    draw(tmp_path / "images", [f"cell{number:04}.png" for number in range(1, len(CELLS) + 1)])
    return tmp_path


def draw(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for shade, name in enumerate(names):
        Image.new("L", (30, 30), 20 * shade).save(folder / name)


def cells(root: Path) -> SolarCells:
    return SolarCells("mono", root=str(root), seed=42)


def tiles(root: Path) -> NamedFolder:
    draw(root / "good", [f"{number}.png" for number in range(6)])
    draw(root / "crack", [f"{number}.png" for number in range(3)])
    given = {"root": root, "normal_dir": "good", "abnormal_dir": "crack", "test_split_ratio": 0.5, "seed": 42}
    return NamedFolder("magnetic tile", **given, val_split_mode="same_as_test", num_workers=0)


def paths(dataset) -> set[str]:
    return {str(Path(path)) for path in dataset.samples["image_path"]}


def test_cells_of_one_kind_that_are_surely_good_or_surely_defective(solar):
    datamodule = cells(solar)
    datamodule.setup()

    train, test = datamodule.train_data.samples, datamodule.test_data.samples

    taken = {str(solar / "images" / f"cell{number:04}.png") for number in range(1, 10)}
    assert paths(datamodule.train_data) | paths(datamodule.test_data) == taken
    assert set(train["label_index"]) == {0}
    assert set(test["image_path"][test["label_index"] == 1]) == {
        str(solar / "images" / f"cell{number:04}.png") for number in (7, 8, 9)
    }


@pytest.mark.parametrize("make", [cells, lambda root: tiles(root / "tiles")], ids=["solar cells", "tiles"])
def test_half_of_the_good_ones_train_and_the_others_are_tested(solar, make: Callable[[Path], AnomalibDataModule]):
    datamodule = make(solar)
    datamodule.setup()

    assert len(datamodule.train_data) == 3
    assert sorted(datamodule.test_data.samples["label_index"]) == [0, 0, 0, 1, 1, 1]
    assert not paths(datamodule.train_data) & paths(datamodule.test_data)
    assert paths(datamodule.val_data) == paths(datamodule.test_data)


def test_all_models_call_the_object_by_its_name(solar):
    made = {"solar cell": cells(solar), "magnetic tile": tiles(solar / "tiles")}
    for name, datamodule in made.items():
        assert datamodule.category == name  # what WinCLIP reads
        assert image_categories(datamodule, ["an image"]) == [name]


def test_cells_have_labels_and_no_masks(solar):
    datamodule = cells(solar)
    datamodule.setup()
    batch = next(iter(datamodule.test_dataloader()))
    assert (batch.gt_mask, batch.image.shape) == (None, (6, 3, 30, 30))
    assert torch.equal(batch.gt_label.sort().values, torch.tensor([0, 0, 0, 1, 1, 1]))


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"Expected labels of the solar cells, but got no file at .*labels"):
        SolarCells("mono", root=str(tmp_path))
    monkeypatch.setattr(real_photographs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"elpv-dataset to be installed, .* Run `pip install '\.\[real\]'`"):
        SolarCells("mono")


def test_the_grid_holds_all_four_models_on_all_three_products(solar, monkeypatch):
    monkeypatch.setattr(real_photographs, "_installed_folder", lambda: solar)
    config = make_config(**yaml.safe_load(CONFIG.read_text()))
    specs = expand(config)
    assert [spec.model for spec in specs[:4]] == ["SDP", "SDP+", "WinCLIP", "PatchCore"]
    assert [spec.category for spec in specs[::4]] == ["magnetic tile", "solar cell", "solar cell"]
    assert len({spec.id for spec in specs}) == 12
