# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Training of SDP+ inside anomalib: what changes, what decides the result, what stops it."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib import LearningType
from anomalib.data import MVTecAD, PredictDataset
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from torch.optim.lr_scheduler import ExponentialLR

import layouts
from anomalib_clipad import MVTec, SDPPlus
from anomalib_clipad.base import allocation
from anomalib_clipad.data.labelled import LabelledImages
from tiny import make_engine, sdp_plus

N_IMAGES = 12
"""Labelled images of the two auxiliary categories."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layouts.write_mvtec_ad(tmp_path_factory.mktemp("data"), ["bottle", "cable", "metal_nut"])


@pytest.fixture
def make_data(root: Path) -> Callable[..., MVTec]:
    """Datamodules that train on two categories and test on a third."""

    def make(**arguments: Any) -> MVTec:
        auxiliary = MVTec(root=root, categories=["cable", "metal_nut"], auxiliary=None)
        settings = {"train_batch_size": 4, "eval_batch_size": 4, "num_workers": 0, **arguments}
        return MVTec(root=root, categories=["bottle"], auxiliary=auxiliary, **settings)

    return make


def make_model(**arguments: Any) -> SDPPlus:
    return sdp_plus(**{"learning_rate": 1e-3, "epochs": 1, "visualizer": False, "evaluator": False, **arguments})


@pytest.fixture
def fit(tmp_path: Path, make_data: Callable[..., MVTec]) -> Callable[..., SDPPlus]:
    """Train a model of some arguments; data and engine may be given."""

    def run(data: MVTec | None = None, engine: Engine | None = None, **arguments: Any) -> SDPPlus:
        model = make_model(**arguments)
        (engine or make_engine(tmp_path)).fit(model, datamodule=data or make_data())
        return model

    return run


def weights(model: SDPPlus) -> torch.Tensor:
    """All numbers of the heads, one after the other."""
    return torch.cat([parameter.detach().flatten() for parameter in model.model.heads.parameters()])


class Watcher(Callback):
    """Writes down what can be seen while a model trains."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.validations = 0
        self.modes: set[tuple[bool, bool]] = set()
        self.classes: list[tuple[str, str]] = []
        self.known: list[str] = []

    def on_train_start(self, trainer, pl_module):
        self.known = list(pl_module.class_names)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.modes.add((pl_module.model.heads.training, pl_module.model.visual.training))
        names = [pl_module.class_names[index] for index in pl_module.class_index(batch)]
        self.classes += [(Path(path).parents[2].name, name) for path, name in zip(batch.image_path, names, strict=True)]

    def on_train_epoch_end(self, trainer, pl_module):
        self.losses.append(trainer.callback_metrics["train_loss_epoch"].item())

    def on_validation_end(self, trainer, pl_module):
        self.validations += not trainer.sanity_checking


class Diverges(Callback):
    """Stands for heads that a step has made infinite."""

    def on_train_start(self, trainer, pl_module):
        torch.nn.init.constant_(pl_module.model.heads.fc[1].bias, torch.nan)


class Fails(Callback):
    """Stands for whatever goes wrong in the middle of training."""

    def on_train_batch_end(self, *_: Any) -> None:
        msg = "the machine caught fire"
        raise OSError(msg)


def test_the_host_can_find_it_and_fits_it_only_without_heads(fit):
    assert SDPPlus in AnomalibModule.__subclasses__()
    assert make_model().learning_type is LearningType.ONE_CLASS
    assert fit().learning_type is LearningType.ZERO_SHOT


def test_the_command_line_explains_every_argument(capsys):
    parser = ArgumentParser()
    parser.add_subclass_arguments(AnomalibModule, "model")
    with pytest.raises(SystemExit):
        parser.parse_args(["--model.help=anomalib_clipad.SDPPlus"])
    text = " ".join(capsys.readouterr().out.split()).replace("--model.init_args.", "--model.")  # an older jsonargparse
    assert "--model.sigma SIGMA Gaussian blur in pixels" in text
    assert "--model.heads HEADS File of trained heads" in text


