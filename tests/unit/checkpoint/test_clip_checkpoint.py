# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Every way by which a checkpoint comes back: the host's loaders, the trainer, open files, older versions."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from anomalib.callbacks import LoadModelCallback
from anomalib.data import PredictDataset
from anomalib.engine import Engine
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

import layouts
from anomalib_clipad import SDP
from tiny import sdp, sdp_plus

GOLDEN = Path(__file__).parents[2] / "golden"
OLD_SCORES = [0.9242641925811768, 0.9037051796913147, 0.8445081114768982]
"""What version 0.1 gave with its checkpoint: a gear, wood, a gear."""


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> PredictDataset:
    folder = tmp_path_factory.mktemp("images")
    layouts.write_images(folder, 2, size=60)
    return PredictDataset(folder)


def make_engine(folder, **arguments) -> Engine:
    return Engine(default_root_dir=folder, logger=False, enable_progress_bar=False, accelerator="cpu", **arguments)


def scores(engine: Engine, model: SDP, images: PredictDataset, **arguments) -> torch.Tensor:
    return torch.cat([batch.pred_score for batch in engine.predict(model, dataset=images, **arguments)])


@pytest.fixture(scope="module")
def checkpoint(images, tmp_path_factory) -> Path:
    """A calibrated model of one class."""
    folder = tmp_path_factory.mktemp("checkpoint")
    engine, model = make_engine(folder), sdp(class_name="nut", calibrate_unlabelled=True, visualizer=False)
    engine.predict(model, dataset=images)
    engine.trainer.save_checkpoint(folder / "model.ckpt")
    return folder / "model.ckpt"


@pytest.fixture(scope="module")
def expected(checkpoint, images, tmp_path_factory) -> torch.Tensor:
    """Scores by the checkpoint."""
    return scores(make_engine(tmp_path_factory.mktemp("expected")), SDP.load(checkpoint), images)


def save_as_of_a_gpu(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a checkpoint as a process does whose model is on a GPU."""
    content = torch.load(source, weights_only=True)
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(content, target)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="deserialize object on a CUDA device"):
            torch.load(target, weights_only=True)
    return target


def test_a_checkpoint_of_a_gpu_loads_anywhere(checkpoint, expected, images, tmp_path, monkeypatch):
    path = save_as_of_a_gpu(checkpoint, tmp_path / "gpu.ckpt", monkeypatch)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    loader = DataLoader(images, collate_fn=images.collate_fn)

    by_engine = scores(make_engine(tmp_path), sdp(visualizer=False, class_name="nut"), images, ckpt_path=path)
    by_trainer = trainer.predict(sdp(visualizer=False, class_name="nut"), loader, ckpt_path=path)
    make_engine(tmp_path).export(sdp(), "torch", export_root=tmp_path / "export", ckpt_path=path)

    torch.testing.assert_close(by_engine, expected)
    torch.testing.assert_close(torch.cat([batch.pred_score for batch in by_trainer]), expected)
    assert list((tmp_path / "export").rglob("model.pt"))
    assert SDP.load(path).device.type == "cpu"


@pytest.mark.parametrize("fails", [False, True])
def test_the_trainer_reads_other_models_checkpoints_afterwards(checkpoint, images, tmp_path, fails):
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    loader = DataLoader(images, collate_fn=images.collate_fn)
    own_reader = trainer.strategy.checkpoint_io
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")

    if fails:
        with pytest.raises(ValueError, match="it holds something else"):
            trainer.predict(sdp(visualizer=False), loader, ckpt_path=tmp_path / "other.ckpt")
    else:
        trainer.predict(sdp(visualizer=False), loader, ckpt_path=checkpoint)

    assert trainer.strategy.checkpoint_io is own_reader
    assert own_reader.load_checkpoint(tmp_path / "other.ckpt") == {"state_dict": {}}


def test_what_was_checked_is_what_is_loaded(checkpoint, images, tmp_path, monkeypatch):
    path, read = shutil.copy(checkpoint, tmp_path / "model.ckpt"), []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda file, *rest, **options: read.append(file) or load(file, *rest, **options))

    scores(make_engine(tmp_path), sdp(class_name="nut", visualizer=False), images, ckpt_path=path)

    assert len(read) == 1


def test_an_open_file(checkpoint, expected, images, tmp_path):
    with checkpoint.open("rb") as file:
        model = SDP.load_from_checkpoint(file)
    torch.testing.assert_close(scores(make_engine(tmp_path), model, images), expected)

    (tmp_path / "text.ckpt").write_text("hello")
    with (
        (tmp_path / "text.ckpt").open("rb") as file,
        pytest.raises(ValueError, match=r"but got .*text\.ckpt: it cannot be read"),
    ):
        SDP.load_from_checkpoint(file)


def test_the_hosts_callback_loads_the_model(checkpoint, expected, images, tmp_path):
    engine = make_engine(tmp_path, callbacks=[LoadModelCallback(str(checkpoint))])
    torch.testing.assert_close(scores(engine, sdp(class_name="nut", visualizer=False), images), expected)


def test_what_is_saved_loads_strictly(images):
    model = sdp_plus(heads="embedded", class_name="nut")
    model.predict(images.image_filenames)
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(checkpoint)
    saved = checkpoint["state_dict"]

    other = sdp_plus(evaluator=False)
    other.load_state_dict(saved, strict=True)

    assert not [name for name in saved if "visual" in name or "evaluator" in name]
    assert other.class_names == ["nut"]
    torch.testing.assert_close(other.model.texts.embeddings, model.model.texts.embeddings)
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"model.texts.embeddings\"\. "):
        other.load_state_dict({name: value for name, value in saved.items() if "texts" not in name}, strict=True)


def test_an_argument_that_the_class_does_not_have_is_named(checkpoint):
    with pytest.raises(TypeError, match=r"Expected arguments of SDP, but got sgma\. Arguments: backbone, .*sigma"):
        SDP.load(checkpoint, sgma=3)


class TestVersion01:
    """A checkpoint that was written before arguments were renamed and classes were part of the state."""

    @staticmethod
    def check(model: SDP) -> None:
        images = torch.rand(3, 3, 90, 120, generator=torch.Generator().manual_seed(0))
        predictions = model.predict(list(images), class_name=["gear", "wood", "gear"])
        assert predictions.pred_score.tolist() == pytest.approx(OLD_SCORES, abs=1e-5)

    def test_loads(self, caplog):
        with caplog.at_level(logging.WARNING):
            model = SDP.load(GOLDEN / "sdp_0_1.ckpt")
        assert model.class_names == ["gear", "wood"]
        assert all(row.calibrated for row in model.predict([torch.zeros(3, 120, 120)] * 2, ["gear", "wood"]))
        self.check(model)
        assert "no such arguments" not in caplog.text  # what was renamed since was not set

    def test_is_tested_by_the_engine(self, tmp_path, images):
        model = sdp(class_name="wood", visualizer=False)
        scores(make_engine(tmp_path), model, images, ckpt_path=GOLDEN / "sdp_0_1.ckpt")
        self.check(model)

    def test_arguments_that_are_gone_are_named(self, tmp_path, caplog):
        content = torch.load(GOLDEN / "sdp_0_1.ckpt", weights_only=True)
        content["hyper_parameters"]["cache_dir"] = "vectors"
        torch.save(content, tmp_path / "model.ckpt")

        SDP.load(tmp_path / "model.ckpt")

        assert "model.ckpt, since SDP has no such arguments: cache_dir='vectors'." in caplog.text
