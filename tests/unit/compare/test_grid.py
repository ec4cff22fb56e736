# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Grids, and the jobs that they make; nothing is run."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from anomalib.data import AnomalibDataModule
from anomalib.models import AnomalibModule, Padim

from anomalib_clipad.compare.config import make_config
from anomalib_clipad.compare.grid import check, expand, make_datamodule
from anomalib_clipad.compare.heads import heads_key

CONFIGS = Path(__file__).parents[3] / "configs"
MODELS = {"SDP": {"class_path": "anomalib_clipad.SDP"}, "Padim": {"class_path": "anomalib.models.Padim"}}
SYNTHETIC = {"class_path": "anomalib_clipad.SyntheticDefects", "categories": ["wood", "gear"]}


def test_a_grid_is_models_by_datasets_by_categories_by_seeds():
    config = make_config(MODELS, {"drawn": SYNTHETIC, "bottle": {"class_path": "anomalib.data.MVTecAD"}}, seeds=[1, 2])

    specs = expand(config)

    assert [(spec.dataset, spec.category, spec.model, spec.seed) for spec in specs] == [
        (dataset, category, model, seed)
        for dataset, category in [("drawn", "wood"), ("drawn", "gear"), ("bottle", "bottle")]
        for model in MODELS
        for seed in (1, 2)
    ]
    assert len({spec.id for spec in specs}) == len(specs)


def test_all_categories_of_a_dataset_by_default():
    config = make_config(MODELS, {"drawn": {"class_path": "anomalib_clipad.SyntheticDefects"}})
    assert len({spec.category for spec in expand(config)}) == 8


def test_a_job_is_another_one_when_anything_about_it_changes():
    [spec] = expand(make_config({"SDP": MODELS["SDP"]}, {"wood": {**SYNTHETIC, "categories": ["wood"]}}))
    others = [
        replace(spec, model_entry=replace(spec.model_entry, init_args={"sigma": 3.0})),
        replace(spec, dataset_entry=replace(spec.dataset_entry, init_args={"n_train": 3})),
        replace(spec, seed=7),
        replace(spec, reference_pro=True),
    ]
    assert len({spec.id, *(other.id for other in others)}) == 5
    assert replace(spec).id == spec.id
    assert spec.id.startswith("sdp-wood-wood-42-")


def test_what_is_expected_or_may_be_skipped_makes_no_other_job():
    data = {"wood": {**SYNTHETIC, "categories": ["wood"]}}
    plain = make_config(MODELS, data)
    data = {"wood": {**data["wood"], "skip_without": "somewhere"}}
    expecting = make_config(MODELS, data, expected={"SDP": {"wood": {"source": "x"}}}, tolerance=2.0, needs="a day")
    assert [spec.id for spec in expand(expecting)] == [spec.id for spec in expand(plain)]


def test_models_and_data_are_made_as_on_the_command_line():
    models = {"Padim": {"class_path": "anomalib.models.Padim", "init_args": {"pre_trained": False}, "batch_size": 3}}
    models["Padim"]["train_batch_size"] = 1
    [spec] = expand(make_config(models, {"wood": {**SYNTHETIC, "categories": ["wood"]}}))

    datamodule = spec.make_datamodule()

    assert isinstance(spec.make_model(), Padim)
    assert datamodule.categories == ("wood",)
    assert (datamodule.train_batch_size, datamodule.eval_batch_size) == (1, 3)


def test_the_hosts_datamodules_take_their_one_category():
    dataset = {"class_path": "anomalib.data.MVTecAD", "categories": ["bottle", "cable"]}
    specs = expand(make_config({"SDP": MODELS["SDP"]}, {"MVTec": dataset}))
    assert [spec.make_datamodule().category for spec in specs] == ["bottle", "cable"]


def test_a_folder_is_one_category_under_its_own_name():
    folder = {"class_path": "anomalib.data.Folder", "init_args": {"name": "gasket", "normal_dir": "good"}}
    transfer = {
        "class_path": "anomalib_clipad.Transfer",
        "init_args": {"auxiliary": SYNTHETIC_MODULE, "target": folder},
    }
    specs = expand(make_config({"SDP": MODELS["SDP"]}, {"a": folder, "b": transfer}))
    assert [spec.category for spec in specs] == ["gasket", "gasket"]


SYNTHETIC_MODULE = {"class_path": "anomalib_clipad.SyntheticDefects", "init_args": {"categories": ["nut"]}}


