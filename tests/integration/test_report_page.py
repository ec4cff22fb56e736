# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The page of a comparison as people see it: opened in a real browser, without a window and without network."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Locator

import warm
from anomalib_clipad.compare.expected import write_expected
from anomalib_clipad.compare.report import CSV_FILE, MARKDOWN_FILE, PAGE_FILE, write_report
from browser import Visit, is_blank
from comparisons import expectation, failed_job, job, write_comparison
from terminal import CLIPAD

pytestmark = pytest.mark.slow

HOSTILE = "<b>Patch</b> & \"Core\" {{ 7 * 7 }} <script>alert('x')</script>"


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets, three models, a failure, a run that lacks, a picture that is gone, and a name full of markup."""
    records = [
        job("SDP", "bottle", metrics={"image_AUROC": 0.8, "pixel_AUPRO": 0.5}),
        job("SDP", "cable", metrics={"image_AUROC": 0.7, "pixel_AUPRO": 0.6}),
        job("SDP+", "bottle", metrics={"image_AUROC": 0.95, "pixel_AUPRO": 0.9}),
        job("SDP+", "cable", metrics={"image_AUROC": 0.9, "pixel_AUPRO": 0.9}),
        job(HOSTILE, "bottle", job="hostile-bottle", metrics={"image_AUROC": 0.6, "pixel_AUPRO": 0.2}),
        failed_job(HOSTILE, "cable", job="hostile-cable", error="RuntimeError: <i>no luck</i>"),
        job("SDP", "candle", dataset="VisA"),
    ]
    folder = tmp_path_factory.mktemp("comparison")
    output = write_comparison(folder / "output", records, jobs=[*(each.job for each in records), "not-over"])
    (folder / "data/bottle/test/broken/004.png").unlink()
    write_expected(
        output,
        [
            expectation("SDP", "image_AUROC", 75.4, ["SDP-bottle-0", "SDP-cable-0"]),
            expectation("SDP+", "image_AUROC", 90.4, ["SDP+-bottle-0", "SDP+-cable-0"]),
            expectation(HOSTILE, "pixel_AUPRO", 20.0, ["hostile-bottle", "hostile-cable"]),
        ],
    )
    write_report(output)
    return output


@pytest.fixture
def visit(open_page: Callable[..., Visit], output: Path) -> Callable[..., Visit]:
    """Opens a page, that of the comparison by default; options are those of a browser context."""
    return lambda path=output / PAGE_FILE, **options: open_page(path, **options)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_shown_whole_and_asks_nobody(visit, width: int, scheme: str) -> None:
    seen = visit(viewport={"width": width, "height": 900}, color_scheme=scheme)
    pixels = seen.pixels()

    assert not is_blank(pixels)
    assert (np.median(pixels) > 200) == (scheme == "light")
    assert len(seen.all("article img", "i => 1")) >= 3 * 6  # a picture and a map at least of six images a category
    assert not any(seen.broken_pictures())
    assert seen.complaints == []
    assert seen.outside() == []
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_checks_see_what_is_wrong(visit, tmp_path: Path) -> None:
    (tmp_path / "empty.html").write_text("<!DOCTYPE html><title>empty</title>", encoding="utf-8")
    (tmp_path / "wrong.html").write_text(
        '<img alt="torn" src="data:image/png;base64,AAAA"><img alt="far" src="http://127.0.0.1:9/x.png">'
        '<script>console.error("spoken"); missing();</script>',
        encoding="utf-8",
    )
    assert is_blank(visit(tmp_path / "empty.html").pixels())
    wrong = visit(tmp_path / "wrong.html")
    assert [name.split(":")[0] for name in wrong.broken_pictures()] == ["torndata", "farhttp"]
    assert any("spoken" in complaint for complaint in wrong.complaints)
    assert any("missing is not defined" in complaint for complaint in wrong.complaints)
    assert wrong.outside() == ["http://127.0.0.1:9/x.png"]


def test_names_and_errors_are_text(visit) -> None:
    page = visit().page
    assert page.locator("caption + thead + tbody th[scope=row]").nth(2).inner_text() == HOSTILE
    assert "<i>no luck</i>" in page.locator(".error").inner_text()
    assert page.locator("body i, body b").count() == 0
    assert page.locator("header").get_by_text("7 of 8 jobs have finished").is_visible()
    assert page.locator("header").get_by_text("1 of 8 jobs failed").is_visible()


def test_expected_figures_stand_beside_measured_ones(visit) -> None:
    page = visit().page
    page.locator("#d0-expected").scroll_into_view_if_needed()
    table = page.get_by_role("region", name="Measured and expected")
    rows = [row.split("\t")[1:] for row in table.locator("tbody tr").all_inner_texts()]
    assert rows == [
        ["image AUROC", "75.0", "75.4", "-0.4", "yes"],
        ["image AUROC", "92.5", "90.4", "+2.1", "no"],
        ["pixel AUPRO", "–", "20.0", "–", "not measured (1/2 runs)"],
    ]
    weights = table.locator("tbody td:last-child").evaluate_all("all => all.map(td => getComputedStyle(td).fontWeight)")
    assert weights == ["400", "700", "400"]
    assert page.locator("#d1-expected").count() == 0


def test_a_picture_that_is_gone_leaves_a_note(visit) -> None:
    row = visit().page.locator("article", has_text="bottle: broken/004.png")
    assert row.get_by_text("image file not found").is_visible()
    assert row.locator("img").count() == 1 + 3  # its mask, and the map of each model


def test_the_gallery_is_filtered_by_category(visit) -> None:
    seen = visit()
    section = seen.page.locator("#d0")
    rows, count = section.locator("article"), section.get_by_role("status")
    assert rows.count() == 12
    assert _shown(rows) == 12

    section.get_by_label("Category", exact=True).select_option("cable")
    assert _shown(rows) == 6
    assert all(text.startswith("cable:") for text in rows.locator("visible=true").locator("h4").all_inner_texts())
    assert count.inner_text() == "6 of 12 images"
    assert _shown(seen.page.locator("#d1 article")) == 6  # another dataset's gallery is left alone

    section.get_by_label("Category", exact=True).select_option("all")
    assert _shown(rows) == 12
    assert seen.complaints == []


def test_a_click_on_a_heading_sorts(visit) -> None:
    table = visit().page.locator("#d0 table.sortable").first
    names, head = table.locator("tbody th"), table.locator("th", has_text="AUROC")
    assert names.all_inner_texts() == ["SDP", "SDP+", HOSTILE]
    for order, expected in (
        ("descending", ["SDP+", "SDP", HOSTILE]),
        ("ascending", [HOSTILE, "SDP", "SDP+"]),
        (None, ["SDP", "SDP+", HOSTILE]),
    ):
        head.get_by_role("button").click()
        assert names.all_inner_texts() == expected
        assert head.get_attribute("aria-sort") == order


def test_the_page_needs_no_script(visit) -> None:
    page = visit(java_script_enabled=False).page
    assert _shown(page.locator("article")) == 18
    assert page.locator("#d0 table.sortable tbody tr").first.is_visible()


def test_those_who_do_not_see_it_are_told(visit) -> None:
    seen = visit()
    assert all(seen.all("img", "i => i.alt"))
    assert all(seen.all("svg", "s => s.closest('[role=img]')?.getAttribute('aria-label')"))
    assert all(seen.all("th", "t => t.scope"))
    assert all(seen.all("select", "s => s.labels.length"))
    ids = seen.all("[id]", "e => e.id")
    assert len(ids) == len(set(ids))
    assert all(seen.all("nav a, header a", "a => document.getElementById(a.hash.slice(1)) !== null"))
    levels = seen.all("h1, h2, h3, h4", "h => Number(h.tagName[1])")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_colours_stand_out(visit, scheme: str) -> None:
    seen = visit(color_scheme=scheme)
    ground = seen.all("body", "b => getComputedStyle(b).backgroundColor")[0]
    for selector, least in (("#d0 svg text, p, td, th, dd, dt", 4.5), (".swatch", 3.0)):
        attribute = "backgroundColor" if selector == ".swatch" else "color"
        colours = set(seen.all(selector, f"e => getComputedStyle(e).{attribute}"))
        assert colours
        assert min(contrast(colour, ground) for colour in colours) >= least, colours


def test_print_has_everything_but_the_controls(visit) -> None:
    page = visit(color_scheme="dark").page
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert not page.get_by_label("Category", exact=True).first.is_visible()
    assert page.locator("article").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_the_command_writes_the_files_of_the_function(output: Path) -> None:
    written = {name: (output / name).read_bytes() for name in (CSV_FILE, MARKDOWN_FILE, PAGE_FILE)}
    for name in written:
        (output / name).unlink()
    process = warm.run([CLIPAD, "report", output])
    assert process.returncode == 0, process.stderr[-3000:]
    assert str(output / PAGE_FILE) in process.stdout
    assert {name: (output / name).read_bytes() for name in written} == written


def _shown(elements: Locator) -> int:
    return elements.locator("visible=true").count()


def contrast(first: str, second: str) -> float:
    """Contrast of two CSS colours ``rgb(r, g, b)`` by the definition of WCAG 2: 1 to 21."""
    light, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    channels = np.array([int(channel) for channel in colour[4:-1].split(",")]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
