# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""References and pools by way of the models: the same scores from Python, the engine, checkpoints and exports."""

import csv
import logging
from pathlib import Path

import pytest
import torch
from anomalib import LearningType
from anomalib.data import PredictDataset
from PIL import Image

import layouts
from anomalib_clipad import SDP, MVTec
from tiny import make_engine, sdp, sdp_plus

KINDS = {"SDP": sdp, "SDP+": lambda **options: sdp_plus(heads="embedded", **options)}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "good"
    layouts.write_images(folder, 5, size=60)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six good images and four with a defect."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    layouts.write_images(folder / "a", 6, size=60, seed=100)
    layouts.write_images(folder / "b", 4, anomalous=True, size=60, seed=50)
    return folder


@pytest.fixture(params=KINDS, scope="module")
def kind(request: pytest.FixtureRequest):
    return KINDS[request.param]


def scores(model: SDP, photos: Path, **options) -> torch.Tensor:
    return model.predict(photos, class_name="nut", **options).pred_score


class TestReferences:
    def test_change_the_scores_of_their_class_only_until_they_are_forgotten(self, kind, good, photos):
        model = kind()
        nut, bolt = (model.predict(photos, class_name=name).pred_score for name in ("nut", "bolt"))

        model.remember(good, class_name="nut")
        assert not torch.allclose(scores(model, photos), nut, atol=1e-3)
        torch.testing.assert_close(model.predict(photos, class_name="bolt").pred_score, bolt)

        model.forget("nut")
        torch.testing.assert_close(scores(model, photos), nut)

    def test_tell_defects_from_good_images(self, kind, good, photos):
        model = kind(weights={"text": 0}).remember(good, class_name="nut")
        found = scores(model, photos)
        assert found[:6].max() < found[6:].min()

    def test_the_engine_gives_the_same_by_the_constructors_argument(self, kind, good, photos, tmp_path):
        expected = scores(kind().remember(good, class_name="nut"), photos)
        model = kind(class_name="nut", references=str(good), visualizer=False)

        batches = make_engine(tmp_path).predict(model, dataset=PredictDataset(photos))

        torch.testing.assert_close(torch.cat([batch.pred_score for batch in batches]), expected, rtol=0, atol=1e-5)
        assert model.learning_type == LearningType.FEW_SHOT
        results = next(tmp_path.rglob("references.csv"))
        with results.open() as file:
            assert [row["path"] for row in csv.DictReader(file)] == [str(path) for path in sorted(good.iterdir())]
        with next(tmp_path.rglob("predictions.csv")).open() as file:
            assert {row["evidence"] for row in csv.DictReader(file)} == {model.evidence("nut")}

    def test_are_part_of_a_checkpoint_which_names_no_images(self, kind, good, photos, tmp_path):
        model = kind(class_name="nut", references={"path": str(good), "turns": 4}, visualizer=False)
        engine = make_engine(tmp_path)
        engine.predict(model, dataset=PredictDataset(photos))
        engine.trainer.save_checkpoint(tmp_path / "model.ckpt")

        loaded = type(model).load(tmp_path / "model.ckpt")

        torch.testing.assert_close(scores(loaded, photos), scores(model, photos))
        assert loaded.evidence("nut") == model.evidence("nut")
        assert str(good).encode() not in (tmp_path / "model.ckpt").read_bytes()

    def test_of_a_checkpoint_keep_its_calibration_if_they_are_named_again(self, good, photos, tmp_path, caplog):
        model = sdp(class_name="nut", references=str(good), visualizer=False)
        model.remember_given()
        model.calibrate([*photos.rglob("*.png")] * 3, class_name="nut")
        engine = make_engine(tmp_path)
        engine.predict(model, dataset=PredictDataset(photos))
        engine.trainer.save_checkpoint(tmp_path / "model.ckpt")

        again = SDP.load(tmp_path / "model.ckpt", references=str(good))
        again.predict(photos, class_name="nut")
        assert again.post_processor.is_calibrated(0)

        other = SDP.load(tmp_path / "model.ckpt", references=str(photos / "b"))
        other.predict(photos, class_name="nut")
        assert not other.post_processor.is_calibrated(0)
        assert "The calibration of nut is forgotten, since its references have changed" in caplog.text

    def test_other_weights_than_the_checkpoints_are_refused(self, good, photos, tmp_path):
        engine, model = make_engine(tmp_path), sdp(class_name="nut", references=str(good), visualizer=False)
        engine.predict(model, dataset=PredictDataset(photos))
        engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
        with pytest.raises(ValueError, match=r"Expected weights to be text 0\.\d+, references .* but got text 1"):
            SDP.load(tmp_path / "model.ckpt", weights={"text": 1})

    def test_are_exported(self, kind, good, photos):
        model = kind().remember(good, class_name="nut")
        images = torch.rand(2, 3, 60, 70, generator=torch.Generator().manual_seed(0))
        classes = torch.tensor([0, 1])
        exported = model.to_exported_model(["bolt", "nut"])
        torch.testing.assert_close(
            exported(images, classes).anomaly_map,
            model.predict(list(images), class_name=["bolt", "nut"]).anomaly_map,
            rtol=0,
            atol=1e-5,
        )

    def test_shots_are_drawn_from_the_training_split(self, tmp_path, caplog):
        layouts.write_mvtec_ad(tmp_path / "data", ("bottle", "cable"), n_train=4, size=60)
        data = MVTec(tmp_path / "data", categories=["bottle", "cable"], auxiliary=None, num_workers=0)
        model = sdp(references={"k_shot": 2, "seed": 3}, visualizer=False)

        with caplog.at_level(logging.INFO, "anomalib_clipad"):
            make_engine(tmp_path).test(model, datamodule=data)

        assert model.evidence("bottle") == model.evidence("cable") == "text, references (2)"
        assert caplog.text.count("train/good") == 4

    def test_one_that_resembles_no_other_is_named(self, tmp_path, caplog):
        layouts.write_images(tmp_path, 6, size=60)
        Image.new("RGB", (60, 60), "white").save(tmp_path / "odd.png")
        sdp().remember(tmp_path, class_name="nut")
        assert "odd.png of nut differs from all others" in caplog.text
        assert caplog.text.count("differs from all others") == 1

    def test_files_that_cannot_be_read_are_skipped_and_named(self, tmp_path, caplog):
        layouts.write_images(tmp_path, 2, size=60)
        (tmp_path / "broken.png").write_text("no image")
        model = sdp().remember(tmp_path, class_name="nut")
        assert model.evidence("nut") == "text, references (2)"
        assert "broken.png: not an image" in caplog.text

        (tmp_path / "only").mkdir()
        (tmp_path / "only" / "broken.png").write_text("no image")
        with pytest.raises(OSError, match="Expected images that can be read, but got none"):
            sdp().remember(tmp_path / "only", class_name="nut")

    def test_of_one_class_are_no_evidence_for_another(self, good):
        model = sdp().remember(good, class_name="nut")
        assert model.evidence("bolt") == "text"

    def test_that_cannot_be_read_take_the_place_of_none(self, good, photos, tmp_path):
        engine, model = make_engine(tmp_path), sdp(class_name="nut", references=str(good), visualizer=False)
        engine.predict(model, dataset=PredictDataset(photos))
        engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "broken.png").write_text("no image")

        loaded = SDP.load(tmp_path / "model.ckpt", references=str(tmp_path / "broken"))
        with pytest.raises(OSError, match="Expected images that can be read, but got none"):
            loaded.predict(photos, class_name="nut")
        assert loaded.evidence("nut") == "text, references (5)"

    def test_images_with_nan_are_refused(self):
        with pytest.raises(ValueError, match="Expected an image of floats to have values in"):
            sdp().remember(torch.full((3, 60, 60), torch.nan), class_name="nut")

    def test_of_an_unknown_class_cannot_be_forgotten(self, good):
        with pytest.raises(ValueError, match="Expected class_name to be one of nut, but got 'bolt'"):
            sdp().remember(good, class_name="nut").forget("bolt")


