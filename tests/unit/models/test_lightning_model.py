# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""SDP inside anomalib: classes, checkpoints, calibration, odd images."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib import LearningType
from anomalib.cli import AnomalibCLI
from anomalib.data import Folder, ImageBatch, MVTecAD, PredictDataset
from anomalib.models.components import AnomalibModule
from PIL import Image

import layouts
from anomalib_clipad import SDP, MVTec
from anomalib_clipad.clip.backbone import load_backbone
from anomalib_clipad.metrics.evaluator import CategoryEvaluator
from anomalib_clipad.post_processing.calibration import Calibration
from tiny import ON_TINY, make_engine, sdp


def make_batch(n: int = 2, size: int = 120) -> ImageBatch:
    return ImageBatch(image=torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def mvtec(tmp_path: Path) -> MVTec:
    root = layouts.write_mvtec_ad(tmp_path / "data", ["bottle", "metal_nut"])
    return MVTec(root=root, categories=["bottle", "metal_nut"], num_workers=0, eval_batch_size=4)


def test_is_a_zero_shot_model_that_the_host_can_find():
    assert SDP in AnomalibModule.__subclasses__()
    assert sdp(visualizer=False).learning_type is LearningType.ZERO_SHOT


def test_naming_the_model_makes_the_datamodule_known_by_its_bare_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["test", "--model", "anomalib_clipad.SDP", *ON_TINY, "--data", "MVTec", "--data.categories", "bottle"]

    cli = AnomalibCLI(arguments, run=False)

    assert isinstance(cli.datamodule, MVTec)
    assert cli.datamodule.categories == ("bottle",)


def test_class_name_given_by_the_user_comes_first(mvtec):
    model = sdp(class_name="gasket")
    model.trainer = type("Trainer", (), {"datamodule": mvtec})()

    model.class_index(make_batch())

    assert model.class_names == ["gasket"]


def test_each_image_has_the_class_of_its_own_category(mvtec):
    model = sdp()
    model.trainer = type("Trainer", (), {"datamodule": mvtec})()
    batch = make_batch()
    batch.image_path = [str(mvtec.root / name / "test/good/000.png") for name in ("metal_nut", "bottle")]

    index = model.class_index(batch).tolist()

    assert [model.class_names[i] for i in index] == ["metal_nut", "bottle"]


def test_without_any_name_the_prompts_say_object(caplog):
    model = sdp()

    with caplog.at_level(logging.INFO):
        model.class_index(make_batch())
        model.class_index(make_batch())

    assert model.class_names == ["object"]
    assert caplog.text.count("the prompts say 'object'") == 1


def test_a_model_used_for_another_category_uses_its_prompts(tmp_path):
    root = layouts.write_mvtec_ad(tmp_path / "data", ["bottle", "metal_nut"])
    model = sdp(visualizer=False)
    for category in ("bottle", "metal_nut"):
        make_engine(tmp_path / category).test(model, datamodule=MVTecAD(root=root, category=category, num_workers=0))
    fresh = sdp(visualizer=False)
    make_engine(tmp_path / "fresh").test(fresh, datamodule=MVTecAD(root=root, category="metal_nut", num_workers=0))

    assert model.class_names == ["bottle", "metal_nut"]
    torch.testing.assert_close(model.model.texts.embeddings[1], fresh.model.texts.embeddings[0])
    torch.testing.assert_close(model.post_processor.score_ranges[1], fresh.post_processor.score_ranges[0])


def test_the_clip_model_is_neither_trained_nor_altered(mvtec, tmp_path):
    model = sdp(visualizer=False)
    image = torch.randn(1, 3, 120, 120)
    clip = load_backbone("clipad-tiny").model
    expected = clip.encode_image(image)

    make_engine(tmp_path).test(model, datamodule=mvtec)

    assert not any(parameter.requires_grad for parameter in model.model.parameters())
    torch.testing.assert_close(model.model.visual(image), expected)


def test_several_categories_give_the_metrics_of_each_alone(mvtec, tmp_path):
    [together] = make_engine(tmp_path / "both").test(sdp(visualizer=False), datamodule=mvtec)
    alone = [
        make_engine(tmp_path / category).test(
            sdp(visualizer=False), datamodule=MVTecAD(root=mvtec.root, category=category, num_workers=0)
        )[0]
        for category in mvtec.categories
    ]

    for name, value in together.items():
        assert value == pytest.approx(np.mean([metrics[name] for metrics in alone]), abs=1e-5), name


def test_a_checkpoint_holds_calibration_and_text_vectors_but_not_clip(mvtec, tmp_path):
    model, engine = sdp(visualizer=False), make_engine(tmp_path)
    [expected] = engine.test(model, datamodule=mvtec)
    path = tmp_path / "model.ckpt"
    engine.trainer.save_checkpoint(path)

    [reloaded] = make_engine(tmp_path / "again").test(sdp(visualizer=False), datamodule=mvtec, ckpt_path=path)
    restored = SDP.load_from_checkpoint(path, map_location="cpu")

    assert path.stat().st_size < 100_000
    assert reloaded == pytest.approx(expected)
    assert restored.class_names == ["bottle", "metal_nut"]
    torch.testing.assert_close(restored.post_processor.score_ranges, model.post_processor.score_ranges)
    raw = torch.rand(2, 3, 150, 130)
    index = torch.tensor([0, 1])
    torch.testing.assert_close(restored.eval()(raw, index).pred_score, model.eval()(raw, index).pred_score)


def test_a_checkpoint_loads_with_another_evaluator(mvtec, tmp_path):
    engine = make_engine(tmp_path)
    engine.test(sdp(visualizer=False), datamodule=mvtec)
    path = tmp_path / "model.ckpt"
    engine.trainer.save_checkpoint(path)

    model = sdp(visualizer=False, evaluator=CategoryEvaluator(pixel_metrics=False))
    [metrics] = make_engine(tmp_path / "again").test(model, datamodule=mvtec, ckpt_path=path)

    assert set(metrics) == {"image_AUROC", "image_F1Max", "image_AUPR"}


def test_a_checkpoint_of_other_weights_is_refused(mvtec, tmp_path):
    engine = make_engine(tmp_path)
    engine.test(sdp(visualizer=False), datamodule=mvtec)
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")

    with pytest.raises(ValueError, match="Expected a checkpoint made with the weights of this model's backbone"):
        SDP.load_from_checkpoint(tmp_path / "model.ckpt", pretrained="random")


def test_all_scores_lie_in_the_unit_interval(mvtec, tmp_path):
    seen: list[ImageBatch] = []

    class Recorder(CategoryEvaluator):
        def on_test_batch_end(self, trainer, pl_module, outputs, batch, *rest):
            seen.append(batch)
            super().on_test_batch_end(trainer, pl_module, outputs, batch, *rest)

    make_engine(tmp_path).test(sdp(visualizer=False, evaluator=Recorder()), datamodule=mvtec)

    scores = torch.cat([batch.pred_score for batch in seen])
    assert 0 <= scores.min() < scores.max() <= 1
    maps = torch.cat([batch.anomaly_map for batch in seen])
    assert 0 <= maps.min() < maps.max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_images_of_every_mode_are_handled(tmp_path, mode):
    values = np.random.default_rng(0).integers(0, 255, (50, 40), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(tmp_path / "image.tiff")

    predictions = make_engine(tmp_path).predict(sdp(visualizer=False), dataset=PredictDataset(tmp_path / "image.tiff"))

    assert predictions is not None
    assert 0 <= predictions[0].pred_score.item() <= 1


def test_a_16_bit_image_is_refused_instead_of_turned_white(tmp_path):
    root = layouts.write_mvtec_ad(tmp_path / "data", ["bottle"])
    values = np.random.default_rng(0).integers(0, 65535, (50, 40), dtype=np.uint16)
    Image.fromarray(values).save(root / "bottle/test/good/001.png")
    datamodule = MVTecAD(root=root, category="bottle", num_workers=0)

    with pytest.raises(ValueError, match=r"Expected images of 8 bits a channel, but got 1 of more: .*001\.png"):
        make_engine(tmp_path).test(sdp(visualizer=False), datamodule=datamodule)


def test_a_single_image_gets_a_sensible_score_before_any_calibration():
    model = sdp(class_name="nut").eval()
    model.class_index(make_batch(1))

    result = model(torch.rand(1, 3, 200, 100))

    assert 0 < result.pred_score.item() < 1
    assert result.anomaly_map.shape == (1, 120, 120)


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_calibration_is_single_precision_whatever_the_models(mvtec, tmp_path, precision):
    model, exact = sdp(visualizer=False, evaluator=False), sdp(visualizer=False, evaluator=False)
    make_engine(tmp_path / precision, precision=precision).test(model, datamodule=mvtec)
    make_engine(tmp_path / "32").test(exact, datamodule=mvtec)

    assert model.model.texts.embeddings.dtype != torch.float32
    for name, calibration in exact.post_processor.named_buffers():
        found = getattr(model.post_processor, name)
        assert found.dtype == calibration.dtype
        torch.testing.assert_close(found, calibration, atol=0.02, rtol=0, equal_nan=True)


def test_a_narrow_range_survives_half_precision():
    model = sdp(class_name="nut").eval()
    model.predict(torch.zeros(3, 64, 64))
    ranges = torch.tensor([[0.99990, 0.99995], [0.49990, 0.49995]])
    model.post_processor.calibrate(0, Calibration(ranges, torch.tensor(0.5), ranges[1], torch.tensor(0.49992)))

    score = model.half().predict(torch.rand(3, 64, 64)).pred_score

    assert torch.equal(model.post_processor.score_ranges[0], ranges)
    assert 0 <= score.item() <= 1


def test_validation_without_masks_still_calibrates(tmp_path):
    root = layouts.write_folder(tmp_path / "data")
    datamodule = Folder("gaskets", root=root, normal_dir="normal", abnormal_dir="abnormal", num_workers=0)
    model = sdp(visualizer=False)

    [metrics] = make_engine(tmp_path).test(model, datamodule=datamodule)

    assert "image_AUROC" in metrics
    assert model.post_processor.score_ranges[0, 1, 1] < 1


@pytest.mark.parametrize("size", [64, (64, 96), 160])
def test_other_and_oblong_input_sizes(size):
    model = sdp(class_name="nut", image_size=size).eval()
    model.class_index(make_batch(1))

    expected = (size, size) if isinstance(size, int) else size
    assert model(torch.rand(1, 3, 100, 100)).anomaly_map.shape == (1, *expected)


def test_an_input_size_that_the_patches_do_not_fill_is_refused_at_once():
    with pytest.raises(ValueError, match=r"multiple of the patch size 8x8, but got 103x121\. .* is 104x120"):
        sdp(image_size=(103, 121))


@pytest.mark.parametrize("size", [[48], [48, 48, 48], "32", [4.5, 8], 0.5, {}])
def test_an_input_size_of_another_kind_is_named(size):
    with pytest.raises(
        ValueError, match=r"Expected image_size to be one number of pixels, or a height and a width, but"
    ):
        sdp(image_size=size)


@pytest.mark.parametrize("name", ["", "  "])
def test_a_blank_class_name_is_refused_at_once(name):
    with pytest.raises(ValueError, match="Expected class_name to be a string that is not blank, but got "):
        sdp(class_name=name)


def test_the_stand_in_says_that_it_is_one(caplog):
    sdp()

    assert "stand-in" in caplog.text
    assert "ViT-B-16-plus-240" in caplog.text


class Slow(torch.Tensor):
    """Text vectors during whose conversion other threads get their turn."""

    def to(self, *args, **kwargs):
        time.sleep(0.02)
        return super().to(*args, **kwargs)


def test_threads_that_bring_new_classes_get_what_one_thread_gets(monkeypatch):
    names, image = ["nut", "bolt", "gear", "cap", "pin", "rod"], torch.rand(3, 64, 64)
    alone, shared = sdp(strategy="mean"), sdp(strategy="mean")
    expected = [alone.predict(image, class_name=name)[0].pred_score for name in names]
    encode = shared.collaborators.text_engine.text_embeddings
    monkeypatch.setattr(
        shared.collaborators.text_engine, "text_embeddings", lambda name: encode(name).as_subclass(Slow)
    )

    with ThreadPoolExecutor(len(names)) as threads:
        result = list(threads.map(lambda name: shared.predict(image, class_name=name)[0].pred_score, names))

    assert result == pytest.approx(expected)
    assert sorted(shared.class_names) == sorted(names)