def test_categories_that_cannot_be_told_apart_are_refused():
    transfer = {
        "class_path": "anomalib_clipad.Transfer",
        "init_args": {"auxiliary": SYNTHETIC_MODULE, "target": {"class_path": "anomalib_clipad.SyntheticDefects"}},
    }
    with pytest.raises(ValueError, match=r"Expected datasets.b to be one category.* but got 8 categories"):
        expand(make_config({"SDP": MODELS["SDP"]}, {"b": transfer}))


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({}, "at least one model, one dataset and one seed"),
        ({"A": {"init_args": {}}}, r"Expected models.A to have a class_path and options, but got no class_path"),
        ({"A": {"class_path": "x.Y", "sigma": 3}}, r"got an unknown sigma. Options: class_path, init_args, note"),
        ({"A": {"class_path": "anomalib_clipad.SDPP"}}, r"Expected models.A to name a class and its arguments"),
        (
            {"A": {"class_path": "anomalib_clipad.SDP", "init_args": {"sgma": 3}}},
            r"Expected models.A to name a class and its arguments, but got anomalib_clipad.SDP: [\s\S]*sgma",
        ),
        ({"A": {"class_path": "anomalib_clipad.SDP", "init_args": {"layers": "x"}}}, r"Expected models.A to name"),
    ],
)
def test_what_is_wrong_with_a_config_is_said_before_anything_runs(models, message):
    with pytest.raises(ValueError, match=message):
        expand(make_config(models, {"drawn": SYNTHETIC}))


GRIDS = sorted(path.name for kind in ("compare", "ablation", "paper") for path in CONFIGS.glob(f"{kind}_*.yaml"))


@pytest.mark.parametrize("name", GRIDS)
def test_the_shipped_grids_can_be_read(name):
    config = make_config(**yaml.safe_load((CONFIGS / name).read_text()))
    for base, entries in ((AnomalibModule, config.models), (AnomalibDataModule, config.datasets)):
        for what, entry in entries.items():
            check(base, what, entry.class_path, entry.init_args)


def test_the_rivals_in_the_comments_of_a_shipped_grid_can_be_uncommented():
    text = (CONFIGS / "compare_mvtec.yaml").read_text()
    rivals = re.findall(r"^  # ([\w, -]+): {", text, flags=re.MULTILINE)
    config = make_config(**yaml.safe_load(re.sub(r"^  # ([\w, -]+: {.*})$", r"  \1", text, flags=re.MULTILINE)))
    assert {"WinCLIP, 4 shots", "AnomalyDINO", "EfficientAd"} <= set(rivals) <= set(config.models)
    assert len({spec.id for spec in expand(config)}) == 15 * len(config.models)


class TestHeads:
    """Heads are trained once for each auxiliary dataset."""

    @staticmethod
    def specs(**init_args):
        models = {"SDP+": {"class_path": "anomalib_clipad.SDPPlus", "init_args": init_args}}
        dataset = {**SYNTHETIC, "init_args": {"root": "drawn"}}
        other = {**dataset, "init_args": {"root": "elsewhere"}}
        return expand(make_config(models, {"a": dataset, "b": {**dataset, "categories": ["carpet"]}, "c": other}))

    def test_categories_of_a_dataset_share_heads(self):
        keys = [heads_key(spec) for spec in self.specs()]
        assert len(keys) == 5
        assert len(set(keys[:3])) == 1
        assert keys[0].auxiliary == "SyntheticDefects"
        assert keys[3] != keys[0]

    def test_another_model_or_seed_gets_heads_of_its_own(self):
        spec = self.specs()[0]
        assert heads_key(self.specs(epochs=2)[0]) != heads_key(spec)
        assert heads_key(replace(spec, seed=1)) != heads_key(spec)

    def test_models_with_heads_and_others_need_none(self):
        assert heads_key(self.specs(heads="embedded")[0]) is None
        [spec, _] = expand(make_config(MODELS, {"wood": {**SYNTHETIC, "categories": ["wood"]}}))
        assert heads_key(spec) is None


def test_without_a_category_the_whole_dataset_is_made():
    config = make_config(MODELS, {"drawn": SYNTHETIC})
    assert make_datamodule(config.datasets["drawn"], None).categories == ("wood", "gear")


def test_the_trainer_of_a_model_that_trains_for_epochs():
    model = {"class_path": "anomalib.models.Stfpm", "trainer": {"max_epochs": 2}}
    data = {"wood": {**SYNTHETIC, "categories": ["wood"]}}
    [spec] = expand(make_config({"STFPM": model}, data))
    [other] = expand(make_config({"STFPM": {**model, "trainer": {}}}, data))
    assert spec.id != other.id

    for name in ("max_epoch", "devices"):
        with pytest.raises(ValueError, match=rf"Expected models.A.trainer to have arguments.* but got {name}. Known: "):
            expand(make_config({"A": {**model, "trainer": {name: 2}}}, data))


def test_a_model_that_takes_a_seed_is_given_the_jobs():
    models = {"SDP+": {"class_path": "anomalib_clipad.SDPPlus", "init_args": {"backbone": "clipad-tiny"}}}
    data = {"wood": {**SYNTHETIC, "categories": ["wood"]}}
    specs = expand(make_config(models, data, seeds=[3, 4]))
    assert [spec.make_model().seed for spec in specs] == [3, 4]
    models["SDP+"]["init_args"]["seed"] = 9
    assert [spec.make_model().seed for spec in expand(make_config(models, data, seeds=[3]))] == [9]
