# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What is scored is kept, with its picture, also across restarts."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import layouts
from anomalib_clipad import SDP
from anomalib_clipad.data.image_files import read_image
from anomalib_clipad.prediction.page import PAGE_FILE
from anomalib_clipad.prediction.page.gallery import FOLDER
from anomalib_clipad.prediction.table import CSV_FILE, JSON_FILE
from anomalib_clipad.scale.album import SIDE_FILE, album_of
from anomalib_clipad.scale.journal import Journal
from anomalib_clipad.scale.notify import Outbox
from anomalib_clipad.scale.recorder import Recorder, Taken
from tiny import sdp


@pytest.fixture(scope="module")
def model() -> SDP:
    return sdp(class_name="nut", visualizer=False)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    layouts.write_images(folder, 6)
    return sorted(folder.iterdir())


def start(model: SDP, folder: Path, *, most: int = 100, refresh: float = 0.0) -> Recorder:
    journal = Journal(folder)
    album = album_of(journal, folder, most, "SDP")
    return Recorder(model, folder, journal, Outbox(folder), album, refresh)


def take(path: Path, stamp: tuple[int, int] = (1, 1)) -> Taken:
    return Taken(str(path), read_image(path), stamp=stamp)


def shown(folder: Path) -> list[dict]:
    text = (folder / PAGE_FILE).read_text(encoding="utf-8").partition('id="data">')[2].partition("</script>")[0]
    return json.loads(text)["images"]


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / CSV_FILE).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_scores_are_those_of_prediction(model: SDP, photos: list[Path], tmp_path: Path) -> None:
    recorder = start(model, tmp_path)
    recorder.record([take(path) for path in photos[:4]])
    recorder.record([Taken("clip#000004", np.array(layouts.draw(4, anomalous=False)[0]), seconds=0.4)])
    recorder.report(last=True)

    expected = model.predict(photos[:5])
    lines = [json.loads(line) for line in (tmp_path / JSON_FILE).read_text().splitlines()]
    assert [line["score"] for line in lines] == pytest.approx([row.score for row in expected], abs=1e-5)
    assert [line["path"] for line in lines] == [*map(str, photos[:4]), "clip#000004"]
    assert [len(line["regions"]) for line in lines] == [len(row.regions) for row in expected]
    assert [line["time"] for line in lines] == [None] * 4 + [0.4]
    assert [row["path"] for row in table(tmp_path)] == [line["path"] for line in lines]


def test_the_page_is_the_same_after_a_restart(model: SDP, photos: list[Path], tmp_path: Path) -> None:
    recorder = start(model, tmp_path)
    recorder.record([take(path) for path in photos[:3]])
    recorder.report(last=True)
    before = (tmp_path / PAGE_FILE).read_bytes()
    (tmp_path / PAGE_FILE).unlink()

    recorder = start(model, tmp_path)
    recorder.report(last=True)
    assert (tmp_path / PAGE_FILE).read_bytes() == before
    recorder.record([take(photos[3])])
    recorder.report(last=True)
    assert [image["n"] for image in shown(tmp_path)] == [path.name for path in photos[:4]]
    assert all((tmp_path / image[key]).is_file() for image in shown(tmp_path) for key in ("f", "m"))


def test_pictures_of_an_image_that_was_not_done_are_forgotten(
    model: SDP, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = start(model, tmp_path)
    recorder.record([take(photos[0])])
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", lambda self, entries: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            recorder.record([take(photos[1])])

    recorder = start(model, tmp_path)
    recorder.record([take(photos[2])])  # takes the place of the other one
    recorder = start(model, tmp_path)
    recorder.report(last=True)
    assert [image["n"] for image in shown(tmp_path)] == [photos[0].name, photos[2].name]
    assert len({image["f"] for image in shown(tmp_path)}) == 2
    used = {image[key].partition("/")[2] for image in shown(tmp_path) for key in ("f", "m")}
    assert {path.name for path in (tmp_path / FOLDER).iterdir()} == {*used, SIDE_FILE}


def test_a_replaced_file_is_shown_once_as_it_is_now(model: SDP, photos: list[Path], tmp_path: Path) -> None:
    recorder = start(model, tmp_path)
    recorder.record([take(photos[0]), take(photos[1])])
    recorder.record([Taken(str(photos[0]), read_image(photos[2]), stamp=(2, 2))])
    recorder.report(last=True)
    assert [row["path"] for row in table(tmp_path)] == [str(photos[1]), str(photos[0])]
    assert [image["n"] for image in shown(tmp_path)] == [photos[1].name, photos[0].name]
    assert len((tmp_path / JSON_FILE).read_text().splitlines()) == 3


def test_the_page_shows_the_newest_and_the_tables_all(model: SDP, photos: list[Path], tmp_path: Path) -> None:
    recorder = start(model, tmp_path, most=2)
    recorder.record([take(path) for path in photos])
    for _ in range(2):
        recorder.report(last=True)
        assert [image["n"] for image in shown(tmp_path)] == [path.name for path in photos[-2:]]
        assert len(table(tmp_path)) == len(photos)
        recorder = start(model, tmp_path, most=2)


def test_what_cannot_be_read_or_does_not_fit_is_listed(photos: list[Path], tmp_path: Path) -> None:
    model = sdp(class_name="nut", visualizer=False, resize="keep")
    recorder, narrow = start(model, tmp_path), torch.zeros(3, 500, 2)
    rows = recorder.record([Taken("broken.png", error="not an image"), Taken("narrow.png", narrow), take(photos[0])])
    rows += recorder.record([Taken("narrow.png", narrow)])
    assert [row.error and row.error[:25] for row in rows] == [
        "not an image",
        "Expected both sides of an",
        None,
        "Expected both sides of an",
    ]
    recorder.report(last=True)
    assert [row["error"][:12] for row in table(tmp_path)] == ["not an image", "", "Expected bot"]
    assert "not an image" in (tmp_path / PAGE_FILE).read_text(encoding="utf-8")


def test_tables_and_page_are_not_written_too_often(model: SDP, photos: list[Path], tmp_path: Path) -> None:
    recorder = start(model, tmp_path, refresh=1000)
    recorder.record([take(photos[0])])
    recorder.report()
    recorder.record([take(photos[1])])
    recorder.report()
    assert len(table(tmp_path)) == 1
    recorder.report(last=True)
    assert len(table(tmp_path)) == 2
    (tmp_path / CSV_FILE).unlink()
    recorder.report(last=True)  # nothing new
    assert not (tmp_path / CSV_FILE).exists()


def test_lost_pictures_are_said(
    model: SDP, photos: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = start(model, tmp_path)
    recorder.record([take(photos[0])])
    (tmp_path / FOLDER / SIDE_FILE).unlink()
    start(model, tmp_path).report(last=True)
    assert "The page leaves out 1 images whose pictures are gone; the tables have them." in caplog.text
    assert len(table(tmp_path)) == 1
