# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What the page of a run is made of; the page itself is looked at in a browser, see tests/integration."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import Folder
from PIL import ExifTags, Image

import layouts
from anomalib_clipad.prediction.page import PAGE_FILE, Gallery, Planes, gallery, write_page
from anomalib_clipad.prediction.page.gallery import FOLDER
from anomalib_clipad.prediction.table import PredictionRow
from tiny import make_engine, sdp

RAMP = torch.linspace(0, 1, 48).expand(48, 48)


def row(path: str | Path, position: int = 0, score: float = 0.5) -> PredictionRow:
    return PredictionRow(str(path), "nut", score, "normal", 0.5, True, "text", position=position)


def gallery_of(folder: Path, count: int) -> Gallery:
    layouts.write_images(folder / "photos", count)
    found = Gallery(folder)
    for number, path in enumerate(sorted((folder / "photos").iterdir())):
        found.add(row(path, number), Planes(RAMP * (number + 1) / count))
    return found


def data_of(path: Path) -> dict:
    return json.loads(path.read_text("utf-8").partition('id="data">')[2].partition("</script>")[0])


def test_few_pictures_are_in_the_file_and_many_beside_it(tmp_path, monkeypatch):
    embedded = write_page(gallery_of(tmp_path / "few", 3))
    assert all(image["f"].startswith("data:image/jpeg") for image in data_of(embedded)["images"])
    assert not (embedded.parent / FOLDER).exists()

    monkeypatch.setattr(gallery, "EMBEDDED", 2)
    beside = write_page(gallery_of(tmp_path / "many", 5))
    images = data_of(beside)["images"]
    assert [image["n"] for image in images] == [f"{number:03d}.png" for number in range(5)]
    assert all((beside.parent / image[key]).is_file() for image in images for key in ("f", "m"))


def test_pictures_of_an_earlier_page_go_when_the_next_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "EMBEDDED", 2)
    write_page(gallery_of(tmp_path, 5))
    kept = {*(tmp_path / FOLDER).iterdir()}
    unwritten = gallery_of(tmp_path, 4)  # a run that is killed before its page is written
    assert {*(tmp_path / FOLDER).iterdir()} >= kept
    write_page(unwritten)
    assert {*(tmp_path / FOLDER).iterdir()} != kept
    monkeypatch.setattr(gallery, "EMBEDDED", 9)
    write_page(gallery_of(tmp_path, 3))
    assert not (tmp_path / FOLDER).exists()


def test_names_cannot_leave_the_data(tmp_path):
    name = "</script><script>alert(1)</script>\u2028.png"
    found = Gallery(tmp_path)
    found.add(row(f"{tmp_path}/{name.replace('/', '')}"), Planes(RAMP))
    text = write_page(found, model="<b>").read_text("utf-8")
    assert "<script>alert" not in text
    assert "<b>" not in text


def test_a_page_of_nothing_but_broken_files_and_of_files_that_are_gone(tmp_path):
    found = Gallery(tmp_path)
    write_page(found, [PredictionRow("a.png", "nut", error="truncated")])
    assert "truncated" in (tmp_path / PAGE_FILE).read_text("utf-8")
    found.add(row(tmp_path / "gone.png"), Planes(RAMP))
    [image] = data_of(write_page(found))["images"]
    assert image["f"] is None
    assert (image["h"], image["w"]) == (48, 48)


def test_maps_lie_on_the_photograph_where_the_model_saw_it(tmp_path):
    Image.new("RGB", (80, 40)).save(tmp_path / "wide.png")
    # The image fills the middle of a square input, as with resize="pad".
    seen = torch.zeros(80, 80)
    seen[20:40] = 1.0
    found = Gallery(tmp_path)
    found.add(row(tmp_path / "wide.png"), Planes(seen, seen > 0.5, box=(0.0, 20.0, 80.0, 60.0)))
    [shown] = found.shown
    assert shown.size == (40, 80)
    assert shown.outline == "M0.5 0.5L0.5 19.5L79.5 19.5L79.5 0.5Z"


def test_colours_span_what_the_maps_hold(tmp_path):
    found = Gallery(tmp_path)
    for level in (0.2, 0.2, 0.6):
        found.add(row(""), Planes(torch.full((8, 8), level)))
    low, high = found.limits()
    assert low == pytest.approx(0.2, abs=0.01)
    assert high == pytest.approx(np.quantile([0.2, 0.2, 0.6], 0.95), abs=0.01)


def test_several_processes_make_one_gallery_of_each_image_once(tmp_path):
    first, second = gallery_of(tmp_path, 2), gallery_of(tmp_path, 3)
    joined = Gallery.joined([first, second])
    assert [Path(each.row.path).name for each in joined.shown] == ["000.png", "001.png", "002.png"]


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_photograph_that_browsers_turn_is_not_shown_at_full_size(tmp_path, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (60, 30)).save(tmp_path / "a.jpg", exif=exif)
    found = Gallery(tmp_path)
    found.add(row(tmp_path / "a.jpg"), Planes(RAMP))
    [image] = data_of(write_page(found))["images"]
    assert bool(image["u"]) == (orientation == 1)


def test_tests_leave_a_page_with_truth_and_none_where_it_is_not_wanted(tmp_path):
    layouts.write_images(tmp_path / "good", 2)
    layouts.write_images(tmp_path / "bad", 2, anomalous=True, masks=f"{tmp_path}/masks/{{stem}}.png")
    folders = {"normal_dir": "good", "abnormal_dir": "bad", "normal_test_dir": "good", "mask_dir": "masks"}
    options = {"train_batch_size": 1, "eval_batch_size": 2, "num_workers": 0, "val_split_mode": "same_as_test"}
    data = Folder("nut", root=tmp_path, **folders, **options)
    make_engine(tmp_path / "with").test(sdp(visualizer=False), datamodule=data, verbose=False)
    [path] = (tmp_path / "with").rglob(PAGE_FILE)
    found = data_of(path)
    assert [image["t"] for image in found["images"]].count(True) == 2
    assert all(bool(image["g"]) == image["t"] for image in found["images"])
    [(x, y)] = found["pro"].values()
    assert (x[0], x[-1]) == (0.0, 0.3)
    assert y == sorted(y)
    make_engine(tmp_path / "without").test(sdp(visualizer=False, page=False), datamodule=data, verbose=False)
    assert not [*(tmp_path / "without").rglob(PAGE_FILE)]
