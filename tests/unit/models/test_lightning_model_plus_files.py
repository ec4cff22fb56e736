# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What SDP+ leaves behind, heads and checkpoints, and what it makes of them later."""

import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from anomalib import LearningType

import layouts
from anomalib_clipad import SDP, MVTec, SDPPlus, Transfer
from anomalib_clipad.checkpoint.head_files import load_heads
from tiny import make_engine, sdp, sdp_plus

FRESH: dict[str, Any] = {"visualizer": False}


class Trained(NamedTuple):
    """A model that was trained on cable and metal nut, its files, and its metrics on bottle."""

    model: SDPPlus
    heads: Path
    checkpoint: Path
    metrics: dict[str, float]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layouts.write_mvtec_ad(tmp_path_factory.mktemp("data"), ["bottle", "cable", "metal_nut"])


def make_data(root: Path) -> MVTec:
    auxiliary = MVTec(root=root, categories=["cable", "metal_nut"], auxiliary=None)
    return MVTec(
        root=root, categories=["bottle"], auxiliary=auxiliary, train_batch_size=4, eval_batch_size=4, num_workers=0
    )


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("results")
    model = sdp_plus(learning_rate=1e-3, epochs=2, seed=7, **FRESH)
    [metrics] = make_engine(folder).train(model, datamodule=make_data(root))
    [heads], [checkpoint] = folder.rglob("v0/heads.safetensors"), folder.rglob("v0/**/model.ckpt")
    return Trained(model, heads, checkpoint, metrics)


def outputs(model: SDPPlus) -> torch.Tensor:
    """Maps and class token's probabilities of two images as the first class, all numbers in one row."""
    images = torch.rand(2, 3, 120, 120, generator=torch.Generator().manual_seed(0))
    model.model.texts.add("bottle", model.collaborators.text_engine.text_embeddings("bottle"))
    index = torch.full((2,), model.class_names.index("bottle"))
    predictions = model.eval().model(images, index)
    return torch.cat([predictions.anomaly_map.flatten(), predictions.pred_score])


class TestHeadsFile:
    def test_says_what_the_heads_were_made_for(self, trained):
        _, metadata = load_heads(trained.heads)

        backbone = trained.model.collaborators.backbone
        assert (metadata.backbone, metadata.pretrained) == ("clipad-tiny", None)
        assert metadata.fingerprint == backbone.fingerprint
        assert (metadata.layers, metadata.taps) == ((2, 4, 6, 8), "reference")
        assert (metadata.auxiliary, metadata.categories) == ("MVTec", ("cable", "metal_nut"))
        assert (metadata.strategy, metadata.seed, metadata.steps) == ("dbscan", 7, 6)
        assert metadata.metrics["train_loss"] > 0

    def test_gives_the_scores_of_the_trained_model(self, trained, root, tmp_path):
        model = sdp_plus(heads=str(trained.heads), **FRESH)
        assert model.learning_type is LearningType.ZERO_SHOT

        [metrics] = make_engine(tmp_path).test(model, datamodule=make_data(root))

        assert torch.equal(outputs(model), outputs(trained.model))
        assert metrics == pytest.approx(trained.metrics, abs=1e-6)
        assert not torch.equal(outputs(sdp_plus(**FRESH)), outputs(trained.model))

    def test_may_be_a_checkpoint(self, trained):
        assert torch.equal(outputs(sdp_plus(heads=str(trained.checkpoint), **FRESH)), outputs(trained.model))

    def test_may_be_the_authors(self, trained, tmp_path, caplog):
        path = tmp_path / "epoch_5.pth"
        torch.save({"linear_layers": trained.model.model.heads.state_dict()}, path)

        model = sdp_plus(heads=str(path), **FRESH)

        assert torch.equal(outputs(model), outputs(trained.model))
        assert f"{path} does not say what its heads were made for" in caplog.text

    @pytest.mark.parametrize(
        ("arguments", "ours", "theirs"),
        [
            ({"layers": [1, 3, 5, 8]}, "layers [1, 3, 5, 8]", "layers [2, 4, 6, 8]"),
            ({"layers": [8]}, "layers [8]", "layers [2, 4, 6, 8]"),
            ({"taps": "block"}, "taps block", "taps reference"),
            ({"pretrained": "random"}, "weights 'random' (fingerprint ", "weights those of the package (fingerprint "),
        ],
        ids=["layers", "number", "taps", "weights"],
    )
    def test_for_another_model_is_refused(self, trained, arguments, ours, theirs):
        expected = re.escape(f"for what this model has: {ours}") + ".*" + re.escape(f"made for {theirs}")
        for path in (trained.heads, trained.checkpoint):
            with pytest.raises(ValueError, match=f"{expected}.*{path.name}"):
                sdp_plus(heads=str(path), **arguments, **FRESH)

    def test_that_does_not_exist(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"to be a file of SDP\+ heads, but got .*heads.safetensors"):
            sdp_plus(heads=str(tmp_path / "heads.safetensors"))


