# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Results folders: `latest` is a link, whatever was run before and however it ended."""

import shutil

import pytest

import layouts
from anomalib_clipad import MVTec
from tiny import make_engine, sdp, sdp_plus


@pytest.fixture
def data(tmp_path):
    root = layouts.write_mvtec_ad(tmp_path / "data", ["bottle", "cable"])
    auxiliary = MVTec(root=root, categories=["cable"], auxiliary=None)
    return MVTec(root=root, categories=["bottle"], auxiliary=auxiliary, num_workers=0, eval_batch_size=8)


def test_training_follows_a_test_that_failed(data, tmp_path):
    with pytest.raises(RuntimeError, match="train them: `anomalib train"):
        make_engine(tmp_path).test(sdp_plus(visualizer=False), datamodule=data)
    make_engine(tmp_path).train(sdp_plus(epochs=1, visualizer=False, evaluator=False), datamodule=data)

    results = tmp_path / "SDPPlus/MVTec/bottle"
    assert (results / "latest").is_symlink()
    assert (results / "latest/heads.safetensors").is_file()
    assert sorted(path.name for path in results.iterdir()) == ["latest", "v0", "v1"]


def test_a_plain_folder_becomes_a_version(data, tmp_path):
    engine = make_engine(tmp_path)
    engine.test(sdp(visualizer=False), datamodule=data)
    results = tmp_path / "SDP/MVTec/bottle"
    (results / "latest/mine").touch()
    shutil.copytree(results, copy := tmp_path / "copy/SDP/MVTec/bottle")  # follows the link
    shutil.rmtree(copy / "v0")

    make_engine(tmp_path / "copy").train(sdp(visualizer=False), datamodule=data)

    assert (results / "latest").resolve() == results / "v0"
    assert ((copy / "v0/mine").is_file(), (copy / "latest").resolve()) == (True, copy / "v1")
