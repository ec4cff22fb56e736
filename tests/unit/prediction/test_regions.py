# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Regions: connected parts of the mask in pixels of the image, in tables, from Python and as a COCO file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import PredictDataset
from anomalib.pre_processing import PreProcessor
from scipy.ndimage import gaussian_filter
from skimage.measure import label, regionprops
from torchvision.transforms.v2 import CenterCrop, Compose, RandomHorizontalFlip, Resize

import layouts
from anomalib_clipad import SDP
from anomalib_clipad.prediction.geometry import image_box
from anomalib_clipad.prediction.predictions import Prediction
from anomalib_clipad.prediction.regions import Region, Regions, find_regions
from tiny import make_engine, sdp

WHOLE = (0.0, 0.0, 30.0, 20.0)


def blobs(seed: int, height: int = 20, width: int = 30) -> torch.Tensor:
    """A map in [0, 1] with some hills."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 2)
    return torch.from_numpy((noise - noise.min()) / np.ptp(noise)).float()


@pytest.mark.parametrize("size", [(20, 30), (200, 300), (613, 97), (7, 300)])
@pytest.mark.parametrize("transform", [Resize((20, 30)), Compose([Resize((40, 50)), CenterCrop((20, 30))])])
@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.99])
def test_they_are_those_of_scikit_image_on_the_mask_at_the_images_size(size, transform, threshold):
    anomaly_map = blobs(seed=size[0])
    mask, box = anomaly_map > threshold, image_box(transform, size)
    large = Prediction(path="", original_size=size, box=box, anomaly_map=anomaly_map, pred_mask=mask).at_original_size()
    parts = regionprops(label(large.pred_mask.numpy(), connectivity=2), large.anomaly_map.numpy())

    found = find_regions(mask, anomaly_map, box, size)

    expected = {
        ((left, top, right - left, bottom - top), int(part.area)): (part.intensity_max, part.intensity_mean)
        for part in parts
        for top, left, bottom, right in [part.bbox]
    }
    assert {(region.box, region.area) for region in found} == set(expected)
    for region in found:
        assert (region.peak, region.mean) == pytest.approx(expected[region.box, region.area], abs=1e-5)
    assert [region.area for region in found] == sorted((region.area for region in found), reverse=True)


def test_pixels_that_touch_at_a_corner_belong_together():
    mask = torch.zeros(20, 30)
    mask[2, 3] = mask[3, 4] = mask[10, 10] = 1

    found = find_regions(mask, mask, WHOLE, (20, 30))

    assert [(region.box, region.area) for region in found] == [((3, 2, 2, 2), 2), ((10, 10, 1, 1), 1)]


def test_small_ones_are_left_out():
    mask = torch.zeros(20, 30)
    mask[2:5, 3:6] = mask[10, 10] = 1

    assert find_regions(mask, mask, WHOLE, (20, 30), minimum_area=2) == [Region((3, 2, 3, 3), 9, 1.0, 1.0)]
    assert find_regions(mask, mask, WHOLE, (20, 30), minimum_area=10) == []
    with pytest.raises(ValueError, match=r"regions\.minimum_area to be at least 1 pixel, but got 0"):
        Regions(minimum_area=0)


def test_an_empty_mask_has_none():
    assert find_regions(torch.zeros(20, 30), blobs(0), WHOLE, (4000, 6000)) == []


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images with a defect and two without, of two sizes, and one that is broken."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    layouts.write_images(folder / "a", 2, size=60)
    layouts.write_images(folder / "b", 4, anomalous=True, size=90, seed=50)
    (folder / "c.png").write_bytes(b"")
    return folder


def lines(folder: Path) -> list[dict]:
    [path] = folder.rglob("predictions.jsonl")
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


class TestOfARun:
    def run(self, folder: Path, photos: Path, **options) -> SDP:
        model = sdp(class_name="nut", visualizer=False, **options)
        make_engine(folder).predict(model, data_path=photos)
        return model

    def test_are_in_the_json_lines_as_python_gives_them(self, tmp_path, photos):
        model = self.run(tmp_path, photos)
        predictions = model.predict(photos)
        predictions.save(tmp_path / "saved")

        written = lines(tmp_path / "saved")
        assert any(line["regions"] for line in written)
        assert [line["regions"] for line in written] == [line["regions"] for line in lines(tmp_path / "SDP")]
        for line, prediction in zip(written, predictions, strict=False):
            mask = prediction.at_original_size().pred_mask
            assert sum(region["area"] for region in line["regions"]) == int(mask.sum())
        assert written[-1]["regions"] is None  # the broken file
        assert "regions" not in next((tmp_path / "saved").glob("*.csv")).read_text("utf-8")

    def test_are_boxes_for_labelling_tools_where_that_is_asked_for(self, tmp_path, photos):
        model = self.run(tmp_path, photos, regions={"coco": True, "minimum_area": 5})
        model.predict(photos).save(tmp_path / "saved", coco=True)

        [path] = (tmp_path / "SDP").rglob("regions.coco.json")
        content = json.loads(path.read_text("utf-8"))
        assert content == json.loads((tmp_path / "saved/regions.coco.json").read_text("utf-8"))
        assert [(image["width"], image["height"]) for image in content["images"]] == [(60, 60)] * 2 + [(90, 90)] * 4
        by_image = [line["regions"] for line in lines(tmp_path / "SDP") if line["regions"] is not None]
        boxes = [(number, region["box"]) for number, regions in enumerate(by_image, 1) for region in regions]
        assert [(each["image_id"], each["bbox"]) for each in content["annotations"]] == boxes
        assert all(each["area"] >= 5 for each in content["annotations"])

    def test_are_left_out_where_nobody_wants_them(self, tmp_path, photos, caplog):
        model = self.run(tmp_path, photos, regions=False)

        assert {line["regions"] for line in lines(tmp_path)} == {None}
        model.predict(photos).save(tmp_path / "saved", coco=True)
        assert json.loads((tmp_path / "saved/regions.coco.json").read_text("utf-8"))["images"] == []
        assert "leaves out 6 images whose regions are not known" in caplog.text

    def test_are_left_out_where_the_pre_processor_does_not_tell_their_place(self, photos):
        transform = Compose([Resize((120, 120)), RandomHorizontalFlip(1.0)])
        [prediction] = sdp(pre_processor=PreProcessor(transform=transform)).predict(photos / "a/000.png")

        assert prediction.regions is None

    def test_options_are_kept_by_a_checkpoint(self, tmp_path, photos):
        engine = make_engine(tmp_path)
        engine.predict(
            sdp(class_name="nut", regions={"minimum_area": 7}, visualizer=False), dataset=PredictDataset(photos)
        )
        engine.trainer.save_checkpoint(tmp_path / "model.ckpt")

        assert SDP.load(tmp_path / "model.ckpt").regions == Regions(minimum_area=7)
