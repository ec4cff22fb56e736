# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""One contract for every model on every kind of backbone, whichever way it is used; `make thorough` tries them all.

Towers are those of open_clip and timm as they are, of real width, with four of their blocks and random weights. Text
towers are all of one small kind. ONNX graphs, whose tracing takes long, are compared for one tower of each family in
test_other_backbones.
"""

import copy
import pickle
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import pytest
import timm
import torch
from anomalib.data import PredictDataset
from numpy.typing import NDArray
from PIL import Image

from anomalib_clipad import SDP, SDPPlus
from anomalib_clipad.checkpoint.head_files import save_heads
from anomalib_clipad.checkpoint.head_metadata import HeadsMetadata
from anomalib_clipad.clip import architectures
from anomalib_clipad.clip.backbone import Backbone, load_backbone
from anomalib_clipad.clip.surgery import stage_ends
from anomalib_clipad.scale.scorer import ScorerSpec
from anomalib_clipad.scoring.heads import LinearHeads
from tiny import make_engine
from towers import one_of_each_kind, supported_architectures

pytestmark = pytest.mark.slow

DEPTH = 4
GRID = (3, 4)
SIZES = ((60, 90), (31, 33), (200, 40))
EXACT = {"atol": 1e-5, "rtol": 0}
SMALL_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}


class Contracted(NamedTuple):
    """A model, how to make another one like it, images of odd sizes, their files, and what it makes of them."""

    model: Any
    options: dict[str, Any]
    images: list[NDArray[np.uint8]]
    files: Path
    scores: torch.Tensor
    maps: list[torch.Tensor]


@pytest.fixture(scope="module", autouse=True)
def _short_towers() -> Iterator[None]:
    """Towers of four blocks, which are the ends of the stages, and no tokenizer of the network's."""
    look_up, create = architectures.look_up, timm.create_model

    def short(name: str) -> dict[str, Any] | None:
        config = look_up(name)
        if config is None:
            return None
        layers = {} if "timm_model_name" in config["vision_cfg"] else {"layers": DEPTH}
        return {**config, "vision_cfg": {**config["vision_cfg"], **layers}, "text_cfg": SMALL_TEXT}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(architectures, "look_up", short)
        patch.setattr(timm, "create_model", lambda name, **options: create(name, **{**options, "depth": DEPTH}))
        patch.setattr(open_clip, "get_tokenizer", lambda _: open_clip.SimpleTokenizer())
        yield


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Both models on every backbone; or SDP+, which does all that SDP does, on one of each kind, SDP on the first."""
    if metafunc.config.getoption("--thorough"):
        pairs = list(product(supported_architectures(), (SDP, SDPPlus)))
    else:
        names = one_of_each_kind()
        pairs = [(names[0], SDP), *((name, SDPPlus) for name in names)]
    ids = [f"{name}-{model.__name__}" for name, model in pairs]
    metafunc.parametrize(("backbone", "contracted"), pairs, indirect=True, scope="module", ids=ids)


@pytest.fixture(scope="module")
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return load_backbone(request.param, "random")


@pytest.fixture(scope="module")
def contracted(
    request: pytest.FixtureRequest, backbone: Backbone, tmp_path_factory: pytest.TempPathFactory
) -> Contracted:
    folder = tmp_path_factory.mktemp("contract")
    size = tuple(count * patch for count, patch in zip(GRID, backbone.patch_size, strict=True))
    options = {
        "backbone": backbone.name,
        "pretrained": "random",
        "class_name": "nut",
        "image_size": size,
        "strategy": "mean",
        "visualizer": False,
    }
    if request.param is SDPPlus:
        options["heads"] = str(random_heads(backbone, folder / "heads.safetensors"))
    random = np.random.default_rng(0)
    images = [random.integers(0, 255, (*size, 3), dtype=np.uint8) for size in SIZES]
    (folder / "files").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / "files" / f"{number}.png")
    model = request.param(**options)
    predictions = model.predict(images)
    return Contracted(
        model, options, images, folder / "files", predictions.pred_score, [each.anomaly_map for each in predictions]
    )


def random_heads(backbone: Backbone, path: Path) -> Path:
    torch.manual_seed(1)
    layers = tuple(stage_ends(backbone.depth))
    heads = LinearHeads(backbone.width, backbone.embed_dim, len(layers))
    return save_heads(path, heads, HeadsMetadata(backbone.name, "random", backbone.fingerprint, layers, "reference"))


def test_scores_and_maps_are_finite_floats_from_0_to_1(contracted: Contracted) -> None:
    assert contracted.scores.shape == (3,)
    for values in (contracted.scores, *contracted.maps):
        assert values.dtype == torch.float32
        assert values.isfinite().all()
        assert 0 <= values.min() <= values.max() <= 1
    assert [tuple(each.shape[-2:]) for each in contracted.maps] == [contracted.options["image_size"]] * 3


def test_images_see_nothing_of_each_other(contracted: Contracted) -> None:
    alone = [contracted.model.predict([image])[0] for image in reversed(contracted.images)][::-1]
    torch.testing.assert_close(torch.tensor([each.pred_score for each in alone]), contracted.scores, **EXACT)
    for prediction, expected in zip(alone, contracted.maps, strict=True):
        torch.testing.assert_close(prediction.anomaly_map, expected, **EXACT)


def test_the_engine_gives_the_same(contracted: Contracted, tmp_path: Path) -> None:
    batches = make_engine(tmp_path).predict(contracted.model, dataset=PredictDataset(contracted.files))
    scores = torch.cat([batch.pred_score for batch in batches or []])
    maps = torch.cat([batch.anomaly_map for batch in batches or []])
    torch.testing.assert_close(scores, contracted.scores, **EXACT)
    torch.testing.assert_close(maps, torch.stack(contracted.maps), **EXACT)


def test_the_exported_file_gives_the_same(contracted: Contracted, tmp_path: Path) -> None:
    path = contracted.model.to_torch(tmp_path)
    exported = torch.load(path, weights_only=False)["model"]
    for image, expected in zip(contracted.images, contracted.scores, strict=True):
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
        torch.testing.assert_close(exported(pixels).pred_score, expected[None], **EXACT)


def test_a_checkpoint_gives_the_same(contracted: Contracted, tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    engine.predict(contracted.model, dataset=PredictDataset(contracted.files))
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = type(contracted.model).load(tmp_path / "model.ckpt", class_name="nut", visualizer=False)
    torch.testing.assert_close(loaded.predict(contracted.images).pred_score, contracted.scores, **EXACT)


def test_in_bfloat16_it_is_nearly_the_same(contracted: Contracted) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        predictions = contracted.model.predict(contracted.images)
    assert predictions.pred_score.isfinite().all()
    torch.testing.assert_close(predictions.pred_score.float(), contracted.scores, atol=0.05, rtol=0)


def test_copies_and_names(contracted: Contracted) -> None:
    """The network itself is copied and pickled; of the whole model, workers get a description."""
    for copied in (copy.deepcopy(contracted.model.model), pickle.loads(pickle.dumps(contracted.model.model))):
        for name, weight in contracted.model.model.state_dict().items():
            torch.testing.assert_close(copied.state_dict()[name], weight, **EXACT)
    spec = ScorerSpec(f"anomalib_clipad.{type(contracted.model).__name__}", contracted.options)
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert repr(contracted.model).startswith(type(contracted.model).__name__)
