# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What is deployed, and its files; tiny random models, so that a graph is written in seconds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.post_processing import MEBinPostProcessor
from torch import Tensor
from torchvision.transforms.v2 import Compose, InterpolationMode, Normalize, Resize

from anomalib_clipad.deploy.exported_model import ExportedModel, metadata, require_modules, select_classes, write_torch
from anomalib_clipad.deploy.onnx import OPSETS, check_input_size, write_onnx
from anomalib_clipad.post_processing.calibration import Calibration
from anomalib_clipad.post_processing.post_processor import CategoryPostProcessor
from anomalib_clipad.scoring.heads import LinearHeads
from anomalib_clipad.scoring.torch_model import SDPModel

NAMES = ["nut", "bolt", "gasket"]


def make_images(n: int = 2, height: int = 90, width: int = 70) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def make_parts(clip: Any, *, plus: bool = False) -> tuple[SDPModel, CategoryPostProcessor]:
    """Model of three classes, each with text vectors and a calibration of its own."""
    torch.manual_seed(0)
    model = SDPModel(clip.visual, LinearHeads(32, 24), sigma=1.5) if plus else SDPModel(clip.visual, sigma=1.5)
    post_processor = CategoryPostProcessor()
    post_processor.resize(len(NAMES))
    for index, name in enumerate(NAMES):
        model.texts.add(name, torch.nn.functional.normalize(torch.randn(24, 2), dim=0))
        ranges = torch.tensor([[0.1, 0.9], [0.4, 0.6]]) + index / 100
        calibration = Calibration(ranges, torch.tensor(0.4), torch.tensor([0.4, 0.6]), torch.tensor(0.5 + index / 50))
        post_processor.calibrate(index, calibration)
    return model, post_processor


def make_exported(clip: Any, classes: list[int], **options: Any) -> ExportedModel:
    resize = Resize((32, 32), interpolation=InterpolationMode.BICUBIC, antialias=True)
    transform = Compose([resize, Normalize(mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])])
    return ExportedModel(transform, *select_classes(*make_parts(clip, **options), classes)).eval()


def run_onnx(path: Path, **inputs: Tensor) -> dict[str, np.ndarray]:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_outputs()]
    feed = {name: value.numpy() for name, value in inputs.items()}
    return dict(zip(names, session.run(names, feed), strict=True))


def test_chosen_classes_keep_their_text_vectors_and_calibration(tiny_clip):
    model, post_processor = make_parts(tiny_clip)

    chosen, calibrated = select_classes(model, post_processor, [2, 0])

    assert chosen.texts.names == ["gasket", "nut"]
    torch.testing.assert_close(chosen.texts.embeddings, model.texts.embeddings[[2, 0]])
    torch.testing.assert_close(calibrated.pixel_thresholds, torch.tensor([0.54, 0.5]))
    assert chosen.visual is model.visual
    assert model.texts.names == NAMES
    assert len(post_processor.pixel_thresholds) == 3


@pytest.mark.parametrize("plus", [False, True], ids=["SDP", "SDP+"])
def test_scores_are_those_of_the_parts(tiny_clip, plus):
    model, post_processor = make_parts(tiny_clip, plus=plus)
    exported, image, index = make_exported(tiny_clip, [0, 1, 2], plus=plus), make_images(), torch.tensor([1, 2])

    outputs = exported(image, index)

    expected = post_processor(model(exported.transform(image), index), index)
    for value, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(value, wanted)
    assert not outputs.pred_score.requires_grad


def test_a_class_alone_scores_as_among_others_and_needs_no_index(tiny_clip):
    image = make_images()

    alone = make_exported(tiny_clip, [1])(image)

    among = make_exported(tiny_clip, [0, 1, 2])(image, torch.tensor([1, 1]))
    torch.testing.assert_close(alone.pred_score, among.pred_score)
    torch.testing.assert_close(alone.anomaly_map, among.anomaly_map)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, "Expected class_index for a model of 2 classes, but got none. Classes: 0 nut, 1 bolt"),
        (torch.tensor([0, 2]), r"between 0 and 1, but got \[0, 2\]. Classes: 0 nut, 1 bolt"),
        (torch.tensor([-1, 0]), r"between 0 and 1, but got \[-1, 0\]"),
        (torch.tensor([0]), r"one index for each of 2 images, but got shape \(1,\)"),
    ],
)
def test_a_wrong_class_index_is_refused(tiny_clip, index, message):
    with pytest.raises(ValueError, match=message):
        make_exported(tiny_clip, [0, 1])(make_images(), index)


def test_a_torch_file_holds_the_whole_model_and_no_text_tower(tiny_clip, tmp_path):
    exported, image = make_exported(tiny_clip, [0]), make_images()

    path = write_torch(exported, tmp_path / "weights/torch/model.pt")

    loaded = torch.load(path, weights_only=False)["model"]
    torch.testing.assert_close(loaded(image).pred_score, exported(image).pred_score, atol=0, rtol=0)
    assert loaded.class_names == ("nut",)
    names = [name for name, _ in loaded.named_parameters()]
    assert not [name for name in names if "token_embedding" in name or "text" in name.removeprefix("model.texts")]
    assert [file.name for file in path.parent.iterdir()] == ["model.pt"]


def test_a_torch_file_after_a_run_holds_no_more_than_before(tiny_clip, tmp_path):
    model, post_processor = make_parts(tiny_clip)
    whole = torch.nn.Linear(1000, 1000)
    post_processor.log = post_processor.log_dict = whole.forward  # as Lightning lends callbacks a module's methods

    chosen, calibrated = select_classes(model, post_processor, [0])

    path = write_torch(ExportedModel(None, chosen, calibrated), tmp_path / "model.pt")
    assert path.stat().st_size < sum(weight.nbytes for weight in whole.parameters())
    assert post_processor.log == whole.forward


@pytest.mark.slow
@pytest.mark.parametrize("plus", [False, True], ids=["SDP", "SDP+"])
def test_an_onnx_graph_takes_any_number_of_images_of_any_size(tiny_clip, tmp_path, plus):
    exported = make_exported(tiny_clip, [1], plus=plus)

    path = write_onnx(
        exported, tmp_path / "model.onnx", None, metadata(exported, "SDP", "tiny", ["text"] * len(exported.class_names))
    )

    for image in (make_images(1, 300, 200), make_images(3, 32, 32), make_images(2, 20, 50)):
        outputs, expected = run_onnx(path, input=image), exported(image)
        assert list(outputs) == ["pred_score", "pred_label", "anomaly_map", "pred_mask"]
        np.testing.assert_allclose(outputs["pred_score"], expected.pred_score, atol=1e-4)
        np.testing.assert_allclose(outputs["anomaly_map"], expected.anomaly_map, atol=1e-4)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert Path(torch.__file__).parent.as_posix().encode() not in path.read_bytes()  # nor any other path of ours


@pytest.mark.slow
@pytest.mark.parametrize("references", [False, True])
def test_a_graph_of_several_classes_takes_their_index(tiny_clip, tmp_path, references):
    exported, image = make_exported(tiny_clip, [0, 1, 2]), make_images(4)
    if references:  # of one class, of which two images are asked
        patches = exported.model.tapped_patches(exported.transform(make_images(3, 50, 50)))
        exported.model.memory.add(2, patches.layers)
    index = torch.tensor([2, 0, 3, -1])

    path = write_onnx(
        exported,
        tmp_path / "model.onnx",
        (90, 70),
        metadata(exported, "SDP", "tiny", ["text"] * len(exported.class_names)),
    )

    outputs = run_onnx(path, input=image, class_index=index)
    expected = exported(image[:2], index[:2])
    np.testing.assert_allclose(outputs["pred_score"][:2], expected.pred_score, atol=1e-4)
    np.testing.assert_allclose(outputs["anomaly_map"][:2], expected.anomaly_map, atol=1e-4)
    assert np.isnan(outputs["pred_score"][2:]).all()
    assert np.isnan(outputs["anomaly_map"][2:]).all()
    assert not outputs["pred_label"][2:].any()
    onnxruntime = pytest.importorskip("onnxruntime")
    described = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert json.loads(described["class_names"]) == NAMES
    assert json.loads(described["calibrated"]) == [True] * 3


@pytest.mark.slow
def test_another_size_than_the_backbones_can_be_exported(tiny_clip, tmp_path):
    exported, image = make_exported(tiny_clip, [0]), make_images()
    exported.transform.transforms[0].size = [48, 40]  # position embeddings are interpolated

    path = write_onnx(exported, tmp_path / "model.onnx", None, {}, optimize=False)  # which takes longer

    np.testing.assert_allclose(run_onnx(path, input=image)["anomaly_map"], exported(image).anomaly_map, atol=1e-4)


@pytest.mark.slow
def test_a_post_processor_that_cannot_be_exported_is_named(tiny_clip, tmp_path):
    exported = make_exported(tiny_clip, [0])
    exported.post_processor = MEBinPostProcessor()
    message = "Expected post_processor to be one that can be exported .* MEBinPostProcessor"
    with pytest.raises(ValueError, match=message):
        write_onnx(exported, tmp_path / "model.onnx", None, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [(0, 5), (5,), (2.5, 3), (True, 3), (-1, 4)])
def test_a_wrong_size_of_raw_images_is_refused(size):
    with pytest.raises(ValueError, match="Expected input_size to be the height and width of raw images"):
        check_input_size(size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset_version": 9}, f"Expected opset_version to be one of {OPSETS[0]}, .*{OPSETS[-1]}, but got 9"),
        ({"opset_version": 99}, "Expected opset_version .* but got 99"),
        ({"dynamo": False}, "Expected dynamo to be True"),
        ({"opset": 18}, "Expected options of ONNX to be among .*opset_version.*, but got 'opset'"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_written(tiny_clip, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_onnx(make_exported(tiny_clip, [0]), tmp_path / "weights/model.onnx", None, {}, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_survives_an_export_that_fails(tiny_clip, tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    path.write_bytes(b"earlier")

    def fail(content: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_torch(make_exported(tiny_clip, [0]), path)

    assert path.read_bytes() == b"earlier"
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_a_missing_package_is_named_with_how_to_install_it():
    require_modules("torch")
    with pytest.raises(
        ModuleNotFoundError, match=r"Expected nosuchpackage to be installed .*anomalib-clipad\[openvino"
    ):
        require_modules("torch", "nosuchpackage")
