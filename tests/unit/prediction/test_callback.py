# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Prediction by anomalib's engine on a user's own images: tables, broken files, calibration without labels."""

import csv
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data import Folder, PredictDataset
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Resize

import layouts
from anomalib_clipad import SDP, ImageList
from tiny import make_engine, sdp


class Run:
    """A run of the engine in a folder, and what it leaves there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "results"

    def __call__(self, model: SDP, *, trainer: dict[str, Any] | None = None, **images: Any) -> list[Any]:
        engine = make_engine(self.folder, **(trainer or {}))
        return engine.predict(model, **images)

    def table(self) -> list[dict[str, str]]:
        [path] = self.folder.rglob("predictions.csv")
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def lines(self) -> list[dict[str, Any]]:
        [path] = self.folder.rglob("predictions.jsonl")
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]

    def pictures(self) -> set[str]:
        [images] = self.folder.rglob("images")
        return {path.relative_to(images).as_posix() for path in images.rglob("*.png")}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """``photos/{a,b}/{000,001,002}.png``; ``a/001.png`` and ``b/002.png`` are broken."""
    for name, seed in (("a", 0), ("b", 10)):
        layouts.write_images(tmp_path / "photos" / name, 3, seed=seed)
    (tmp_path / "photos/a/001.png").write_bytes(b"")
    truncated = tmp_path / "photos/b/002.png"
    truncated.write_bytes(truncated.read_bytes()[:700])
    return tmp_path / "photos"


NAMES = ["a/000.png", "a/001.png", "a/002.png", "b/000.png", "b/001.png", "b/002.png"]
READABLE = ["a/000.png", "a/002.png", "b/000.png", "b/001.png"]


def test_broken_files_are_listed_and_the_rest_is_done(run, photos, caplog):
    with caplog.at_level(logging.WARNING):
        predictions = run(sdp(class_name="nut"), data_path=photos)

    table = run.table()
    assert [path for batch in predictions for path in batch.image_path] == [str(photos / name) for name in READABLE]
    assert [row["path"] for row in table] == [str(photos / name) for name in NAMES]
    assert [row["path"] for row in table if not row["error"]] == [str(photos / name) for name in READABLE]
    assert run.pictures() == {f"photos/{name}" for name in READABLE}
    for name in sorted({*NAMES} - {*READABLE}):
        assert f"Skipped {photos / name}:" in caplog.text


def test_a_link_that_leads_nowhere_is_a_missing_file(run, photos):
    (photos / "a/link.png").symlink_to("nowhere.png")

    run(sdp(visualizer=False), data_path=photos)

    assert [row["error"] for row in run.table() if row["path"].endswith("link.png")] == ["No such file or directory"]


def test_both_tables_hold_what_the_engine_returns(run, photos):
    predictions = run(sdp(class_name="metal_nut", visualizer=False), data_path=photos)

    lines = [line for line in run.lines() if line["error"] is None]
    rows = [row for row in run.table() if not row["error"]]
    for line, row, batch in zip(lines, rows, predictions, strict=True):
        assert line["score"] == float(row["score"]) == pytest.approx(batch.pred_score.item(), abs=1e-7)
        assert line["label"] == row["label"] == ("anomalous" if batch.pred_label.item() else "normal")
        assert line["class_name"] == row["class_name"] == "metal_nut"
        assert line["threshold"] == float(row["threshold"]) == 0.5
        assert (line["calibrated"], row["calibrated"]) == (False, "false")
    assert {line["class_name"] for line in run.lines()} == {"metal_nut"}


def test_classes_of_a_list_are_told_apart(run, photos):
    (photos / "images.csv").write_text("b/000.png,nut\na/000.png,carpet\nmissing.png,carpet\n", encoding="utf-8")

    run(sdp(), datamodule=ImageList(photos / "images.csv", num_workers=0))

    assert [(Path(row["path"]).name, row["class_name"], bool(row["score"])) for row in run.table()] == [
        ("000.png", "nut", True),
        ("000.png", "carpet", True),
        ("missing.png", "carpet", False),
    ]
    assert len(run.pictures()) == 2


def test_nothing_readable_is_an_error_and_listed(run, photos):
    with pytest.raises(OSError, match=r"can be read, but got none\. .*001\.png: not an image"):
        run(sdp(visualizer=False), data_path=photos / "a/001.png")

    assert [row["error"] for row in run.table()] == ["not an image, or of an unknown format"]


def test_loaders_keep_their_batch_size_in_python(run, photos):
    loader = DataLoader(PredictDataset(photos), batch_size=4, collate_fn=PredictDataset(photos).collate_fn)

    predictions = run(sdp(visualizer=False), dataloaders=loader)

    assert [len(batch.image_path) for batch in predictions] == [3, 1]


def test_a_dataset_with_a_transform_of_its_own_is_left_alone(run, photos):
    dataset = PredictDataset(photos / "b/000.png", transform=Resize((40, 40)))

    [batch] = run(sdp(visualizer=False), dataset=dataset)

    assert batch.pred_score.item() != run(sdp(visualizer=False), data_path=photos / "b/000.png")[0].pred_score.item()


def test_labelled_datamodules_get_tables_too(run, tmp_path):
    root = layouts.write_folder(tmp_path / "data")
    datamodule = Folder("gaskets", root=root, normal_dir="normal", abnormal_dir="abnormal", num_workers=0)

    batches = run(sdp(visualizer=False), datamodule=datamodule)

    table = run.table()
    assert [row["path"] for row in table] == [path for batch in batches for path in batch.image_path]
    assert {row["calibrated"] for row in table} == {"true"}


class TestCalibrateUnlabelled:
    @pytest.fixture
    def pool(self, tmp_path: Path) -> Path:
        """20 images of one class, too few (3) of another, and a broken file."""
        layouts.write_images(tmp_path / "pool/nut", 14)
        layouts.write_images(tmp_path / "pool/nut_bad", 6, anomalous=True, seed=50, size=64)
        layouts.write_images(tmp_path / "pool/carpet", 3, seed=100)
        (tmp_path / "pool/nut/broken.png").write_bytes(b"")
        files = sorted((tmp_path / "pool").rglob("*.png"))
        lines = [f"{path},{path.parent.name.removesuffix('_bad')}\n" for path in files]
        (tmp_path / "pool/images.csv").write_text("".join(lines), encoding="utf-8")
        return tmp_path / "pool/images.csv"

    def test_calibrates_each_class_on_the_images_of_the_run(self, run, pool):
        run(
            sdp(calibrate_unlabelled=True, visualizer=False),
            datamodule=ImageList(pool, num_workers=0),
        )

        expected = sdp()
        expected.calibrate(pool)
        read = [row for row in run.table() if not row["error"]]
        torch.testing.assert_close(
            torch.tensor([float(row["score"]) for row in read]), expected.predict(pool).pred_score, rtol=0, atol=1e-6
        )
        assert {(row["class_name"], row["calibrated"]) for row in read} == {("nut", "true"), ("carpet", "false")}
        assert len([row for row in run.table() if row["error"]]) == 1  # though it was met twice

    def test_sees_only_the_images_of_the_run(self, run, pool):
        model = sdp(calibrate_unlabelled=True, visualizer=False)
        run(model, datamodule=ImageList(pool, batch_size=5, num_workers=0), trainer={"limit_predict_batches": 2})

        # Ten images of one class are too few to calibrate on.
        assert {row["calibrated"] for row in run.table()} == {"false"}
        assert len(run.table()) == 10

    def test_refuses_a_post_processor_that_has_no_ranges(self, run, pool):
        model = sdp(calibrate_unlabelled=True, visualizer=False, post_processor=False)

        with pytest.raises(RuntimeError, match="Expected post_processor to be a CategoryPostProcessor for calibration"):
            run(model, datamodule=ImageList(pool, num_workers=0))
