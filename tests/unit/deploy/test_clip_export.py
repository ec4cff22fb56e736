# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""An export that cannot be done ends in one clear error, before anything is written."""

import pytest
from anomalib.data import Folder
from anomalib.deploy import CompressionType

from tiny import sdp, sdp_plus


@pytest.fixture(scope="module")
def model():
    return sdp(class_name="nut", visualizer=False, evaluator=False)


@pytest.mark.parametrize("kind", ["torch", "onnx", "openvino"])
def test_a_model_that_knows_no_class_is_refused(tmp_path, kind):
    with pytest.raises(RuntimeError, match=r"Expected the model to know the class to export, .* \(--ckpt_path\)"):
        getattr(sdp(), f"to_{kind}")(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["torch", "onnx", "openvino"])
def test_sdp_plus_without_heads_is_refused(tmp_path, kind):
    with pytest.raises(RuntimeError, match="Expected SDPPlus to have trained heads, but got none"):
        getattr(sdp_plus(class_name="nut"), f"to_{kind}")(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("names", ["nut", [], ["nut", "nut"]], ids=str)
def test_classes_are_a_list_of_different_names(model, tmp_path, names):
    with pytest.raises(ValueError, match="Expected class_names to be a list of one or more different names, but got"):
        model.to_torch(tmp_path, class_names=names)
    assert list(tmp_path.iterdir()) == []


def test_classes_without_calibration_are_named(model, caplog):
    exported = model.to_exported_model(["bolt", "nut"])

    assert exported.class_names == ("bolt", "nut")
    assert "Exported without calibration, with full ranges and thresholds of 0.5: bolt, nut." in caplog.text


def test_a_model_that_does_not_resize_needs_the_size_of_its_images(tmp_path):
    with pytest.raises(ValueError, match="Expected input_size to be given for a model that does not resize"):
        sdp(class_name="nut", pre_processor=False).to_onnx(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"compression_type": "int4"},
            "Expected compression_type to be one of fp16, int8, int8_ptq, int8_acq, but got",
        ),
        ({"onnx_kwargs": {"optimize": False}}, "Expected graphs for OpenVINO to be optimised, but got optimize=False"),
        ({"compression_type": "int8_ptq"}, "Expected a datamodule to quantise with for compression_type int8_ptq"),
        ({"compression_type": CompressionType.INT8_ACQ}, "Expected a datamodule to quantise with for .* int8_acq"),
        (
            {"compression_type": "int8_acq", "datamodule": Folder("nut", root=".", normal_dir="."), "max_drop": 1.5},
            "Expected max_drop to be between 0 and 1, but got 1.5",
        ),
        ({"input_size": (0, 5)}, r"Expected input_size to be .*, but got \(0, 5\)"),
        ({"onnx_kwargs": {"opset_version": 9}}, "Expected opset_version to be one of 18, .* but got 9"),
    ],
)
def test_a_wrong_option_is_refused(model, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        model.to_openvino(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []
