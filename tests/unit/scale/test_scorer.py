# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Scorers from plain data: the rows of ``predict``, and what is refused before any work."""

import json
import pickle
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layouts
from anomalib_clipad import SDP
from anomalib_clipad.data.image_list import list_images
from anomalib_clipad.data.image_loader import ListedImage
from anomalib_clipad.prediction.table import COLUMNS
from anomalib_clipad.scale.exported import ExportedScorer
from anomalib_clipad.scale.scorer import ModelScorer, ScorerSpec
from tiny import BACKBONE, sdp

ON_TINY = {"backbone": BACKBONE}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    layouts.write_images(folder, 5)
    (folder / "002.png").write_bytes(b"no image")
    return folder


def test_rows_are_those_of_predict(photos: Path) -> None:
    images = [image._replace(position=10 + image.position) for image in list_images(photos)]
    spec = pickle.loads(pickle.dumps(ScorerSpec(init_args={**ON_TINY, "class_name": "nut"}, batch_size=2)))
    rows = spec.make().score(images)
    expected = sdp(class_name="nut").predict(photos, batch_size=2).rows
    assert [row.position for row in rows] == list(range(10, 15))
    for row, other in zip(rows, expected, strict=True):
        assert [getattr(row, name) for name in COLUMNS] == [
            pytest.approx(value, abs=1e-6) if isinstance(value := getattr(other, name), float) else value
            for name in COLUMNS
        ]
    assert rows[2].error == "not an image, or of an unknown format"


def test_rows_are_those_of_predict_over_many_chunks(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of one image, one of which holds nothing that can be read."""
    monkeypatch.setattr("anomalib_clipad.scale.scorer._BATCHES_AT_ONCE", 1)
    images = list_images(photos)
    rows = ModelScorer(sdp(class_name="nut"), batch_size=1).score(images)
    assert [row.position for row in rows] == [0, 1, 2, 3, 4]
    assert [row.error is None for row in rows] == [True, True, False, True, True]


def test_errors_that_are_no_unreadable_images_are_not_hidden(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SDP, "predict", fails)
    with pytest.raises(OSError, match="No space left"):
        ModelScorer(sdp(class_name="nut")).score(list_images(photos))


@pytest.mark.parametrize(
    ("options", "names", "message"),
    [
        ({"class_name": "nut"}, ["cap"], "from the list or from the model, but got cap and 'nut'"),
        ({"pool": True}, [None], "to be scored by itself, but got --model.pool"),
        ({"calibrate_unlabelled": True}, [None], "to be scored by itself, but got --model.calibrate_unlabelled"),
    ],
)
def test_models_that_cannot_score_images_one_by_one(options: dict[str, Any], names: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScorerSpec(init_args={**ON_TINY, **options}).check(names)


def test_a_check_learns_the_classes() -> None:
    scorer = ModelScorer(sdp())
    scorer.check(["nut", "cap"])
    assert scorer.model.class_names == ["nut", "cap"]
    with pytest.raises(RuntimeError, match="heads"):
        ScorerSpec("anomalib_clipad.SDPPlus", ON_TINY).check([None])


@pytest.mark.parametrize("kind", ["ckpt_path", "onnx", "openvino"])
def test_damaged_files_are_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"model{ {'ckpt_path': '.ckpt', 'onnx': '.onnx', 'openvino': '.xml'}[kind] }"
    path.write_bytes(b"damaged" * 100)
    with pytest.raises(ValueError, match=rf"^Expected [^\n]*{path.name}[^\n]*$"):
        ScorerSpec(**{kind: str(path)}).check([None])


def test_wrong_combinations(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="one of ckpt_path, onnx and openvino, but got ckpt_path and onnx"):
        ScorerSpec(ckpt_path=str(path), onnx=str(path))
    with pytest.raises(ValueError, match="onnx alone, but got arguments of a model, class_name"):
        ScorerSpec(onnx=str(path), init_args={"class_name": "nut"})
    with pytest.raises(FileNotFoundError, match="openvino to be a file, but found none at"):
        ScorerSpec(openvino=str(tmp_path / "none.xml"))
    with pytest.raises(ValueError, match="threads to be at least 1, but got 0"):
        ScorerSpec(threads=0)
    with pytest.raises(ValueError, match="that ONNX Runtime can use here, cpu, but got 'tpu'"):
        ScorerSpec(onnx=str(path), device="tpu").make()


def test_what_scores_depend_on_is_described_by_content(tmp_path: Path) -> None:
    def described(**options: Any) -> str:
        return json.dumps(ScorerSpec(**options).describe())

    for folder, content in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / folder).mkdir()
        for name in ("heads.safetensors", "model.xml", "model.bin"):
            (tmp_path / folder / name).write_text(content)
    heads = {name: {"heads": str(tmp_path / name / "heads.safetensors"), "text_cache_dir": name} for name in "abc"}
    assert described(init_args=heads["a"]) == described(init_args=heads["b"]) != described(init_args=heads["c"])
    assert described(device="cuda", batch_size=3, threads=2) == described()
    model = described(openvino=str(tmp_path / "a/model.xml"))
    assert model == described(openvino=str(tmp_path / "b/model.xml"))
    (tmp_path / "a/model.bin").write_text("other weights")
    assert model != described(openvino=str(tmp_path / "a/model.xml"))
    assert "anomalib_clipad.SDP" not in model


def exported(*names: str) -> ExportedScorer:
    """A file that scores an image by the index of its class and its size."""
    described = {"class_names": names, "calibrated": [True] * len(names), "evidence": ["text"] * len(names)}

    def run(inputs: dict[str, Any]) -> tuple[Any, Any]:
        index = inputs.get("class_index", np.zeros(len(inputs["input"])))
        return index / 10 + inputs["input"].shape[-1] / 1000, index > 0

    return ExportedScorer(run, {key: json.dumps(value) for key, value in described.items()}, batch_size=2)


def test_exported_files_give_rows_too(tmp_path: Path) -> None:
    layouts.write_images(tmp_path / "a", 1, size=20)
    layouts.write_images(tmp_path / "b", 1, size=40)
    paths = [(tmp_path / "b/000.png", "cap"), (tmp_path / "none.png", "cap"), (tmp_path / "a/000.png", "nut")]
    images = [ListedImage(str(path), name, position=place) for place, (path, name) in enumerate(paths)]
    rows = exported("nut", "cap").score(images)
    assert [(row.class_name, row.score, row.label, row.error) for row in rows] == [
        ("cap", pytest.approx(0.14), "anomalous", None),
        ("cap", None, None, "No such file or directory"),
        ("nut", pytest.approx(0.02), "normal", None),
    ]
    assert set(asdict(rows[0])) == {each.name for each in fields(rows[0])}


def test_classes_that_a_file_does_not_know() -> None:
    exported("nut").check([None])
    exported("nut", "cap").check(["cap"])
    with pytest.raises(ValueError, match="knows, nut, cap, but got 'bolt'"):
        exported("nut", "cap").check(["cap", "bolt"])
    with pytest.raises(ValueError, match="knows, nut, cap, but got an image without one"):
        exported("nut", "cap").check([None])
