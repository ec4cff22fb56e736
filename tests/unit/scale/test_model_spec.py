# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The model of a watch, made of what is typed."""

from pathlib import Path

import pytest

import layouts
from anomalib_clipad.scale.model_spec import ModelSpec, require_one_by_one
from tiny import BACKBONE, make_engine, sdp

TINY = {"backbone": BACKBONE, "class_name": "nut"}
AS_THE_PAGE_SAYS = {
    "post_processor": {"class_path": "anomalib_clipad.CategoryPostProcessor", "init_args": {"image_sensitivity": 0.25}}
}


def test_components_are_made() -> None:
    assert ModelSpec(init_args={**TINY, **AS_THE_PAGE_SAYS}).make().post_processor.image_sensitivity == 0.25


@pytest.mark.parametrize("option", [{"pool": True}, {"calibrate_unlabelled": True}, {"calibrate_unlabelled": 0.02}])
def test_what_needs_all_images_at_once_is_refused(option: dict) -> None:
    [name] = option
    with pytest.raises(ValueError, match=f"scored by itself, but got --model.{name}, which needs all"):
        require_one_by_one(ModelSpec(init_args={**TINY, **option}).make())


def test_a_missing_or_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"--ckpt_path to be a file, but found none at .*none\.ckpt"):
        ModelSpec(ckpt_path=str(tmp_path / "none.ckpt"))
    (tmp_path / "bad.ckpt").write_bytes(b"PK\3\4 damaged")
    with pytest.raises(ValueError, match=r"bad\.ckpt"):
        ModelSpec(init_args=TINY, ckpt_path=str(tmp_path / "bad.ckpt")).make()


def test_files_are_described_by_their_content(tmp_path: Path) -> None:
    described = []
    for folder, content in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "prompts.yaml").write_text(content)
        described.append(ModelSpec(init_args={"prompts": str(tmp_path / folder / "prompts.yaml")}).describe())
    assert described[0] == described[1] != described[2]
    assert described[0]["model.prompts"].startswith("prompts.yaml (SHA-256 ")


def test_where_a_model_runs_is_no_setting() -> None:
    assert ModelSpec(init_args=TINY).describe() == ModelSpec(init_args=TINY, device="cuda").describe()


def test_a_checkpoint_is_loaded(tmp_path: Path) -> None:
    model = sdp(class_name="nut")
    engine = make_engine(tmp_path)
    layouts.write_images(tmp_path / "photos", 1)
    engine.predict(model, data_path=tmp_path / "photos")
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    spec = ModelSpec(ckpt_path=str(tmp_path / "model.ckpt"))
    assert spec.make().usual_class() == "nut"
    assert spec.describe()["ckpt_path"].startswith("model.ckpt (SHA-256 ")
