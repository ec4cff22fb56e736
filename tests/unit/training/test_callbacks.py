# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What training leaves behind however it ends, and what stops it before it begins."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anomalib.callbacks
import pytest
import torch
from anomalib.engine import Engine
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, StochasticWeightAveraging
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import RandomHorizontalFlip

import layouts
from anomalib_clipad import MVTec, SDPPlus
from tiny import make_engine, sdp_plus

CALIBRATION = ("score_ranges", "image_thresholds", "pixel_ranges", "pixel_thresholds")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layouts.write_mvtec_ad(tmp_path_factory.mktemp("data"), ["bottle", "cable"])


@pytest.fixture
def make_data(root: Path) -> Callable[..., MVTec]:
    """Datamodules that train on six images, three steps an epoch, and test on another category."""

    def make(**arguments: Any) -> MVTec:
        auxiliary = MVTec(root=root, categories=["cable"], auxiliary=None)
        settings = {"train_batch_size": 2, "eval_batch_size": 6, "num_workers": 0, **arguments}
        return MVTec(root=root, categories=["bottle"], auxiliary=auxiliary, **settings)

    return make


@pytest.fixture
def fit(tmp_path: Path, make_data: Callable[..., MVTec]) -> Callable[..., Engine]:
    """Train and return the engine."""

    def run(*callbacks: Callback, trainer: dict[str, Any] | None = None, **model: Any) -> Engine:
        engine = Engine(
            default_root_dir=tmp_path,
            callbacks=list(callbacks),
            logger=False,
            enable_progress_bar=False,
            **(trainer or {}),
        )
        engine.fit(make_model(**model), datamodule=make_data())
        return engine

    return run


def make_model(**arguments: Any) -> SDPPlus:
    settings = {"image_size": 64, "learning_rate": 1e-3, "epochs": 2, "visualizer": False, "evaluator": False}
    return sdp_plus(**{**settings, **arguments})


def results(engine: Engine) -> Path:
    return Path(engine.trainer.default_root_dir)


class Fails(Callback):
    def on_train_batch_end(self, *_: Any) -> None:
        msg = "the machine caught fire"
        raise OSError(msg)


