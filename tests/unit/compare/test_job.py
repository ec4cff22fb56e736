# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""One job: what models have in common, whatever they are."""

import shutil

import cv2
import numpy as np
import pytest

from anomalib_clipad.compare.config import make_config
from anomalib_clipad.compare.grid import JobSpec, expand
from anomalib_clipad.compare.job import CompareJob, Place
from anomalib_clipad.compare.records import Record, job_folder, read_images, read_record, write_record

UNTRAINED = {"backbone": "resnet18", "layers": ["layer1"], "pre_trained": False, "n_features": 5}
MODELS = {
    "SDP": {"class_path": "anomalib_clipad.SDP", "init_args": {"backbone": "clipad-tiny"}},
    "Padim": {"class_path": "anomalib.models.Padim", "init_args": UNTRAINED},
}


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, JobSpec]:
    """SDP and Padim on a folder without normal test images: the host draws them from the others at random."""
    root = tmp_path_factory.mktemp("folder")
    random = np.random.default_rng(0)
    for kind, count in (("good", 12), ("bad", 2)):
        (root / kind).mkdir()
        for index in range(count):
            cv2.imwrite(str(root / kind / f"{index}.png"), random.integers(0, 255, (48, 48, 3), np.uint8))
    folder = {
        "class_path": "anomalib.data.Folder",
        "init_args": {
            "name": "gasket",
            "root": str(root),
            "normal_dir": "good",
            "abnormal_dir": "bad",
            "test_split_ratio": 0.5,
            "num_workers": 0,
        },
    }
    return {spec.model: spec for spec in expand(make_config(MODELS, {"folder": folder}))}


@pytest.mark.slow
def test_models_that_draw_random_numbers_test_on_the_same_images(specs, tmp_path):
    place = Place(tmp_path, "cpu")
    records = {model: CompareJob(spec, place).run() for model, spec in specs.items()}

    assert {record.error for record in records.values()} == {None}
    paths = {model: read_images(tmp_path, record.job).image_path.tolist() for model, record in records.items()}
    assert len(paths["SDP"]) == 4  # half of 2 bad and 6 good ones; the host validates on the others
    assert paths["SDP"] == paths["Padim"]
    for record in records.values():
        assert 0 <= record.metrics["image_AUROC"] <= 1
        assert np.isnan(record.metrics["pixel_AUPRO"])  # there are no masks
        assert record.provenance.metrics.endswith("but without its clamp of scores; AUPRO to FPR 0.3")


def test_what_a_kill_left_behind_is_removed_and_an_error_recorded(specs, tmp_path):
    broken = {"SDP": {"class_path": "anomalib_clipad.SDP", "init_args": {"backbone": "clipad-tiny", "image_size": 121}}}
    dataset = {"gasket": {"class_path": "anomalib.data.Folder", "init_args": {"name": "x", "normal_dir": "good"}}}
    [spec] = expand(make_config(broken, dataset))
    left = job_folder(tmp_path, spec.id) / "tmp1234"
    left.mkdir(parents=True)

    record = CompareJob(spec, Place(tmp_path, "cpu")).run()

    assert not left.exists()
    assert record == read_record(tmp_path, spec.id)
    assert record.status == "failed"
    assert record.error.startswith("ValueError: Expected image_size to be a multiple of the patch size")
    assert "test_job" not in record.traceback
    assert "resolve_size" in record.traceback


def test_an_interrupt_is_not_taken_for_a_failure(specs, tmp_path, monkeypatch):
    def interrupt(self: CompareJob, *_: object) -> Record:
        raise KeyboardInterrupt

    monkeypatch.setattr(CompareJob, "_run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        CompareJob(specs["SDP"], Place(tmp_path, "cpu")).run()
    assert read_record(tmp_path, specs["SDP"].id) is None


def test_a_damaged_record_is_named(specs, tmp_path):
    spec = specs["SDP"]
    record = Record(
        job=spec.id, status="failed", model="SDP", class_path="a.B", init_args={}, dataset="d", category="c", seed=1
    )
    path = write_record(tmp_path, record)
    assert read_record(tmp_path, spec.id) == record
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"Expected .*record.json to be a record of a comparison"):
        read_record(tmp_path, spec.id)
    shutil.rmtree(path.parent)
    assert read_record(tmp_path, spec.id) is None
