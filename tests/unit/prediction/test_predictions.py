# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Prediction from Python: the same scores from every kind of image, and as from anomalib's engine."""

import csv
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import PredictDataset
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Trainer
from PIL import Image
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, RandomHorizontalFlip, Resize

import layouts
from anomalib_clipad import SDP, ImageList
from anomalib_clipad.post_processing.calibration import CategoryStatistics, unit_calibration
from anomalib_clipad.post_processing.unlabelled import calibrate_unlabelled
from anomalib_clipad.prediction.geometry import image_box
from anomalib_clipad.prediction.predictions import Prediction, Predictions
from tiny import make_engine, sdp, sdp_plus


@pytest.fixture(scope="module")
def clipad() -> SDP:
    return sdp()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of two sizes in two folders, some with equal names, some with a defect."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    layouts.write_images(folder / "a", 6, size=60)
    layouts.write_images(folder / "b", 4, anomalous=True, size=90, seed=50)
    return folder


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", [sdp, sdp_plus])
def test_scores_and_maps_are_those_of_anomalibs_engine(photos, tmp_path, kind):
    options = {"class_name": "nut"} if kind is sdp else {"class_name": "nut", "heads": "embedded"}
    engine = make_engine(tmp_path)
    model = kind(**options, visualizer=False)
    batches = engine.predict(model, dataset=PredictDataset(photos))

    predictions = kind(**options).predict(photos, batch_size=3)

    assert [item.path for item in predictions] == [path for batch in batches for path in batch.image_path]
    torch.testing.assert_close(
        predictions.pred_score, torch.cat([batch.pred_score for batch in batches]), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(
        predictions.anomaly_map, torch.cat([batch.anomaly_map for batch in batches]), rtol=0, atol=1e-6
    )
    assert torch.equal(predictions.pred_label, torch.cat([batch.pred_label for batch in batches]).bool())
    assert torch.equal(predictions.pred_mask, torch.cat([batch.pred_mask for batch in batches]).bool())


def test_the_kind_of_image_makes_no_difference(clipad, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "image.png")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    kinds = [str(tmp_path / "image.png"), tmp_path / "image.png", Image.fromarray(pixels), pixels, tensor, tensor / 255]

    together = clipad.predict(kinds, class_name="nut").pred_score
    alone = torch.cat([clipad.predict(image, class_name="nut").pred_score for image in kinds])

    torch.testing.assert_close(together, together[:1].expand(len(kinds)), rtol=0, atol=1e-6)
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)