class Spoils(Callback):
    """Stands for a step that has made heads infinite."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, self.spoil)

    def spoil(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        torch.nn.init.constant_(pl_module.model.heads.fc[1].bias, torch.nan)


class Seen(Callback):
    """Heads that each validation sees."""

    def __init__(self) -> None:
        self.heads: list[torch.Tensor] = []

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.heads.append(pl_module.model.heads.fc[0].weight.detach().clone())


class TestCompleteModel:
    @pytest.mark.parametrize(
        "ends",
        [
            {},
            {"trainer": {"max_steps": 4}},  # in the middle of an epoch
            {"trainer": {"max_steps": 4}, "validate_every_epoch": True},
            {"trainer": {"limit_train_batches": 2, "check_val_every_n_epoch": 3}},  # the user's own, never reached
        ],
        ids=["epochs", "steps", "steps, validated before", "user's validation"],
    )
    def test_is_calibrated_for_the_heads_that_training_ended_with(self, fit, make_data, tmp_path, ends):
        engine = fit(**ends)

        checkpoint = results(engine) / "weights/lightning/model.ckpt"
        assert "optimizer_states" not in torch.load(checkpoint, weights_only=True)
        model = SDPPlus.load_from_checkpoint(checkpoint, map_location="cpu", evaluator=False, visualizer=False)
        saved = [getattr(model.post_processor, name).clone() for name in CALIBRATION]
        heads = load_file(results(engine) / "heads.safetensors")
        assert torch.equal(model.model.heads.fc[3].weight, heads["fc.3.weight"])
        make_engine(tmp_path / "again").validate(model, datamodule=make_data())
        for name, value in zip(CALIBRATION, saved, strict=True):
            torch.testing.assert_close(value, getattr(model.post_processor, name), rtol=0, atol=0)
        index = model.class_names.index("bottle")
        assert not torch.equal(saved[0][index], torch.tensor([[0.0, 1.0], [0.0, 1.0]]))

    def test_early_stopping_ends_with_one_validation(self, fit):
        seen = Seen()
        stop = EarlyStopping("train_loss_epoch", min_delta=1e6, patience=1, check_on_train_epoch_end=True)
        engine = fit(seen, stop, epochs=5)

        assert engine.trainer.current_epoch == 2
        assert len(seen.heads) == 1
        assert torch.equal(seen.heads[0], engine.model.model.heads.fc[0].weight)

    def test_averaged_weights_are_what_is_validated_and_saved(self, fit):
        seen = Seen()
        engine = fit(seen, StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1), epochs=4)

        content = torch.load(results(engine) / "weights/lightning/model.ckpt", weights_only=True)
        averaged = load_file(results(engine) / "heads.safetensors")["fc.0.weight"]
        [validated] = seen.heads
        assert torch.equal(validated, averaged)
        assert torch.equal(content["state_dict"]["model.heads.fc.0.weight"], averaged)

    def test_is_what_the_engine_calls_the_best(self, fit):
        engine = fit(trainer={"limit_val_batches": 0})
        assert engine.best_model_path == str(results(engine) / "weights/lightning/model.ckpt")
        assert Path(engine.best_model_path).is_file()

    def test_a_users_checkpoints_are_left_alone(self, fit, tmp_path):
        own = anomalib.callbacks.ModelCheckpoint(
            tmp_path / "own", filename="model", monitor="train_loss_epoch", save_on_train_epoch_end=True
        )
        steps = ModelCheckpoint(tmp_path / "steps", filename="{step}", every_n_train_steps=2, save_top_k=-1)

        engine = fit(own, steps)

        assert {path.name for path in (tmp_path / "steps").iterdir()} == {"step=2.ckpt", "step=4.ckpt", "step=6.ckpt"}
        assert torch.load(tmp_path / "own/model.ckpt", weights_only=False)["optimizer_states"]
        assert not (results(engine) / "weights").exists()
        assert (results(engine) / "checkpoints/resume.ckpt").is_file()

    @pytest.mark.parametrize("hook", ["on_fit_start", "on_train_end"])
    def test_heads_that_are_not_finite_are_not_validated(self, fit, hook):
        expected = (
            r"Expected the trained weights to be finite, but got others in model\.heads\.fc\.1\.bias\. The training"
        )
        with pytest.raises(RuntimeError, match=expected):
            fit(Spoils(hook))


class TestResumeCheckpoint:
    @pytest.mark.parametrize("trainer", [{"fast_dev_run": True}, {"barebones": True}])
    def test_is_not_written_in_trial_runs(self, make_data, tmp_path, trainer):
        progress = {} if "barebones" in trainer else {"logger": False, "enable_progress_bar": False}
        engine = Engine(default_root_dir=tmp_path, **progress, **trainer)
        engine.fit(make_model(), datamodule=make_data())
        assert not list(tmp_path.rglob("*.ckpt"))

    def test_leaves_no_temporary_file(self, fit):
        folder = results(fit()) / "checkpoints"
        assert [path.name for path in folder.iterdir()] == ["resume.ckpt"]

    def test_holds_the_optimiser(self, fit):
        content = torch.load(results(fit()) / "checkpoints/resume.ckpt", weights_only=False)
        assert [state["step"].item() for state in content["optimizer_states"][0]["state"].values()] == [6.0] * 8

    def test_a_writer_of_the_users_own_is_asked_for_the_file_itself(self, fit):
        written = []

        class Later(CheckpointIO):
            """Stands for one that returns before the file is there."""

            def save_checkpoint(self, checkpoint, path, storage_options=None):
                written.append(Path(path).name)

            def load_checkpoint(self, path, *_: Any, **__: Any) -> Any:
                """Not asked for."""

            def remove_checkpoint(self, path):
                """Not asked for."""

        fit(trainer={"plugins": [Later()]}, epochs=1)
        assert set(written) == {"resume.ckpt", "model.ckpt"}


class TestTokenCaching:
    def test_of_augmented_images_is_refused(self, make_data, tmp_path):
        data = make_data(train_augmentations=RandomHorizontalFlip())
        engine = make_engine(tmp_path)
        expected = r"Expected token_cache to be None where training images are augmented, but got 'memory': .*=None"
        with pytest.raises(ValueError, match=expected):
            engine.fit(make_model(token_cache="memory"), datamodule=data)

    def test_of_dataloaders_is_refused(self, make_data, tmp_path):
        data = make_data()
        data.setup("test")
        loader = DataLoader(data.test_data, batch_size=2, collate_fn=data.test_data.collate_fn)
        engine = make_engine(tmp_path)
        with pytest.raises(ValueError, match=r"Expected a datamodule .* for token_cache='disk', but got dataloaders\."):
            engine.fit(make_model(token_cache="disk"), train_dataloaders=loader)

    @pytest.mark.parametrize("cache", ["memory", "disk"])
    @pytest.mark.parametrize("fails", [False, True])
    def test_gives_the_images_back(self, make_data, tmp_path, cache, fails):
        data = make_data()
        engine = Engine(
            default_root_dir=tmp_path, callbacks=[Fails()] if fails else [], logger=False, enable_progress_bar=False
        )
        try:
            engine.fit(make_model(token_cache=cache, epochs=1), datamodule=data)
        except OSError:
            assert fails
        assert {path.name for path in map(Path, data.train_data.samples["image_path"])} == {
            "000.png",
            "001.png",
            "002.png",
        }
