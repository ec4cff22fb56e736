# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The host's components, and a user's own, work wherever a model is used, or are refused when it is made."""

from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data import PredictDataset
from anomalib.metrics import AUROC, Evaluator
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import ImageVisualizer
from torch import nn
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize

import layouts
from anomalib_clipad import SDP, MVTec
from anomalib_clipad.scoring.fusion import Weights
from tiny import make_engine, sdp, sdp_plus


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layouts.write_mvtec_ad(tmp_path_factory.mktemp("data"))


CROP = Compose([Resize((160, 160), antialias=True), CenterCrop(120), Normalize([0.5] * 3, [0.5] * 3)])


@pytest.mark.parametrize(
    "make",
    [
        lambda: {"pre_processor": PreProcessor(transform=CROP)},
        lambda: {"post_processor": PostProcessor()},
        lambda: {"evaluator": Evaluator(test_metrics=[AUROC(fields=["pred_score", "gt_label"], prefix="image_")])},
        lambda: {"visualizer": ImageVisualizer()},
    ],
    ids=["pre-processor", "post-processor", "evaluator", "visualizer"],
)
def test_the_hosts_components_work_in_every_use(data, tmp_path, make):
    options = {"class_name": "bottle", "visualizer": False, **make()}
    model, photos = sdp(**options), data / "bottle/test/good"

    engine = make_engine(tmp_path)
    [metrics] = engine.test(model, datamodule=MVTec(root=data, categories="bottle", num_workers=0))
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    batches = make_engine(tmp_path).predict(model, dataset=PredictDataset(photos))

    assert metrics["image_AUROC"] >= 0
    expected = torch.cat([batch.pred_score for batch in batches])
    labels = torch.cat([batch.pred_label for batch in batches]).bool()
    image = torch.stack([item.image for item in PredictDataset(photos)])
    loaded = SDP.load(tmp_path / "model.ckpt", **(options | make()))
    deployed = torch.load(model.to_torch(tmp_path), weights_only=False)["model"]
    for outputs in (model.predict(photos), loaded.predict(photos), model(image), deployed(image)):
        torch.testing.assert_close(outputs.pred_score, expected, rtol=0, atol=1e-5)
        assert torch.equal(outputs.pred_label, labels)


def test_a_checkpoint_is_not_taken_by_another_post_processor(data, tmp_path):
    engine = make_engine(tmp_path)
    engine.validate(
        sdp(post_processor=PostProcessor(), visualizer=False),
        datamodule=MVTec(root=data, categories="bottle", num_workers=0),
    )
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")

    with pytest.raises(ValueError, match=r"Expected post_processor to be PostProcessor, .* but got CategoryPostProces"):
        SDP.load(tmp_path / "model.ckpt")
    assert SDP.load(tmp_path / "model.ckpt", post_processor=False).post_processor is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"pre_processor": CROP},
            r"pre_processor to be a PreProcessor of anomalib, but got Compose.*or give a transform",
        ),
        ({"pre_processor": nn.Identity()}, "pre_processor to be a PreProcessor of anomalib, but got Identity"),
        ({"pre_processor": PreProcessor(nn.Sequential(CROP))}, "torchvision.transforms.v2, .* but got Sequential"),
        ({"post_processor": nn.Identity()}, "post_processor to be a PostProcessor of anomalib, but got Identity"),
        ({"evaluator": nn.Identity()}, "Evaluator"),
        ({"visualizer": nn.Identity()}, "Visualizer"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_the_engine_would_leave_out_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(TypeError, match=message):
        sdp(**options)


def test_what_other_images_weigh_depends_on_the_backbone():
    assert sdp().model.weights == Weights(text=0.4, references=0.1, pool=0.9)
    assert sdp(pretrained="random").model.weights == Weights()
    assert sdp(weights={"text": 0}).model.weights == Weights(text=0, references=0.1, pool=0.9)
    assert sdp_plus().model.weights == Weights(text=0.95, references=0.05, pool=0.05)