class TestPool:
    def test_the_engine_gives_the_same_as_python(self, kind, photos, tmp_path):
        model = kind(class_name="nut", pool=True, visualizer=False)
        batches = make_engine(tmp_path).predict(model, dataset=PredictDataset(photos))

        predictions = kind().predict(photos, class_name="nut", batch_size=3, pool=True)

        torch.testing.assert_close(
            predictions.pred_score, torch.cat([batch.pred_score for batch in batches]), rtol=0, atol=1e-5
        )
        assert predictions[0].evidence.endswith("pool (10)")

    def test_defects_stand_out(self, kind, photos):
        found = scores(kind(weights={"text": 0}), photos, pool=True)
        assert found[:6].max() < found[6:].min()

    def test_is_that_of_the_run_alone(self, photos):
        model = sdp()
        before = scores(model, photos)
        scores(model, photos, pool=True)
        torch.testing.assert_close(scores(model, photos), before)
        assert model.evidence("nut") == "text"

    def test_too_few_images_are_scored_by_the_text(self, photos, caplog):
        model = sdp()
        few = model.predict(photos / "b", class_name="nut", pool=True)
        torch.testing.assert_close(few.pred_score, model.predict(photos / "b", class_name="nut").pred_score)
        assert "Expected at least 8 images of nut in a pool (pool.minimum), but got 4" in caplog.text
        assert few[0].evidence == "text"

    def test_can_be_remembered_without_what_few_images_show(self, photos, tmp_path):
        model = sdp(weights={"text": 0}, pool={"minimum": 5}).remember_pool(photos, class_name="nut", max_patches=800)
        found = scores(model, photos, pool=False)

        assert model.evidence("nut") == "references (10)"
        assert len(model.model.memory) == 800
        assert found[:6].max() < found[6:].min()  # though the defects were in the pool

    def test_that_is_too_small_is_not_remembered(self, photos):
        with pytest.raises(ValueError, match="Expected a pool of at least 8 images"):
            sdp().remember_pool(photos / "b", class_name="nut")

    def test_is_used_in_a_test_with_its_validation(self, tmp_path):
        layouts.write_mvtec_ad(tmp_path / "data", ("bottle",), n_good=5, n_defect=5, size=60)
        data = MVTec(tmp_path / "data", categories=["bottle"], auxiliary=None, num_workers=0)
        model = sdp(pool={"minimum": 5}, weights={"text": 0}, visualizer=False)
        [metrics] = make_engine(tmp_path).test(model, datamodule=data)
        assert metrics["image_AUROC"] == 1


