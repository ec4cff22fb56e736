# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Arguments of geometry: what they come to, what does not go together, and that every way of use agrees on them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.data import Folder, PredictDataset
from PIL import Image

from anomalib_clipad import SDP
from anomalib_clipad.data.image_check import ImageCheck
from tiny import make_engine, sdp

QUIET = {"visualizer": False}
WAYS = {
    "scales": {"scales": [64, 120]},
    "tiles": {"tiles": {"size": 64}},
    "tiles of a resized image": {"tiles": {"size": 64}, "image_size": 96},
    "keep": {"resize": "keep"},
    "pad": {"resize": "pad"},
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good and defective photographs of three sizes, with masks."""
    folder = tmp_path_factory.mktemp("geometry")
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate([(70, 120), (120, 70), (90, 90), (70, 120)] * 2):
        kind = "good" if number < 4 else "bad"
        pixels = rng.normal(150, 8, (height, width, 3))
        mask = np.zeros((height, width), np.uint8)
        if kind == "bad":
            mask[20:34, 30:44] = 255
            pixels[mask > 0] = 10
        for path, content in ((folder / kind, pixels.clip(0, 255).astype(np.uint8)), (folder / "masks", mask)):
            path.mkdir(exist_ok=True)
            if path.name != "masks" or kind == "bad":
                Image.fromarray(content).save(path / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("arguments", "size", "scales"),
    [
        ({}, (120, 120), ()),
        ({"scales": [120, 240]}, (240, 240), ((120, 120), (240, 240))),
        ({"scales": [120], "image_size": 480}, (480, 480), ((120, 120),)),
        ({"scales": [[64, 120], 120]}, (120, 120), ((64, 120), (120, 120))),
        ({"tiles": True}, (120, 120), ((120, 120),)),
        ({"tiles": True, "image_size": [500, 901]}, (500, 901), ((120, 120),)),
        ({"tiles": {"size": 240}, "scales": [120, 240]}, (240, 240), ((120, 120), (240, 240))),
    ],
)
def test_defaults(arguments, size, scales):
    geometry = sdp(**arguments, **QUIET).collaborators.geometry
    assert (geometry.image_size, geometry.looks.scales) == (size, scales)
    assert (geometry.fit == "own") == ("tiles" in arguments and "image_size" not in arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scales": [121]}, "Expected scales to be a multiple of the patch size 8x8, .* nearest valid size is 120x120"),
        ({"scales": "120"}, "Expected scales to be one number of pixels, or a height and a width"),
        ({"scales": [240], "image_size": 120}, "Expected scales up to the image_size 120x120, but got 240x240"),
        ({"tiles": {"size": 100}}, "Expected tiles.size to be a multiple of .* nearest valid size is 96x96"),
        (
            {"tiles": True, "image_size": 96},
            r"Expected image_size to be at least that of a tile \(120\)",
        ),
        ({"tiles": True, "resize": "pad"}, "Expected image_size for tiles of resized images"),
        ({"tiles": True, "resize": "own", "image_size": 480}, "Expected no image_size for images of their own size"),
        ({"resize": "own"}, "Expected tiles for images of their own size"),
        ({"resize": "crop"}, "Expected resize to be one of squash, keep, pad, own, but got 'crop'"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sdp(**arguments, **QUIET)


@pytest.mark.parametrize("way", WAYS)
class TestEveryWayOfUse:
    def test_the_engine_scores_as_prediction_from_python(self, photos, tmp_path, way):
        model = sdp(class_name="gasket", **WAYS[way], **QUIET)
        engine = make_engine(tmp_path)
        batches = engine.predict(model, dataset=PredictDataset(photos / "bad"))
        by_engine = {path: score for b in batches for path, score in zip(b.image_path, b.pred_score, strict=True)}

        predictions = sdp(class_name="gasket", **WAYS[way], **QUIET).predict(photos / "bad")

        assert [Path(item.path).name for item in predictions] == ["4.png", "5.png", "6.png", "7.png"]
        for item in predictions:
            assert item.pred_score == pytest.approx(float(by_engine[item.path]), abs=1e-5)
            height, width = item.original_size
            assert item.at_original_size().anomaly_map.shape == (height, width)

    def test_a_checkpoint_holds_it(self, photos, tmp_path, way):
        model = sdp(class_name="gasket", **WAYS[way], **QUIET)
        engine = make_engine(tmp_path)
        engine.predict(model, dataset=PredictDataset(photos / "good"))
        engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
        expected = model.eval().predict(photos / "bad")

        loaded = SDP.load(tmp_path / "model.ckpt")

        torch.testing.assert_close(loaded.predict(photos / "bad").pred_score, expected.pred_score, atol=1e-6, rtol=0)
        if "resize" not in WAYS[way]:
            with pytest.raises(ValueError, match=r"which the checkpoint was made"):
                SDP.load(tmp_path / "model.ckpt", scales=None, tiles=False, image_size=120)


def test_regions_are_in_pixels_of_the_photograph(photos):
    model = sdp(class_name="gasket", resize="pad", tiles={"size": 64}, image_size=128, **QUIET)
    model.calibrate(photos / "good", known_good=True, false_alarms=0.5)
    region = model.predict(photos / "bad" / "4.png")[0].regions[0]
    left, top, width, height = region.box
    assert left < 37 < left + width
    assert top < 27 < top + height


def make_data(photos: Path, batch_size: int) -> Folder:
    return Folder(
        "gasket",
        root=photos,
        normal_dir="good",
        abnormal_dir="bad",
        mask_dir="masks",
        normal_split_ratio=0.5,
        eval_batch_size=batch_size,
        num_workers=0,
        seed=0,
    )


def test_batches_that_the_host_would_squash_are_refused(photos, tmp_path):
    with pytest.raises(ValueError, match="Expected images of one size in batches with resize=keep, but got 2 sizes"):
        make_engine(tmp_path).test(sdp(resize="keep", **QUIET), datamodule=make_data(photos, 8))


def test_padding_makes_batches_of_any_images(photos, tmp_path):
    [metrics] = make_engine(tmp_path).test(sdp(resize="pad", **QUIET), datamodule=make_data(photos, 8))
    assert metrics["pixel_AUROC"] > 0.5


def test_exact_metrics_need_maps_of_one_size(photos, tmp_path):
    with pytest.raises(ValueError, match="Expected anomaly_map to have one size for exact metrics, but got 2"):
        make_engine(tmp_path).test(sdp(resize="keep", **QUIET), datamodule=make_data(photos, 1))


def test_a_photograph_that_does_not_fit_is_skipped_and_named(photos, tmp_path):
    Image.new("RGB", (40, 300)).save(tmp_path / "strip.png")
    model = sdp(class_name="gasket", tiles={"size": 64}, **QUIET)
    predictions = model.predict([photos / "bad" / "4.png", tmp_path / "strip.png"])
    assert len(predictions) == 1
    assert "at least 64x64 pixels, the size of a tile, but got one of 300x40" in predictions.skipped[0].error


def test_turned_references_of_oblong_photographs(photos):
    model = sdp(class_name="gasket", resize="keep", weights={"text": 0}, **QUIET)
    model.remember(photos / "good", turns=4)
    assert model.evidence("gasket") == "references (4)"


def test_how_many_tiles_are_seen_at_once_is_no_setting_of_a_checkpoint(photos, tmp_path):
    engine = make_engine(tmp_path)
    engine.predict(sdp(class_name="gasket", tiles={"size": 64}, **QUIET), dataset=PredictDataset(photos / "good"))
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")

    assert SDP.load(tmp_path / "model.ckpt", tiles={"size": 64, "batch_size": 2}).model.looks.tiles.batch_size == 2
    with pytest.raises(ValueError, match=r"Expected tiles to be size 64, overlap 0\.25, whole True"):
        SDP.load(tmp_path / "model.ckpt", tiles={"size": 64, "overlap": 0.5})


def test_a_pool_is_of_images_of_one_size(photos):
    with pytest.raises(ValueError, match="Expected images of one size in a pool, but got such of 9x15 and 15x9"):
        sdp(class_name="gasket", resize="keep", **QUIET).predict(photos / "good", pool=True)


def test_training_in_batches_that_the_host_would_squash_is_refused(photos):
    loader = SimpleNamespace(batch_size=2, dataset=PredictDataset(photos / "good"))
    with pytest.raises(ValueError, match="Expected images of one size in batches with resize=keep, but got"):
        ImageCheck().on_train_start(SimpleNamespace(train_dataloader=loader), sdp(resize="keep", **QUIET))
