# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The procedural dataset on disk and as a datamodule."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_clipad.data import SyntheticDefects
from anomalib_clipad.data.labelled import require_labelled_training_data
from anomalib_clipad.data.synthetic import generate as module
from anomalib_clipad.data.synthetic.generate import MANIFEST, Recipe, generate
from anomalib_clipad.data.synthetic.render import (
    CATEGORIES,
    DEFECT_KINDS,
    HELD_OUT_CATEGORIES,
    TRAINING_CATEGORIES,
    TRAINING_DEFECTS,
)

SMALL = Recipe(size=32, n_train=1, n_test_good=2, n_test_per_defect=1)
SMALL_ARGUMENTS = {"image_size": 32, "n_train": 1, "n_test_good": 2, "n_test_per_defect": 1, "num_workers": 0}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def test_layout_is_that_of_mvtec_ad(tmp_path):
    generate(tmp_path, ["nut"], SMALL)

    names = files(tmp_path / "nut")
    assert {"train/good/000.png", "test/good/001.png"} < set(names)
    for defect in DEFECT_KINDS:
        mask = np.asarray(Image.open(tmp_path / "nut/ground_truth" / defect / "000_mask.png"))
        assert f"test/{defect}/000.png" in names
        assert set(np.unique(mask)) == {0, 255}


def test_images_follow_from_the_seed_alone_whatever_else_is_drawn(tmp_path):
    generate(tmp_path / "a", ["nut", "wood"], SMALL)
    generate(tmp_path / "b", ["wood"], SMALL)
    generate(tmp_path / "c", ["wood"], Recipe(size=32, n_train=1, n_test_good=3, n_test_per_defect=1))
    generate(tmp_path / "d", ["wood"], Recipe(size=32, n_train=1, n_test_good=2, n_test_per_defect=1, seed=1))

    expected = files(tmp_path / "a/wood")
    assert files(tmp_path / "b/wood") == expected
    assert expected.items() < files(tmp_path / "c/wood").items()
    assert files(tmp_path / "d/wood")["test/good/000.png"] != expected["test/good/000.png"]


def test_a_second_call_draws_nothing(tmp_path, monkeypatch):
    generate(tmp_path, ["nut"], SMALL)
    monkeypatch.setattr(module, "photograph", None)

    generate(tmp_path, ["nut"], SMALL)


def test_an_interrupted_category_leaves_nothing_half_written(tmp_path, monkeypatch):
    drawn = iter([module.photograph] * 3)

    def interrupted(*arguments: object) -> object:
        draw = next(drawn, None)
        if draw is None:
            raise KeyboardInterrupt
        return draw(*arguments)

    monkeypatch.setattr(module, "photograph", interrupted)

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, ["nut"], SMALL)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("manifest", [json.dumps({"seed": 9}), "{broken", None])
def test_a_folder_of_another_origin_is_not_mixed_with(tmp_path, manifest):
    (tmp_path / "nut").mkdir()
    if manifest is not None:
        (tmp_path / "nut" / MANIFEST).write_text(manifest)

    with pytest.raises(ValueError, match="Pass another root, or delete the folder to draw it anew"):
        generate(tmp_path, ["nut"], SMALL)


@pytest.mark.parametrize(("name", "value"), [("seed", -1), ("size", 8), ("n_train", 0), ("n_test_good", 0)])
def test_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"Expected {name} to be at least"):
        Recipe(**{name: value})


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("held_out", HELD_OUT_CATEGORIES),
        ("training", TRAINING_CATEGORIES),
        ("all", CATEGORIES),
        ("nut,wood", ("nut", "wood")),
        (["gear"], ("gear",)),
        (None, CATEGORIES),
    ],
)
def test_subsets_and_lists_choose_categories(choice, expected):
    assert SyntheticDefects(categories=choice, num_workers=0).categories == expected


def test_datamodule_draws_and_reads_the_dataset(tmp_path):
    datamodule = SyntheticDefects(root=tmp_path, categories=["nut", "wood"], **SMALL_ARGUMENTS)

    datamodule.prepare_data()
    datamodule.setup()

    samples = datamodule.test_data.samples
    assert len(samples) == 2 * (2 + len(DEFECT_KINDS))
    assert [datamodule.category_of(path) for path in samples.image_path] == ["nut"] * 16 + ["wood"] * 16
    batch = next(iter(datamodule.test_dataloader()))
    assert batch.gt_mask.shape[1:] == (32, 32)


def test_kinds_of_defect_can_be_chosen(tmp_path):
    datamodule = SyntheticDefects(root=tmp_path, categories=["nut"], defects="held_out", **SMALL_ARGUMENTS)

    datamodule.prepare_data()
    datamodule.setup()

    assert set(datamodule.test_data.samples.label) == {"good", "crack", "burn"}
    assert len(list(tmp_path.glob("nut/test/*"))) == 1 + len(DEFECT_KINDS)


@pytest.mark.parametrize("choice", ["rust", ["crack", "rust"], []])
def test_unknown_kinds_of_defect_are_refused(choice):
    with pytest.raises(ValueError, match=r"Valid: scratch, hole, .*; or one of held_out, training, all"):
        SyntheticDefects(defects=choice, num_workers=0)


def test_unread_dataset_is_missed_with_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"prepare_data\(\) generate it"):
        SyntheticDefects(root=tmp_path, **SMALL_ARGUMENTS).setup()


def test_default_auxiliary_is_the_training_part(tmp_path):
    datamodule = SyntheticDefects(root=tmp_path, **SMALL_ARGUMENTS, image_seed=3)

    (auxiliary,) = datamodule.auxiliaries

    assert auxiliary.categories == TRAINING_CATEGORIES
    assert auxiliary.defects == TRAINING_DEFECTS
    assert (auxiliary.root, auxiliary.recipe) == (datamodule.root, datamodule.recipe)
    assert datamodule.is_zero_shot
    assert not SyntheticDefects(root=tmp_path, categories="all").is_zero_shot


def test_auxiliary_images_show_no_held_out_defect(tmp_path):
    training = SyntheticDefects(root=tmp_path, categories=["nut"], defects="training", **SMALL_ARGUMENTS)
    datamodule = SyntheticDefects(root=tmp_path, categories=["wood"], auxiliary=training, **SMALL_ARGUMENTS)

    datamodule.prepare_data()
    datamodule.setup("fit")

    samples = datamodule.train_data.samples
    assert set(samples.label) == {"good", *TRAINING_DEFECTS}
    assert {datamodule.category_of(path) for path in samples.image_path} == {"nut"}
    require_labelled_training_data(datamodule)


def test_small_defects_are_another_recipe(tmp_path):
    small = Recipe(size=96, n_train=1, n_test_good=1, n_test_per_defect=1, defect_area=(0.002, 0.01))
    generate(tmp_path, ["nut"], small)
    generate(tmp_path, ["nut"], small)  # draws nothing

    assert "defect_area" not in Recipe().manifest()
    with pytest.raises(ValueError, match="to be drawn by"):
        generate(tmp_path, ["nut"], Recipe(size=96, n_train=1, n_test_good=1, n_test_per_defect=1))


@pytest.mark.parametrize("area", [(0.01, 0.001), (0.0, 0.01), (0.001, 0.5)])
def test_areas_that_are_none_are_refused(area):
    with pytest.raises(ValueError, match="Expected defect_area to be two rising shares of the image of at most"):
        Recipe(defect_area=area)