class TestCheckpoint:
    def test_is_small_and_without_clip(self, trained):
        content = torch.load(trained.checkpoint, weights_only=True)

        assert not [key for key in content["state_dict"] if "visual" in key or "evaluator" in key]
        assert {key for key in content["state_dict"] if "heads" in key} == {
            f"model.heads.fc.{layer}.{part}" for layer in range(4) for part in ("weight", "bias")
        }
        assert "optimizer_states" not in content
        heads = 4 * 4 * (128 * 128 + 128)  # four bytes each
        assert trained.checkpoint.stat().st_size < heads + 50_000

    def test_restores_the_model(self, trained):
        model = SDPPlus.load_from_checkpoint(trained.checkpoint, map_location="cpu")

        assert model.learning_type is LearningType.ZERO_SHOT
        assert model.class_names == trained.model.class_names
        assert torch.equal(outputs(model), outputs(trained.model))
        raw, index = torch.rand(2, 3, 90, 150), torch.full((2,), model.class_names.index("bottle"))
        torch.testing.assert_close(model(raw, index).pred_score, trained.model.eval()(raw, index).pred_score)

    def test_is_tested_in_a_model_without_heads(self, trained, root, tmp_path):
        [metrics] = make_engine(tmp_path).test(
            sdp_plus(**FRESH), datamodule=make_data(root), ckpt_path=trained.checkpoint
        )
        assert metrics == pytest.approx(trained.metrics, abs=1e-6)

    def test_takes_precedence_over_other_heads(self, trained, tmp_path, root):
        other = sdp_plus(epochs=1, seed=8, evaluator=False, **FRESH)
        make_engine(tmp_path / "train").fit(other, datamodule=make_data(root))
        [heads] = (tmp_path / "train").rglob("v0/heads.safetensors")
        model = sdp_plus(heads=str(heads), **FRESH)

        [metrics] = make_engine(tmp_path).test(model, datamodule=make_data(root), ckpt_path=trained.checkpoint)

        assert torch.equal(outputs(model), outputs(trained.model))
        assert metrics == pytest.approx(trained.metrics, abs=1e-6)

    def test_does_not_need_the_file_that_its_heads_came_from(self, trained, root, tmp_path):
        heads = Path(shutil.copy(trained.heads, tmp_path))
        engine = make_engine(tmp_path)
        engine.test(sdp_plus(heads=str(heads), evaluator=False, **FRESH), datamodule=make_data(root))
        engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
        heads.unlink()

        model = SDPPlus.load_from_checkpoint(tmp_path / "model.ckpt", map_location="cpu")

        assert torch.equal(outputs(model), outputs(trained.model))
        assert model.heads_metadata == load_heads(trained.heads)[1]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"layers": [1, 3, 5, 8]},
                r"layers \[1, 3, 5, 8\]; but got heads made for layers \[2, 4, 6, 8\] \(the check",
            ),
            ({"taps": "block"}, r"taps block; but got heads made for taps reference \(the checkpoint\)"),
            ({"pretrained": "random"}, "made with the weights of this model's backbone"),
        ],
        ids=["layers", "taps", "weights"],
    )
    def test_of_another_model_is_refused(self, trained, arguments, message):
        with pytest.raises(ValueError, match=message):
            SDPPlus.load_from_checkpoint(trained.checkpoint, map_location="cpu", **arguments)

    def test_of_sdp_is_refused(self, root, tmp_path):
        engine = make_engine(tmp_path)
        engine.test(sdp(evaluator=False, **FRESH), datamodule=make_data(root))
        engine.trainer.save_checkpoint(tmp_path / "sdp.ckpt")

        expected = r"Expected a checkpoint of SDPPlus, but got one of SDP\. Use it with --model anomalib_clipad\.SDP\."
        with pytest.raises(ValueError, match=expected):
            SDPPlus.load_from_checkpoint(tmp_path / "sdp.ckpt", map_location="cpu")

    def test_is_refused_by_sdp(self, trained):
        expected = (
            r"Expected a checkpoint of SDP, but got one of SDPPlus\. Use it with --model anomalib_clipad\.SDPPlus"
        )
        with pytest.raises(ValueError, match=expected):
            SDP.load_from_checkpoint(trained.checkpoint, map_location="cpu")

    def test_of_the_model_is_none_to_resume_from(self, trained, root, tmp_path):
        expected = (
            r"Expected ckpt_path to be a checkpoint that training can go on from, but got \S+model\.ckpt without the "
            r"optimiser's state\. Pass checkpoints/resume\.ckpt of the same results"
        )
        with pytest.raises(ValueError, match=expected):
            make_engine(tmp_path).train(sdp_plus(**FRESH), datamodule=make_data(root), ckpt_path=trained.checkpoint)

    @pytest.mark.parametrize("content", [{}, {"callbacks": {}}])
    def test_of_something_else_is_refused(self, content):
        checkpoint = {"state_dict": {}, "hyper_parameters": {}, **content}
        with pytest.raises(ValueError, match="Expected a checkpoint of SDPPlus, but got one without 'anomalib_clipad'"):
            sdp_plus(**FRESH).on_load_checkpoint(checkpoint)


@pytest.mark.slow
def test_files_of_the_papers_backbone_take_less_than_15_mb(root: Path, tmp_path: Path):
    def category(name: str) -> MVTec:
        return MVTec(root=root, categories=[name], auxiliary=None, num_workers=0, eval_batch_size=2)

    model = SDPPlus(
        "ViT-B-16-plus-240",
        "random",
        image_size=32,  # nothing in the files depends on it
        prompts={"normal_states": ["perfect {}"], "anomalous_states": ["broken {}"], "templates": ["a {}."]},
        strategy="mean",
        epochs=1,
        evaluator=False,
        **FRESH,
    )
    data = Transfer(auxiliary=category("cable"), target=category("bottle"))
    make_engine(tmp_path).fit(model, datamodule=data)

    sizes = {path.name: path.stat().st_size for path in tmp_path.rglob("v0/**/*.*") if path.is_file()}
    assert {"model.ckpt", "heads.safetensors"} <= set(sizes)
    assert 4 * 2_296_320 < sizes["heads.safetensors"] < sizes["model.ckpt"] < 15e6
