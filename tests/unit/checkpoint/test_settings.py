# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint goes with the settings that it was calibrated with, or is refused."""

import pytest
import torch
from anomalib.data import PredictDataset
from PIL import Image

from anomalib_clipad import SDP
from anomalib_clipad.checkpoint.settings import check_settings, describe_settings
from tiny import make_engine, sdp, sdp_plus

OF_SDP = [
    ({"sigma": 1.0}, "Expected sigma to be 4.0, .* but got 1.0"),
    ({"layers": [1, 3, 5, 8]}, r"Expected layers to be \[2, 4, 6, 8\], .* but got \[1, 3, 5, 8\]"),
    ({"taps": "block"}, "Expected taps to be reference, .* but got block"),
    ({"staged": False}, "Expected staged to be True, .* but got False"),
    ({"architecture_surgery": False}, "Expected architecture_surgery to be True, .* but got False"),
    ({"feature_surgery": False}, "Expected feature_surgery to be True, .* but got False"),
    ({"prompts": {"extends": "industrial", "anomalous_states": ["torn {}"]}}, "Expected prompts to be 418 prompts"),
    ({"prompts": {"extends": "industrial", "class_names": {"xy-7": "seal"}}}, "Expected prompts to be 418 prompts"),
    ({"strategy": "mean"}, "Expected strategy to be dbscan, .* but got mean"),
    ({"strategy_params": {"eps": 1.5}}, "Expected strategy_params to be .* but got .*1.5"),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    Image.new("RGB", (50, 40), (90, 60, 30)).save(folder / "a.png")
    return PredictDataset(folder)


@pytest.fixture(scope="module")
def checkpoint(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    engine = make_engine(folder)
    engine.predict(sdp(class_name="nut", visualizer=False), dataset=images)
    engine.trainer.save_checkpoint(folder / "model.ckpt")
    return folder / "model.ckpt"


def settings_of(model):
    return describe_settings(model.model, model.collaborators.text_engine)


@pytest.mark.parametrize(("arguments", "message"), OF_SDP)
def test_other_settings_are_refused(arguments, message):
    expected = f"{message}.* Pass the checkpoint's \\(--model.{next(iter(arguments))}\\)"
    with pytest.raises(ValueError, match=expected):
        check_settings(settings_of(sdp()), settings_of(sdp(**arguments)))


def test_the_weight_of_the_heads_is_compared():
    with pytest.raises(ValueError, match=r"Expected head_weight to be 1.0, .* but got 0.5"):
        check_settings(settings_of(sdp_plus()), settings_of(sdp_plus(head_weight=0.5)))


def test_defaults_may_be_spelled_out():
    spelled_out = sdp(sigma=4, layers=[2, 4, 6, -1], prompts="industrial", strategy_params={})
    check_settings(settings_of(sdp()), settings_of(spelled_out))


def test_the_engine_refuses_a_checkpoint_of_other_settings(checkpoint, images, tmp_path):
    model = sdp(class_name="nut", sigma=1.0, visualizer=False)
    with pytest.raises(
        ValueError, match=r"Expected sigma to be 4.0, with which the checkpoint was made and calibrated"
    ):
        make_engine(tmp_path).predict(model, dataset=images, ckpt_path=checkpoint)


def test_a_reloaded_model_has_the_settings_it_was_saved_with(images, tmp_path):
    engine, given = make_engine(tmp_path), {"sigma": 2.0, "taps": "block", "strategy": "mean"}
    engine.predict(sdp(class_name="nut", visualizer=False, **given), dataset=images)
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")

    assert settings_of(SDP.load(tmp_path / "model.ckpt")) == settings_of(sdp(**given))


def test_only_weights_that_are_never_saved_are_missing_without_a_warning(checkpoint, tmp_path, recwarn):
    SDP.load(checkpoint)
    assert not [warning for warning in recwarn if "not in the checkpoint" in str(warning.message)]

    content = torch.load(checkpoint, weights_only=True)
    del content["state_dict"]["post_processor.image_min"]
    torch.save(content, tmp_path / "model.ckpt")
    with pytest.warns(UserWarning, match="post_processor.image_min"):
        SDP.load(tmp_path / "model.ckpt")


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


@pytest.mark.parametrize("hostile", [False, True], ids=["truncated", "hostile"])
def test_the_engine_refuses_a_damaged_or_hostile_checkpoint(checkpoint, images, tmp_path, hostile):
    path = tmp_path / "model.ckpt"
    path.write_bytes(checkpoint.read_bytes()[:4000])
    if hostile:
        content = torch.load(checkpoint, weights_only=True)
        torch.save({**content, "more": Hostile(tmp_path / "executed")}, path)

    for act in (
        lambda: make_engine(tmp_path).predict(sdp(class_name="nut"), dataset=images, ckpt_path=path),
        lambda: make_engine(tmp_path).export(sdp(), "torch", export_root=tmp_path / "export", ckpt_path=path),
    ):
        with pytest.raises(ValueError, match=r"model\.ckpt: it cannot be read .*; nothing in it was executed"):
            act()

    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "export").exists()