def test_batches_of_arrays_tensors_and_a_generator_are_many_images(clipad, pixels):
    images = np.stack([pixels, pixels // 2])

    scores = clipad.predict(images).pred_score

    assert scores.shape == (2,)
    for many in (torch.from_numpy(images).permute(0, 3, 1, 2) / 255, (image for image in images), tuple(images)):
        torch.testing.assert_close(clipad.predict(many).pred_score, scores, rtol=0, atol=1e-6)


def test_each_image_may_be_of_its_own_class(clipad, pixels):
    both = clipad.predict([pixels, pixels, pixels], class_name=["nut", "carpet", "nut"], batch_size=2)

    nut, carpet = (
        clipad.predict(pixels, class_name="nut").pred_score,
        clipad.predict(pixels, class_name="carpet").pred_score,
    )
    torch.testing.assert_close(both.pred_score, torch.cat([nut, carpet, nut]), rtol=0, atol=1e-6)
    assert abs(nut - carpet) > 1e-4
    assert [item.class_name for item in both] == ["nut", "carpet", "nut"]


def test_the_models_class_name_is_the_default_and_object_without_one(clipad, pixels):
    assert clipad.predict(pixels)[0].class_name == "object"
    assert sdp(class_name="nut").predict(pixels)[0].class_name == "nut"
    assert sdp(class_name="nut").predict(pixels, class_name="bolt")[0].class_name == "bolt"


def test_a_csv_file_names_images_and_classes(clipad, photos):
    (photos / "images.csv").write_text("b/000.png,nut\na/001.png,carpet\n", encoding="utf-8")

    listed = clipad.predict(photos / "images.csv")

    expected = clipad.predict([photos / "b/000.png", photos / "a/001.png"], class_name=["nut", "carpet"])
    assert listed.rows == expected.rows
    with pytest.raises(ValueError, match=r"images\.csv or from class_name, but got both"):
        clipad.predict(photos / "images.csv", class_name="nut")


def test_no_batch_size_changes_the_order(clipad, photos):
    expected = clipad.predict(photos, batch_size=1)
    for size in (3, 10, 64):
        predictions = clipad.predict(photos, batch_size=size)
        assert [item.path for item in predictions] == [item.path for item in expected]
        torch.testing.assert_close(predictions.pred_score, expected.pred_score, rtol=0, atol=1e-6)


def test_maps_and_masks_come_in_the_original_size_too(clipad, pixels):
    prediction = clipad.predict(pixels)[0]
    large = prediction.at_original_size()

    assert prediction.anomaly_map.shape == prediction.pred_mask.shape == (120, 120)
    assert large.anomaly_map.shape == large.pred_mask.shape == (50, 70)
    assert large.pred_mask.dtype == torch.bool
    assert large.score == prediction.score


def test_resizing_keeps_every_defect_in_its_place():
    anomaly_map = torch.linspace(0, 1, 8).expand(4, 8)

    planes = {"anomaly_map": anomaly_map, "pred_mask": anomaly_map > 0.5}

    large = Prediction(path="", original_size=(20, 80), box=(0, 0, 8, 4), **planes).at_original_size()

    torch.testing.assert_close(large.anomaly_map[:, 5:75], torch.linspace(0, 1, 71)[:70].expand(20, 70) + 1 / 140)
    assert large.pred_mask.any(dim=0).tolist() == [column >= 40 for column in range(80)]


def test_a_pillow_image_may_be_given_several_times_before_it_is_decoded(clipad, pixels, tmp_path):
    Image.fromarray(np.tile(pixels, (8, 8, 1))).save(tmp_path / "image.png")
    image = Image.open(tmp_path / "image.png")

    scores = clipad.predict([image] * 16, class_name=["nut", "bolt"] * 8).pred_score

    assert len(set(scores.tolist())) == 2


def test_a_damaged_pillow_image_is_named_by_its_place(clipad, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "image.png")
    (tmp_path / "image.png").write_bytes((tmp_path / "image.png").read_bytes()[:900])

    with pytest.raises(OSError, match=r"Image 1: .*truncated"):
        clipad.predict([pixels, Image.open(tmp_path / "image.png")])


class TestGeometry:
    @pytest.mark.parametrize("size", [(240, 240), (160, 240), (240, 160)])
    def test_of_a_crop_is_undone(self, size):
        """What is anomalous in an image is shown where it is, and nothing where the crop did not look."""
        transform = Compose([Resize(160, antialias=True), CenterCrop(120), Normalize([0.5] * 3, [0.5] * 3)])
        image = torch.zeros(1, *size)
        image[:, 70:90, 90:100] = 1
        shown = transform(image.expand(3, -1, -1))[0]
        shown = shown - shown.min()

        prediction = Prediction(
            path="", original_size=size, box=image_box(transform, size), anomaly_map=shown, pred_mask=shown > 1
        ).at_original_size()

        rows, columns = prediction.pred_mask.nonzero().T
        assert [rows.min(), rows.max(), columns.min(), columns.max()] == pytest.approx([70, 89, 90, 99], abs=1)
        unseen = [(side - 0.75 * min(size)) / 2 for side in size]
        assert prediction.anomaly_map[: int(unseen[0]) - 1].eq(0).all()
        again = prediction.at_original_size()
        torch.testing.assert_close(again.anomaly_map, prediction.anomaly_map, rtol=0, atol=1e-5)

    def test_of_the_pre_processor_is_known_to_every_prediction(self, pixels):
        crop = PreProcessor(transform=Compose([Resize((160, 160), antialias=True), CenterCrop(120)]))

        [cropped] = sdp(pre_processor=crop).predict(pixels)

        assert cropped.box == pytest.approx((-20, -20, 140, 140))
        assert cropped.at_original_size().anomaly_map[:6].eq(0).all()

    def test_that_is_unknown_is_refused(self, pixels):
        transform = Compose([Resize((120, 120)), RandomHorizontalFlip(1.0)])

        [prediction] = sdp(pre_processor=PreProcessor(transform=transform)).predict(pixels)

        assert prediction.box is None
        with pytest.raises(
            ValueError, match=r"Expected pre_processor to consist of CenterCrop, .* got another transform"
        ):
            prediction.at_original_size()


class TestUnreadableFiles:
    @pytest.fixture
    def mixed(self, tmp_path: Path) -> Path:
        layouts.write_images(tmp_path, 3)
        (tmp_path / "001.png").write_bytes(b"")
        return tmp_path

    def test_are_skipped_and_listed_in_their_place(self, clipad, mixed, caplog):
        with caplog.at_level(logging.WARNING):
            predictions = clipad.predict(mixed, batch_size=1)

        assert len(predictions) == 2
        assert [item.position for item in predictions] == [0, 2]
        [skipped] = predictions.skipped
        assert skipped.position == 1
        assert "not an image" in skipped.error
        assert [Path(row.path).name for row in predictions.rows] == ["000.png", "001.png", "002.png"]
        assert f"Skipped {mixed / '001.png'}: not an image" in caplog.text

    def test_are_an_error_if_there_is_nothing_else(self, clipad, mixed):
        with pytest.raises(OSError, match=r"to be read|can be read, but got none\. .*001\.png: not an image"):
            clipad.predict([mixed / "001.png", mixed / "missing.png"])

    def test_are_known_to_every_slice(self, clipad, mixed):
        predictions = clipad.predict(mixed)

        assert predictions[1:].skipped == predictions.skipped
        assert [Path(row.path).name for row in predictions[1:].rows] == ["001.png", "002.png"]

    def test_may_be_links_that_lead_nowhere(self, clipad, mixed):
        (mixed / "more.png").symlink_to("nowhere.png")

        assert [Path(row.path).name for row in clipad.predict(mixed).skipped] == ["001.png", "more.png"]

    @pytest.mark.skipif(sys.platform != "linux", reason="needs file names that are not UTF-8")
    def test_may_have_names_that_are_not_utf_8(self, clipad, mixed, tmp_path):
        broken = os.fsdecode(os.fsencode(mixed / "br") + b"\xf6ken.png")
        Path(broken).write_bytes(b"")

        clipad.predict(mixed).save(tmp_path / "out")

        table = (tmp_path / "out/predictions.csv").read_text(encoding="utf-8")
        assert "br\\udcf6ken.png" in table
        lines = (tmp_path / "out/predictions.jsonl").read_text(encoding="utf-8").splitlines()
        assert broken in [json.loads(line)["path"] for line in lines]

    def test_do_not_reach_the_tables_as_scores(self, clipad, mixed, tmp_path):
        clipad.predict(mixed, class_name="nut").save(tmp_path / "out")

        with (tmp_path / "out/predictions.csv").open(encoding="utf-8", newline="") as file:
            table = list(csv.DictReader(file))
        lines = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text("utf-8").splitlines()]
        assert [bool(row["score"]) for row in table] == [line["score"] is not None for line in lines]
        assert [bool(row["error"]) for row in table] == [False, True, False]
        assert [float(row["score"] or "nan") for row in table] == pytest.approx(
            [line["score"] or float("nan") for line in lines], nan_ok=True
        )
        assert table[0]["class_name"] == lines[0]["class_name"] == "nut"
        assert not list((tmp_path / "out").glob("*.partial"))


@pytest.mark.parametrize(
    ("images", "options", "error", "message"),
    [
        ("nowhere", {}, FileNotFoundError, "nowhere"),
        ("nowhere.csv", {}, FileNotFoundError, "Expected a CSV file of images, but found none"),
        (5, {}, TypeError, "Expected images to be an image or several, but got int"),
        ([None], {}, TypeError, "Image 0: Expected an image to be a path"),
        ([np.zeros((4, 4), np.uint8), np.zeros((4, 4), int)], {}, ValueError, "Image 1: .* or float, but got int64"),
        (np.zeros((2, 4, 4, 3), np.uint8), {"class_name": ["nut"]}, ValueError, "one for each of 2 images, but got 1"),
        (np.zeros((4, 4), np.uint8), {"batch_size": 0}, ValueError, "Expected batch_size to be at least 1, but got 0"),
    ],
    ids=["folder", "CSV file", "number", "None", "type of pixels", "class names", "batch size"],
)
def test_bad_arguments_end_in_one_clear_error(clipad, images, options, error, message):
    with pytest.raises(error, match=message):
        clipad.predict(images, **options)


def test_no_images_give_no_predictions(clipad):
    predictions = clipad.predict([])

    assert len(predictions) == 0
    assert predictions.pred_score.shape == (0,)
    assert predictions.anomaly_map.numel() == 0


def test_predictions_are_a_sequence(clipad, photos):
    predictions = clipad.predict(photos)

    assert isinstance(predictions[:3], Predictions)
    assert [item.score for item in predictions[:3]] == predictions.pred_score[:3].tolist()
    assert predictions[-1].pred_label == predictions.pred_label[-1].item()
    assert repr(predictions) == "Predictions(10 images, 0 skipped)"


def test_nothing_is_decided_without_a_post_processor(pixels):
    predictions = sdp(post_processor=False).predict(pixels)

    assert predictions.pred_label is None
    assert predictions.pred_mask is None
    assert predictions[0].pred_label is None
    assert predictions[0].at_original_size().pred_mask is None


def test_results_carry_no_gradient_but_may_be_calculated_with(clipad, pixels):
    anomaly_maps = clipad.predict(pixels).anomaly_map

    assert not anomaly_maps.requires_grad
    (anomaly_maps * torch.ones(1, requires_grad=True)).sum().backward()  # would fail on inference tensors


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_on_a_gpu_gives_the_same_scores(clipad, photos):
    expected = clipad.predict(photos)
    predictions = sdp().to("cuda").predict(photos)

    assert predictions.anomaly_map.device.type == "cpu"
    torch.testing.assert_close(predictions.pred_score, expected.pred_score, rtol=0, atol=1e-3)


class TestCalibrate:
    @pytest.fixture(scope="class")
    def pool(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """24 images, four of them with a defect; nothing says which."""
        folder = tmp_path_factory.mktemp("pool")
        layouts.write_images(folder / "a", 20)
        layouts.write_images(folder / "b", 4, anomalous=True, seed=50)
        return folder

    def test_takes_ranges_and_thresholds_from_the_images_alone(self, pool):
        raw = sdp(post_processor=False).predict(pool, class_name="nut")
        statistics = CategoryStatistics()
        statistics.update(raw.pred_score, raw.anomaly_map, None, None)
        clipad = sdp()

        clipad.calibrate(pool, class_name="nut", batch_size=5)

        known = clipad.post_processor
        found = (known.score_ranges, known.image_thresholds, known.pixel_ranges, known.pixel_thresholds)
        for value, expected in zip(found, calibrate_unlabelled(statistics), strict=True):
            torch.testing.assert_close(value[0], expected, rtol=0, atol=1e-6)
        rows = clipad.predict(pool, class_name="nut").rows
        assert all(row.calibrated for row in rows)
        assert [row.label == "anomalous" for row in rows] == [row.score > row.threshold for row in rows]

    def test_leaves_other_classes_alone(self, pool):
        clipad = sdp()
        clipad.predict(pool / "b", class_name="carpet")

        clipad.calibrate(pool, class_name="nut")

        assert not clipad.predict(pool / "b", class_name="carpet")[0].calibrated
        assert clipad.predict(pool / "b", class_name="nut")[0].calibrated

    def test_calibrates_each_class_by_its_own_images(self, pool):
        names = ["nut"] * 20 + ["carpet"] * 4
        clipad, alone = sdp(), sdp()

        clipad.calibrate(pool, class_name=names)
        alone.calibrate(pool / "a", class_name="nut")  # the other class has too few images

        assert [row.calibrated for row in clipad.predict(pool, class_name=names).rows] == [True] * 20 + [False] * 4
        assert torch.equal(clipad.post_processor.score_ranges[0], alone.post_processor.score_ranges[0])

    def test_after_a_run_of_the_engine(self, pool, tmp_path):
        model = sdp(visualizer=False)
        engine = make_engine(tmp_path)
        engine.predict(model, data_path=pool)

        model.calibrate(pool)

        assert model.predict(pool)[0].calibrated

    def test_refuses_a_post_processor_that_has_no_ranges(self, pool):
        with pytest.raises(RuntimeError, match=r"to be a CategoryPostProcessor for calibration, but got NoneType"):
            sdp(post_processor=False).calibrate(pool)


def save(model: SDP, folder: Path) -> Path:
    """Checkpoint of a model that no trainer has seen."""
    trainer = Trainer(logger=False, enable_progress_bar=False, default_root_dir=folder)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(folder / "model.ckpt")
    return folder / "model.ckpt"


def run(model: SDP, images: Path, folder: Path) -> list[Any]:
    return make_engine(folder).predict(model, data_path=images)


class TestLoad:
    def test_of_a_checkpoint_keeps_calibration_and_classes(self, tmp_path, photos):
        model = sdp(class_name="nut", visualizer=False)
        engine = make_engine(tmp_path)
        engine.predict(model, datamodule=ImageList(photos, num_workers=0))
        model.post_processor.calibrate(0, unit_calibration()._replace(image_threshold=torch.tensor(0.7)))
        engine.trainer.save_checkpoint(tmp_path / "model.ckpt")

        loaded = SDP.load(tmp_path / "model.ckpt")

        assert loaded.class_names == ["nut"]
        assert not loaded.training
        assert loaded.predict(photos).rows == model.predict(photos).rows
        assert loaded.predict(photos)[0].calibrated

    def test_of_one_class_predicts_that_class(self, photos, tmp_path):
        model = sdp(visualizer=False)
        model.predict(photos, class_name="carpet")
        model.calibrate(sorted(photos.rglob("*.png")) * 2, class_name="nut")
        checkpoint = save(model, tmp_path)

        loaded = SDP.load(checkpoint)

        assert {(item.class_name, item.calibrated) for item in loaded.predict(photos)} == {("nut", True)}
        assert loaded.predict(photos / "a/000.png", class_name="carpet")[0].class_name == "carpet"
        batches = run(SDP.load(checkpoint), photos, tmp_path)
        expected = model.predict(photos, class_name="nut").pred_score
        torch.testing.assert_close(torch.cat([batch.pred_score for batch in batches]), expected, rtol=0, atol=1e-5)

    def test_of_one_class_without_calibration_predicts_it_too(self, pixels, tmp_path):
        model = sdp(post_processor=False)
        model.predict(pixels, class_name="nut")

        assert SDP.load(save(model, tmp_path)).predict(pixels)[0].class_name == "nut"

    def test_of_several_classes_asks_which_it_is(self, photos, tmp_path):
        model = sdp(visualizer=False)
        model.predict(photos, class_name=["nut", "bolt"] * 5)
        checkpoint = save(model, tmp_path)

        message = r"Expected class_name to be given to a model of 2 classes, .*--model.class_name\): nut, bolt\."
        for predict in (SDP.load(checkpoint).predict, lambda images: run(SDP.load(checkpoint), images, tmp_path)):
            with pytest.raises(ValueError, match=message):
                predict(photos)
        assert SDP.load(checkpoint, class_name="bolt").predict(photos)[0].class_name == "bolt"

    def test_names_a_missing_file_and_the_way_to_a_backbone(self):
        with pytest.raises(FileNotFoundError, match=r"none at .*ViT-B-16\. A new model is made by SDP\(backbone"):
            SDP.load("ViT-B-16")

    def test_refuses_sdp_plus_without_heads_when_it_predicts(self, pixels):
        with pytest.raises(RuntimeError, match="Expected SDPPlus to have trained heads"):
            sdp_plus().predict(pixels)
