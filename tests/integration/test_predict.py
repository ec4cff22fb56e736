# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Prediction on a user's own images as it is typed: folders, files and CSV files, and the Python API."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

import layouts
from terminal import Terminal
from tiny import ON_TINY

pytestmark = pytest.mark.slow

SDP = ("--model", "anomalib_clipad.SDP", *ON_TINY)


def read(folder: Path) -> list[dict[str, str]]:
    """Rows of the CSV file, which those of the JSON lines equal."""
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text("utf-8").splitlines()]
    assert [line["path"] for line in lines] == [row["path"] for row in table]
    assert [str(line["score"] or "") for line in lines] == [row["score"] for row in table]
    return table


def test_a_folder_with_broken_files(anomalib: Terminal) -> None:
    for name in ("a", "b"):
        layouts.write_images(anomalib.folder / "photos" / name, 5)
    (anomalib.folder / "photos/b/001.png").write_text("no image")

    output = anomalib("predict", *SDP, "--model.class_name", "gasket", "--data", "photos", succeeds=False)

    assert "1 of 10 files could not be read, see predictions.csv. The rest is done." in output
    assert "Traceback" not in output
    results = anomalib.folder / "results/SDP/latest"
    table = read(results)
    assert [row["error"] != "" for row in table] == [False] * 6 + [True] + [False] * 3
    pictures = {path.relative_to(results / "images").as_posix() for path in results.rglob("images/**/*.png")}
    assert pictures == {f"photos/{Path(row['path']).parent.name}/{Path(row['path']).name}" for row in table} - {
        "photos/b/001.png"
    }


def test_two_processes_write_one_table_and_page_with_each_image_once(anomalib: Terminal) -> None:
    layouts.write_images(anomalib.folder / "photos", 11)
    (anomalib.folder / "photos/004.png").write_text("no image")
    command = ("predict", *SDP, "--model.class_name", "nut", "--model.visualizer", "false", "--data", "photos")
    results = anomalib.folder / "results/SDP/latest"
    anomalib(*command, succeeds=False)
    expected = read(results)
    (results / "report.html").unlink()

    devices = ("--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp")
    output = anomalib(*command, *devices, succeeds=False)

    assert "2 processes" in output
    assert "1 of 11 files could not be read" in output
    table = read(results)
    assert [row["path"] for row in table] == [row["path"] for row in expected]
    for row, other in zip(table, expected, strict=True):
        assert float(row.pop("score") or -1) == pytest.approx(float(other.pop("score") or -1), abs=1e-6)
        assert row == other
    page = (results / "report.html").read_text("utf-8")
    assert [page.count(f'"n":"{number:03d}.png"') for number in range(11)] == [1, 1, 1, 1, 0, *[1] * 6]


def test_a_list_of_several_classes_calibrated_on_itself(anomalib: Terminal) -> None:
    lines = ["path,class_name"]
    for name in ("nut", "carpet"):
        layouts.write_images(anomalib.folder / name, 16)
        layouts.write_images(anomalib.folder / name / "more", 5, anomalous=True, seed=50)
        lines += [f"{path},{name}" for path in sorted((anomalib.folder / name).rglob("*.png"))]
    (anomalib.folder / "images.csv").write_text("\n".join(lines))

    anomalib(
        *("predict", *SDP, "--model.calibrate_unlabelled", "true", "--model.visualizer", "false"),
        *("--data", "anomalib_clipad.ImageList", "--data.path", "images.csv", "--data.batch_size", "4"),
    )

    table = read(anomalib.results("ImageList"))
    assert [row["class_name"] for row in table] == ["nut"] * 21 + ["carpet"] * 21
    assert {row["calibrated"] for row in table} == {"true"}
    assert all((float(row["score"]) > float(row["threshold"])) == (row["label"] == "anomalous") for row in table)


def test_a_single_file_and_the_heads_of_sdp_plus(anomalib: Terminal) -> None:
    layouts.write_images(anomalib.folder, 1)

    anomalib(
        "predict", "--model", "anomalib_clipad.SDPPlus", *ON_TINY, "--model.heads", "embedded", "--data", "000.png"
    )

    [row] = read(anomalib.folder / "results/SDPPlus/latest")
    assert (Path(row["path"]).name, row["class_name"], row["error"]) == ("000.png", "object", "")


def test_tiles_of_photographs_of_any_size_with_boxes_in_the_pictures(anomalib: Terminal) -> None:
    for number, (width, height) in enumerate(((300, 200), (190, 330))):
        photo = Image.effect_noise((width, height), 20).convert("RGB")
        ImageDraw.Draw(photo).ellipse((100, 120, 116, 136), fill=(0, 0, 0))
        (anomalib.folder / "photos").mkdir(exist_ok=True)
        photo.save(anomalib.folder / f"photos/{number}.png")
    options = ("--model.tiles.size", "96", "--model.tiles.overlap", "0.3", "--model.regions.boxes", "true")

    anomalib("predict", *SDP, "--model.class_name", "gasket", *options, "--data", "photos")

    results = anomalib.folder / "results/SDP/latest"
    assert [Path(row["path"]).name for row in read(results)] == ["0.png", "1.png"]
    assert len(list(results.rglob("images/**/*.png"))) == 2
    lines = [json.loads(line) for line in (results / "predictions.jsonl").read_text("utf-8").splitlines()]
    for line, (width, height) in zip(lines, ((300, 200), (190, 330)), strict=True):
        assert all(left + across <= width for left, _, across, _ in (region["box"] for region in line["regions"]))
        assert all(top + down <= height for _, top, _, down in (region["box"] for region in line["regions"]))