class TestKnownGood:
    def test_at_most_the_share_of_false_alarms_is_flagged(self, photos, caplog):
        model, good = sdp(), list(torch.rand(60, 3, 40, 40, generator=torch.Generator().manual_seed(0)))
        with caplog.at_level(logging.INFO, "anomalib_clipad"):
            model.calibrate(good, class_name="nut", known_good=True, false_alarms=0.05)
        assert model.predict(good, class_name="nut").pred_label.sum() == 3
        assert "nut: Of 60 good images 3 would be flagged; with 95 % confidence fewer than" in caplog.text

    def test_a_reference_does_not_vouch_for_itself(self):
        model, good = sdp(weights={"text": 0}), torch.rand(24, 3, 40, 40, generator=torch.Generator().manual_seed(0))
        model.remember(good[:12], class_name="nut")
        model.calibrate(good[:12], class_name="nut", known_good=True, false_alarms=0.1)
        threshold = model.post_processor.pixel_thresholds[0]
        assert model.model.memory.n_images(0) == 12
        assert model.post_processor.is_calibrated(0)
        assert threshold > 0.01

    def test_is_an_option_of_the_engine(self, photos, good, tmp_path):
        model = sdp(class_name="nut", known_good={"path": str(good), "false_alarms": 0.3}, visualizer=False)
        make_engine(tmp_path).predict(model, dataset=PredictDataset(photos))
        assert model.post_processor.is_calibrated(0)

    def test_too_few_images_are_refused_with_the_number_it_takes(self, good):
        with pytest.raises(ValueError, match=r"Expected at least 49 good images for false_alarms=0\.02, but got 5"):
            sdp().calibrate(good, class_name="nut", known_good=True)
