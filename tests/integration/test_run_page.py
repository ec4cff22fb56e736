# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The page of a run as people use it: looked through, filtered, marked, and calibrated by, in a real browser."""

import csv
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Page

import layouts
from anomalib_clipad import SyntheticDefects
from anomalib_clipad.prediction.page import PAGE_FILE, Gallery, Planes, write_page
from anomalib_clipad.prediction.page.gallery import EMBEDDED, FOLDER
from anomalib_clipad.prediction.table import PredictionRow
from browser import Visit, is_blank
from tiny import make_engine, sdp

pytestmark = pytest.mark.slow

HOSTILE = "<b>&{{ 7 }}\"' ö.png"


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run over ``photos``: four good images, three bad ones, one broken."""
    folder = tmp_path_factory.mktemp("predicted")
    layouts.write_images(folder / "photos/good", 4)
    layouts.write_images(folder / "photos/bad", 3, anomalous=True, seed=10)
    (folder / "photos/good/000.png").rename(folder / "photos/good" / HOSTILE)
    (folder / "photos/good/003.png").write_bytes(b"")
    make_engine(folder / "results").predict(sdp(class_name="nut", visualizer=False), data_path=folder / "photos")
    return folder


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Page of a test on two categories with masks."""
    folder = tmp_path_factory.mktemp("tested")
    counts = {"n_train": 1, "n_test_good": 3, "n_test_per_defect": 1}
    data = SyntheticDefects(folder / "data", categories=["wood", "gear"], **counts)
    make_engine(folder / "results").test(sdp(visualizer=False), datamodule=data, verbose=False)
    [path] = folder.rglob(PAGE_FILE)
    return path


def page_of(folder: Path) -> Path:
    [path] = folder.rglob(PAGE_FILE)
    return path


def cards(page: Page) -> list[str]:
    return page.locator(".card .words").all_inner_texts()


def data_of(path: Path) -> dict:
    text = path.read_text(encoding="utf-8").partition('id="data">')[2].partition("</script>")[0]
    return json.loads(text)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 320])  # 320: a window of 1280 at 400 % zoom
def test_the_page_is_shown_whole_and_asks_nobody(
    open_page: Callable[..., Visit], tested: Path, width: int, scheme: str
):
    seen = open_page(tested, viewport={"width": width, "height": 900}, color_scheme=scheme)
    seen.page.wait_for_selector(".card")
    assert not is_blank(seen.pixels())
    assert not any(seen.broken_pictures())
    assert seen.complaints == []
    assert seen.outside() == []
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_highest_score_comes_first_and_names_are_text(open_page: Callable[..., Visit], predicted: Path):
    page = open_page(page_of(predicted)).page
    with next(predicted.rglob("predictions.csv")).open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["error"]]
    rows.sort(key=lambda row: -float(row["score"]))
    assert [text.split()[0] for text in cards(page)] == [f"{float(row['score']):.3f}" for row in rows]
    assert page.locator(".card", has_text=HOSTILE).count() == 1
    assert page.locator("body b").all_inner_texts() == [text.split()[0] for text in cards(page)]
    assert "1 file could not be read" in page.locator("header").inner_text()
    assert "003.png" in page.locator(".facts").inner_text()


def test_filters_and_orders(open_page: Callable[..., Visit], tested: Path):
    page = open_page(tested).page
    total = len(data_of(tested)["images"])
    assert len(cards(page)) == total
    page.locator("#class").select_option("gear")
    assert all("gear/" in text for text in cards(page))
    assert page.locator("#shown").inner_text() == f"{total // 2} of {total} images"
    page.get_by_label("Show").select_option("known as good")
    assert len(cards(page)) == 3
    page.locator("#class").select_option("all")
    page.get_by_label("Show").select_option("all")
    page.get_by_label("Name").fill("GOOD/00")
    assert len(cards(page)) == 6
    page.get_by_label("Order").select_option("lowest score first")
    scores = [float(text.split()[0]) for text in cards(page)]
    assert scores == sorted(scores)


def test_the_slider_recolours_counts_and_gives_the_line_to_type(open_page: Callable[..., Visit], tested: Path):
    page = open_page(tested).page
    images = data_of(tested)["images"]
    for threshold in (0.0, 0.3, 0.8):
        page.locator("#threshold").fill(str(threshold))
        flagged = [image["s"] > threshold for image in images]
        assert page.locator(".card.flagged").count() == sum(flagged)
        assert f"{sum(flagged)} of {len(images)} images flagged" in page.locator("#counts").inner_text()
        shown = {kind: int(page.locator(f"[data-of={kind}]").inner_text()) for kind in ("hit", "miss", "alarm", "pass")}
        pairs = [(image["t"], flag) for image, flag in zip(images, flagged, strict=True)]
        known = {"hit": (True, True), "miss": (True, False), "alarm": (False, True), "pass": (False, False)}
        assert shown == {kind: pairs.count(pair) for kind, pair in known.items()}
        assert f"image_sensitivity {1 - threshold:.3f}" in page.locator("#command").inner_text()
    assert page.locator("#curves figcaption").count() == 2


