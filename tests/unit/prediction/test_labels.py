# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds by labelled images, as the page of a run saves them."""

import logging
from pathlib import Path

import pytest
import torch
from sklearn.metrics import f1_score

import layouts
from anomalib_clipad.data.image_list import read_labels
from tiny import make_engine, sdp


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    """Six good and four bad images, and a table of them."""
    layouts.write_images(tmp_path / "good", 6)
    layouts.write_images(tmp_path / "bad", 4, anomalous=True, seed=20)
    lines = [f"{path.parent.name}/{path.name},nut,{path.parent.name}" for path in sorted(tmp_path.glob("*/*.png"))]
    (tmp_path / "marked.csv").write_text("\n".join(["path,class_name,label", *lines]), encoding="utf-8")
    return tmp_path / "marked.csv"


def test_labels_are_read_with_their_paths(marked):
    labels = read_labels(marked)
    assert len(labels) == 10
    assert all(bad == (Path(path).parent.name == "bad") and Path(path).is_file() for path, bad in labels.items())


def test_thresholds_are_those_of_highest_f1(marked):
    clipad = sdp().calibrate(labels=marked)
    predictions = clipad.predict(marked)
    truth = torch.tensor([Path(item.path).parent.name == "bad" for item in predictions])
    scores, maxima = predictions.pred_score, predictions.anomaly_map.amax(dim=(-2, -1))
    for values, decided in ((scores, predictions.pred_label), (maxima, predictions.pred_mask.flatten(1).any(dim=1))):
        best = max(f1_score(truth, values >= threshold) for threshold in values)
        assert f1_score(truth, decided) == pytest.approx(best)
    assert all(item.calibrated for item in predictions)


def test_the_engine_calibrates_before_it_predicts(marked, tmp_path):
    model = sdp(labels=str(marked), visualizer=False)
    make_engine(tmp_path / "results").predict(model, data_path=marked.parent / "good")
    assert model.post_processor.image_thresholds == sdp().calibrate(labels=marked).post_processor.image_thresholds


def test_one_kind_alone_is_told(marked, tmp_path, caplog):
    lines = marked.read_text("utf-8").splitlines()
    for kind, warning in (("bad", "4 anomalous ones only"), ("good", "6 normal ones")):
        path = tmp_path / f"{kind}.csv"
        path.write_text("\n".join(line for line in lines if line.endswith((kind, "label"))), encoding="utf-8")
        with caplog.at_level(logging.WARNING):
            sdp().calibrate(labels=path)
        assert warning in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,class_name\ngood/000.png,nut", r"label, good or bad, in .*:2, but got ''"),
        ("path,label\ngood/000.png,anomalous", "what a model said is no label"),
        ("path,label", "it is empty"),
        ("path,label\n,good", "Expected a path in"),
    ],
)
def test_what_is_no_label_is_refused(marked, content, message):
    marked.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        sdp().calibrate(labels=marked)


def test_labels_stand_alone(marked):
    with pytest.raises(ValueError, match="Expected labels alone"):
        sdp().calibrate("photos", labels=marked)
    with pytest.raises(ValueError, match="got neither"):
        sdp().calibrate()
    with pytest.raises(ValueError, match="by labels or by known_good"):
        sdp(labels=str(marked), known_good="photos")
    with pytest.raises(ValueError, match="by labels or by calibrate_unlabelled"):
        sdp(labels=str(marked), calibrate_unlabelled=True)
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        sdp().calibrate(labels=marked.with_name("none.csv"))