def test_training_lowers_the_loss_and_changes_nothing_but_the_heads(fit, tmp_path):
    watcher, untrained = Watcher(), make_model()
    clip = {key: value.clone() for key, value in untrained.model.visual.state_dict().items()}

    model = fit(engine=make_engine(tmp_path, watcher), epochs=3)

    assert len(watcher.losses) == 3
    assert watcher.losses[2] < 0.8 * watcher.losses[0]
    assert watcher.modes == {(True, False)}
    assert not torch.allclose(weights(model), weights(untrained), atol=1e-4)
    assert all(torch.equal(value, clip[key]) for key, value in model.model.visual.state_dict().items())
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {f"model.heads.fc.{layer}.{part}" for layer in range(4) for part in ("weight", "bias")}
    assert all(parameter.grad is None for parameter in model.model.visual.parameters())


@pytest.mark.parametrize("cache", [None, "memory"])
def test_each_image_is_compared_with_the_text_of_its_own_category(fit, tmp_path, cache):
    watcher = Watcher()

    fit(engine=make_engine(tmp_path, watcher), token_cache=cache)

    assert sorted(watcher.classes) == [("cable", "cable")] * 6 + [("metal_nut", "metal_nut")] * 6


def test_all_classes_are_known_before_the_first_batch_in_an_order_that_does_not_depend_on_it(fit, tmp_path):
    for seed in (1, 2):
        watcher = Watcher()
        fit(engine=make_engine(tmp_path / str(seed), watcher), seed=seed)
        assert watcher.known == ["bottle", "cable", "metal_nut"]


def test_the_parts_of_the_loss_are_logged(fit, tmp_path):
    engine = make_engine(tmp_path)
    fit(engine=engine)
    logged = engine.trainer.callback_metrics
    torch.testing.assert_close(logged["train_loss_epoch"], logged["train_focal"] + logged["train_dice"])


def test_the_seed_alone_decides_the_heads(fit, tmp_path, monkeypatch):
    results = []
    for number, seed in enumerate((1, 1, 2)):
        torch.manual_seed(number)
        results.append(weights(fit(engine=make_engine(tmp_path / str(number)), seed=seed)))

    assert torch.equal(results[0], results[1])
    assert not torch.allclose(results[0], results[2], atol=1e-2)


def test_the_seed_decides_the_order_of_the_images_too(make_data, tmp_path):
    start, results = make_model(seed=1).model.heads.state_dict(), []
    for seed in (1, 2):
        model = make_model(seed=seed)
        model.model.heads.load_state_dict(start)
        make_engine(tmp_path / str(seed)).fit(model, datamodule=make_data())
        results.append(weights(model))

    assert not torch.allclose(*results, atol=1e-5)


class TestCache:
    @pytest.mark.parametrize("cache", ["memory", "disk"])
    def test_gives_the_same_model(self, fit, tmp_path, cache):
        expected = fit(engine=make_engine(tmp_path / "none"), epochs=2)
        result = fit(engine=make_engine(tmp_path / cache), epochs=2, token_cache=cache)

        images = torch.rand(2, 3, 120, 120, generator=torch.Generator().manual_seed(0))
        index = torch.tensor([0, 1])
        maps = [model.eval().model(images, index).anomaly_map for model in (result, expected)]
        torch.testing.assert_close(*maps, atol=2e-3, rtol=0)
        # The tokens are rounded to half precision: what training has changed is the same to one percent.
        start = weights(make_model())
        change = weights(expected) - start
        assert (weights(result) - start - change).norm() < 0.01 * change.norm()

    @pytest.mark.parametrize(("cache", "runs"), [(None, 3), ("memory", 1), ("disk", 1)])
    def test_tower_sees_each_image_once(self, make_data, tmp_path, monkeypatch, cache, runs):
        model, seen = make_model(epochs=3, token_cache=cache), []
        tap = model.model.tapped_patches
        monkeypatch.setattr(model.model, "tapped_patches", lambda image: (seen.append(len(image)), tap(image))[1])

        make_engine(tmp_path, limit_val_batches=0).fit(model, datamodule=make_data())

        assert sum(seen) == runs * N_IMAGES

    @pytest.mark.parametrize("cache", ["memory", "disk"])
    def test_is_dropped_after_an_exception(self, fit, make_data, tmp_path, cache):
        data = make_data()

        with pytest.raises(OSError, match="the machine caught fire"):
            fit(data, make_engine(tmp_path, Fails()), token_cache=cache)

        assert isinstance(data.train_data, LabelledImages)
        assert not list(tmp_path.rglob("heads.safetensors"))

    @pytest.mark.parametrize(("cache", "other"), [("memory", "disk"), ("disk", "memory")])
    def test_that_does_not_fit_is_refused(self, fit, make_data, tmp_path, monkeypatch, cache, other):
        monkeypatch.setattr(allocation, "_free_bytes", lambda *_: 1_000_000)
        data, watcher = make_data(), Watcher()

        expected = (
            rf"Expected the cached tokens to fit into {cache}, .* 0\.00 GB .* Choose token_cache='{other}' or None"
        )
        with pytest.raises(RuntimeError, match=expected):
            fit(data, make_engine(tmp_path, watcher), token_cache=cache)

        assert watcher.modes == set()
        assert isinstance(data.train_data, LabelledImages)


class TestTrainersOwnMeans:
    def test_mixed_precision(self, fit, tmp_path):
        exact = fit(engine=make_engine(tmp_path / "32"), epochs=2)
        model = fit(engine=make_engine(tmp_path / "bf16", precision="bf16-mixed"), epochs=2)

        assert weights(model).dtype == torch.float32
        start = weights(make_model())
        change, expected = weights(model) - start, weights(exact) - start
        assert 0 < (change - expected).norm() < 0.5 * expected.norm()

    def test_gradient_accumulation_is_a_larger_batch(self, fit, make_data, tmp_path):
        in_order = {"shuffle": False}
        expected = fit(make_data(**in_order), make_engine(tmp_path / "4"), learning_rate=1e-4)
        engine = make_engine(tmp_path / "2x2", accumulate_grad_batches=2)
        result = fit(make_data(**in_order, train_batch_size=2), engine, learning_rate=1e-4)

        assert engine.trainer.global_step == N_IMAGES / 4
        torch.testing.assert_close(weights(result), weights(expected), atol=2e-6, rtol=0)

    @pytest.mark.parametrize(
        ("arguments", "epochs", "steps"),
        [({}, 3, 9), ({"max_epochs": 2}, 2, 6), ({"max_steps": 4}, 2, 4), ({"max_epochs": 1000, "max_steps": 2}, 1, 2)],
    )
    def test_length_of_training(self, fit, tmp_path, arguments, epochs, steps):
        engine = make_engine(tmp_path, **arguments)
        fit(engine=engine, epochs=3)
        assert (engine.trainer.current_epoch, engine.trainer.global_step) == (epochs, steps)

    @pytest.mark.parametrize(("every_epoch", "validations"), [(False, 1), (True, 3)])
    def test_validation(self, fit, tmp_path, every_epoch, validations):
        watcher = Watcher()
        fit(engine=make_engine(tmp_path, watcher), epochs=3, validate_every_epoch=every_epoch)
        assert watcher.validations == validations

    def test_learning_rate_schedule(self, fit, tmp_path):
        engine = make_engine(tmp_path)
        fit(engine=engine, epochs=2, lr_scheduler=lambda optimizer: ExponentialLR(optimizer, gamma=0.1))
        assert engine.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-5)
        [checkpoint] = tmp_path.rglob("v0/**/model.ckpt")
        assert SDPPlus.load_from_checkpoint(checkpoint, map_location="cpu").lr_scheduler is None

    def test_early_stopping(self, fit, tmp_path):
        stop = EarlyStopping("train_loss_epoch", min_delta=1e6, patience=1, check_on_train_epoch_end=True)
        engine = make_engine(tmp_path, stop)
        fit(engine=engine, epochs=5)
        assert engine.trainer.current_epoch == 2


