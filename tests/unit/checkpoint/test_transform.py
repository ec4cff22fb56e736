# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's transform is restored or missed aloud: no reload gives other scores silently."""

from pathlib import Path

import lightning
import pytest
import torch
from anomalib.data import PredictDataset
from anomalib.pre_processing import PreProcessor
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import Compose, InterpolationMode, Normalize, Resize

from anomalib_clipad import SDP
from tiny import make_engine, sdp


class Squash(Resize):
    """A resize that the host cannot save."""


def make_pre_processor(kind: type[Resize] = Resize, side: int = 80, mean: float = 0.5) -> PreProcessor:
    resize = kind((side, side), interpolation=InterpolationMode.BICUBIC, antialias=True)
    return PreProcessor(Compose([resize, Normalize(mean=[mean] * 3, std=[0.25] * 3)]))


def save(model: SDP, path: Path) -> Path:
    """Write the checkpoint that a trainer would write."""
    checkpoint = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": lightning.__version__,
    }
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path


def make_model(**options) -> SDP:
    """A model that knows a class, as after a validation."""
    model = sdp(class_name="nut", visualizer=False, evaluator=False, **options).eval()
    model.predict(torch.rand(3, 160, 120))
    return model


def anomaly_map(model: SDP) -> Tensor:
    return model(torch.rand(1, 3, 160, 120, generator=torch.Generator().manual_seed(0))).anomaly_map


def predict(model: SDP, checkpoint: Path, folder: Path) -> None:
    Image.new("RGB", (90, 60)).save(folder / "image.png")
    engine = make_engine(folder / "results")
    engine.predict(model, dataset=PredictDataset(folder / "image.png"), ckpt_path=checkpoint)


@pytest.mark.parametrize(
    "options",
    [{}, {"image_size": 80}, {"image_size": (80, 120)}, {"pre_processor": False}, {"pre_processor": True}],
    ids=str,
)
def test_a_reloaded_model_scores_as_before(tmp_path, options):
    model = make_model(**options)

    reloaded = SDP.load(save(model, tmp_path / "model.ckpt"))

    torch.testing.assert_close(anomaly_map(reloaded), anomaly_map(model), atol=0, rtol=0)
    assert (reloaded.pre_processor is None) == (model.pre_processor is None)


def test_a_transform_of_the_users_own_is_restored(tmp_path):
    model = make_model(pre_processor=make_pre_processor())

    reloaded = SDP.load(save(model, tmp_path / "model.ckpt"))

    assert anomaly_map(reloaded).shape == (1, 80, 80)
    torch.testing.assert_close(anomaly_map(reloaded), anomaly_map(model), atol=0, rtol=0)


def test_a_transform_that_the_host_cannot_save_is_asked_for_and_then_kept(tmp_path):
    model = make_model(pre_processor=make_pre_processor(Squash))
    path = save(model, tmp_path / "model.ckpt")

    with pytest.raises(ValueError, match=r"Expected pre_processor to be .*Squash.*, but got .*Resize"):
        SDP.load(path)
    reloaded = SDP.load(path, pre_processor=make_pre_processor(Squash))

    torch.testing.assert_close(anomaly_map(reloaded), anomaly_map(model), atol=0, rtol=0)


def test_a_transform_other_than_the_checkpoints_is_refused(tmp_path):
    path = save(make_model(pre_processor=make_pre_processor()), tmp_path / "model.ckpt")

    with pytest.raises(ValueError, match=r"Expected pre_processor to be the checkpoint's, .*0\.5, 0\.5.*, but got"):
        SDP.load(path, pre_processor=make_pre_processor(mean=0.4))


def test_another_image_size_than_the_checkpoints_is_refused(tmp_path):
    path = save(make_model(), tmp_path / "model.ckpt")

    with pytest.raises(ValueError, match=r"Expected image_size to be \[120, 120\], .* but got \[160, 80\]"):
        SDP.load(path, image_size=(160, 80))


def test_the_engine_does_not_resize_to_two_sizes_one_after_the_other(tmp_path):
    usual = save(make_model(), tmp_path / "usual.ckpt")
    own = save(make_model(pre_processor=make_pre_processor()), tmp_path / "own.ckpt")

    with pytest.raises(ValueError, match=r"Expected image_size to be \[120, 120\]"):
        predict(sdp(image_size=160, visualizer=False), usual, tmp_path)
    with pytest.raises(ValueError, match="Expected pre_processor to be the checkpoint's"):
        predict(sdp(visualizer=False), own, tmp_path)
    predict(sdp(visualizer=False, pre_processor=make_pre_processor()), own, tmp_path)