def test_that_line_flags_the_same_images(open_page: Callable[..., Visit], predicted: Path):
    page = open_page(page_of(predicted)).page
    scores = sorted(image["s"] for image in data_of(page_of(predicted))["images"])
    page.locator("#threshold").fill(f"{(scores[2] + scores[3]) / 2:.3f}")
    line = page.locator("#command").inner_text().splitlines()[-1]
    clipad = sdp(class_name="nut")
    exec(line, {"clipad": clipad})
    assert (
        clipad.predict(predicted / "photos").pred_label.sum()
        == page.locator(".card.flagged").count()
        == len(scores) - 3
    )


def test_marks_are_made_by_keyboard_kept_and_calibrated_by(open_page: Callable[..., Visit], predicted: Path, tmp_path):
    seen = open_page(page_of(predicted), accept_downloads=True)
    page = seen.page
    page.locator(".card").first.focus()
    page.keyboard.press("Enter")
    marked = {}
    for _ in range(6):
        name = page.locator("#viewer-title").inner_text().partition(": ")[2]
        marked[name] = "bad" if name.startswith("bad/") else "good"
        page.keyboard.press(marked[name][0])
        page.keyboard.press("ArrowRight")
    page.keyboard.press("u")  # the last one, which stays in sight, is neither
    marked.pop(name)
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className").startswith("card")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save marks").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    photos = predicted / "photos"
    assert {(row["path"], row["class_name"], row["label"]) for row in rows} == {
        (str(photos / name), "nut", label) for name, label in marked.items()
    }
    page.reload()
    assert page.locator("#marked").inner_text().startswith(f"{len(marked)} marked")
    assert seen.complaints == []

    clipad = sdp().calibrate(labels=path)
    assert all(row.calibrated for row in clipad.predict(path))


def test_the_viewer_shows_the_photograph_itself(open_page: Callable[..., Visit], predicted: Path):
    page = open_page(page_of(predicted)).page
    page.locator(".card", has_text=HOSTILE).click()
    page.wait_for_function("document.querySelector('#stage img').src.startsWith('file:')")
    assert page.evaluate("document.querySelector('#stage img').naturalWidth") == layouts.DEFAULT_SIZE


def test_images_from_memory_are_shown(open_page: Callable[..., Visit], tmp_path: Path):
    image = np.zeros((60, 90, 3), dtype=np.uint8)
    image[20:40, 30:60] = (255, 0, 0)
    sdp().predict([image, torch.ones(3, 30, 30)], class_name="nut").save(tmp_path)
    seen = open_page(tmp_path / PAGE_FILE)
    assert len(cards(seen.page)) == 2
    assert not any(seen.broken_pictures())
    seen.page.locator(".card").first.click()
    assert seen.page.locator("[data-do=good]").is_disabled()  # there is no path to calibrate by


def test_ten_thousand_images_stay_usable(open_page: Callable[..., Visit], tmp_path: Path):
    path = large_page(tmp_path, 10_000)
    assert len(list((tmp_path / FOLDER).iterdir())) > EMBEDDED
    page = open_page(path).page
    page.wait_for_selector(".card")
    first = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000
    start = time.perf_counter()
    page.locator("#threshold").fill("0.9")
    page.get_by_label("Show").select_option("flagged")
    assert page.locator("#counts").inner_text() == "Threshold 0.900: 999 of 10000 images flagged."
    filtered = time.perf_counter() - start
    assert page.locator(".card").count() < 500
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.wait_for_function("document.querySelectorAll('.card').length > 60")
    assert first < 2
    assert filtered < 2


def large_page(folder: Path, count: int) -> Path:
    """A page of as many images, of scores spread evenly and twelve different pictures."""
    layouts.write_images(folder / "photos", 12)
    gallery = Gallery(folder)
    photos = sorted((folder / "photos").iterdir())
    for number in range(12):
        ramp = torch.linspace(0, 1, 240).expand(240, 240) * (number + 1) / 12
        row = PredictionRow(str(photos[number]), "nut", 0.0, "normal", 0.5, True, "text")
        gallery.add(row, Planes(ramp, ramp > 0.5))
    drawn = list(gallery.shown)
    gallery.shown = [
        replace(
            drawn[number % 12],
            row=replace(drawn[0].row, path=f"{folder}/photos/{number:05d}.png", score=number / count, position=number),
            photo=drawn[number % 12].photo + number.to_bytes(4, "big"),
        )
        for number in range(count)
    ]
    gallery.unload()
    return write_page(gallery, model="SDP")