class TestRefusals:
    def test_loss_that_is_not_finite_names_the_files(self, fit, make_data, root, tmp_path):
        with pytest.raises(RuntimeError, match="Expected the loss to be finite, but got nan for the images") as error:
            fit(make_data(shuffle=False), make_engine(tmp_path, Diverges()))

        named = [str(root / f"cable/test/{name}.png") for name in ("good/000", "good/001", "good/002", "scratch/000")]
        assert str(named) in str(error.value)
        assert "Look at these files and their masks, or lower learning_rate." in str(error.value)
        assert not list(tmp_path.rglob("heads.safetensors"))

    def test_test_without_heads(self, make_data, tmp_path):
        expected = (
            r"Expected SDPPlus to have trained heads, but got none\. Give a file \(--model\.heads .* train them: "
        )
        with pytest.raises(RuntimeError, match=expected):
            make_engine(tmp_path).test(make_model(), datamodule=make_data())

    def test_prediction_without_heads(self, root, tmp_path):
        with pytest.raises(RuntimeError, match="Expected SDPPlus to have trained heads, but got none"):
            make_engine(tmp_path).predict(make_model(), dataset=PredictDataset(root / "bottle/test/good"))

    @pytest.mark.parametrize("verb", ["fit", "train"])
    def test_normal_images_alone(self, root, tmp_path, verb):
        data = MVTecAD(root=root, category="bottle", num_workers=0)
        expected = (
            "but got 2 normal images of MVTecAD.* run `anomalib train --model anomalib_clipad.SDPPlus --data MVTec`"
        )
        with pytest.raises(ValueError, match=expected):
            getattr(make_engine(tmp_path), verb)(make_model(), datamodule=data)

    def test_auxiliary_that_is_the_target(self, root, tmp_path, fit, caplog):
        same = MVTec(root=root, categories=["bottle"], auxiliary=None)
        with pytest.raises(ValueError, match="but got both with MVTec AD bottle"):
            fit(MVTec(root=root, categories=["bottle"], auxiliary=same, num_workers=0))

        with caplog.at_level(logging.WARNING, "anomalib_clipad"):
            fit(MVTec(root=root, categories=["bottle"], auxiliary=same, allow_same=True, num_workers=0))

        assert "the test on MVTec is NOT zero-shot" in caplog.text


class StopsAfter(Callback):
    """Ends a training of very many epochs."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


class TestTrainerIsTheUsers:
    """What the user sets wins, and what the model sets is given back."""

    @pytest.mark.parametrize("given", [None, 1000])
    def test_number_of_epochs(self, make_data, tmp_path, given):
        engine = make_engine(tmp_path, StopsAfter(3), max_epochs=given)
        engine.fit(make_model(epochs=2), datamodule=make_data())
        assert engine.trainer.current_epoch == (2 if given is None else 3)
        assert engine.trainer.max_epochs == given

    @pytest.mark.parametrize("fails", [False, True])
    def test_everything_borrowed_is_given_back(self, make_data, tmp_path, monkeypatch, fails):
        monkeypatch.setenv("PL_GLOBAL_SEED", "3")
        monkeypatch.delenv("PL_SEED_WORKERS", raising=False)
        torch.manual_seed(0)
        expected = torch.rand(2)
        torch.manual_seed(0)
        engine = make_engine(tmp_path, *([Fails()] if fails else []))
        try:
            engine.fit(make_model(), datamodule=make_data())
        except OSError:
            assert fails
        trainer = engine.trainer
        assert (trainer.max_epochs, trainer.check_val_every_n_epoch) == (None, 1)
        assert (os.environ["PL_GLOBAL_SEED"], os.environ.get("PL_SEED_WORKERS")) == ("3", None)
        assert torch.equal(torch.rand(2), expected)

    def test_trainer_serves_a_second_model(self, make_data, tmp_path):
        engine = make_engine(tmp_path, watcher := Watcher())
        engine.fit(make_model(validate_every_epoch=False), datamodule=make_data())
        second = make_model(epochs=3, validate_every_epoch=True)
        engine.trainer.fit(second, datamodule=make_data())
        assert engine.trainer.current_epoch == 3  # Lightning counts on
        assert watcher.validations == 1 + 2

    def test_seed(self, monkeypatch):
        monkeypatch.delenv("PL_GLOBAL_SEED")
        assert make_model().seed == 42
        monkeypatch.setenv("PL_GLOBAL_SEED", "7")  # as seed_everything leaves it
        assert (make_model().seed, make_model(seed=9).seed) == (7, 9)
        torch.testing.assert_close(weights(make_model()), weights(make_model(seed=7)), rtol=0, atol=0)

    def test_loss_of_another_process_stops_this_one_too(self, make_data, tmp_path, monkeypatch):
        monkeypatch.setattr(SDPPlus, "all_gather", lambda self, loss: torch.stack([loss, loss * torch.nan]))
        with pytest.raises(RuntimeError, match="Expected the loss to be finite, but one of another process is not"):
            make_engine(tmp_path).fit(make_model(), datamodule=make_data())
