# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The page's source; tests/integration/test_report_page.py looks at it in a browser."""

from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from anomalib_clipad.compare.records import Record
from anomalib_clipad.compare.report.differences import differences
from anomalib_clipad.compare.report.page import page_text
from anomalib_clipad.compare.report.tables import by_dataset
from anomalib_clipad.compare.report.wording import FINE_PRINT
from comparisons import expectation, failed_job, job, write_comparison

HOSTILE = "<script>alert('x')</script>\"&"


class Source(HTMLParser):
    """Elements with their attributes, and the text of the page outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._code = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._code = tag in {"script", "style"}

    def handle_endtag(self, tag: str) -> None:
        self._code = False

    def handle_data(self, data: str) -> None:
        if not self._code:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def render(tmp_path: Path, records: list[Record], n_jobs: int | None = None) -> str:
    output = write_comparison(tmp_path / "output", records)
    return page_text(output, by_dataset(records), len(records) if n_jobs is None else n_jobs)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    places = [("MVTec", "a"), ("VisA", "a"), ("VisA", "b")]
    done = [
        job(model, category, seed, dataset=dataset, job=f"{model}-{dataset}-{category}-{seed}")
        for dataset, category in places
        for model in ("SDP", "SDP+")
        for seed in (0, 1)
    ]
    return [*done, failed_job("SDP+", "c", dataset="VisA")]


@pytest.fixture(scope="module")
def page(records: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Source:
    return Source(render(tmp_path_factory.mktemp("page"), records))


def test_the_page_refers_to_nothing_outside_of_it(page: Source) -> None:
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action", "poster"):
            address = attributes.get(name, "data:")
            assert address.startswith("data:") or address.removeprefix("#") in ids, (tag, address)
    assert any(each.get("http-equiv") == "Content-Security-Policy" for each in page.all("meta"))


def test_ids_are_unique(page: Source) -> None:
    counts = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert [name for name, count in counts.items() if count > 1] == []


def test_labels_and_descriptions_are_there(page: Source) -> None:
    assert all(image.get("alt") for image in page.all("img"))
    assert all(head.get("scope") for head in page.all("th"))
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {label["for"] for label in page.all("label")} <= ids
    drawings = [each for _, each in page.elements if each.get("role") == "img"]
    assert len(drawings) == len(page.all("svg"))
    assert all(each.get("aria-label") for each in drawings)


def test_each_dataset_has_its_tables_charts_and_pictures(page: Source) -> None:
    assert "MVTec: 2 models, 1 category, seeds 0, 1." in page.text
    assert "VisA: 2 models, 3 categories, seeds 0, 1." in page.text
    # three kinds of curve and two of speed; for several categories, bars of two metrics and the curves of each
    assert len(page.all("svg")) == (3 + 2) + (3 + 2 + 2 + 2 * 3)
    assert len(page.all("select")) == 2
    assert len(page.all("article")) == (1 + 2) * 6


def test_every_table_of_figures_says_what_it_has_to_be_read_with(page: Source) -> None:
    # means, of VisA also over the common categories; categories, if several; speed; and the arguments
    assert len(page.all("table")) == (1 + 0 + 1 + 1) + (2 + 1 + 1 + 1)
    for name in FINE_PRINT:
        assert page.text.count(f"{name}:") == 2 + 3  # under the means, both tables of VisA's together


def test_expected_figures_stand_beside_measured_ones(page: Source, tmp_path: Path) -> None:
    records = [job("SDP"), failed_job("SDP+")]
    expected = [
        expectation("SDP", "image_AUROC", 88.0, ["SDP-bottle-0"]),
        expectation("SDP+", "image_AUROC", 90.0, ["SDP+-bottle-0"]),
        expectation("not run", "image_AUROC", 90.0, ["x"]),
    ]
    output = write_comparison(tmp_path / "output", records)
    shown = Source(page_text(output, by_dataset(records), 3, differences(expected, records)))
    assert "metric measured expected difference within ±1" in shown.text
    assert "SDP image AUROC 90.0 88.0 +2.0 no" in shown.text
    assert "SDP+ image AUROC – 90.0 – not measured (0/1 runs)" in shown.text
    assert "not run image AUROC –" in shown.text
    assert "Expected of SDP · SDP+ · not run: a paper." in shown.text
    assert "Measured and expected" not in page.text


def test_what_lacks_is_said_first(page: Source, records: list[Record], tmp_path: Path) -> None:
    assert f"1 of {len(records)} jobs failed" in page.text
    assert "out of luck" in page.text
    assert "Traceback: line 1" in page.text
    assert "jobs have finished" not in page.text
    assert (
        "1 of 5 jobs have finished; everything below is of these." in Source(render(tmp_path, [job()], n_jobs=5)).text
    )


def test_names_and_errors_cannot_become_code(tmp_path: Path) -> None:
    records = [
        job(class_path=HOSTILE, init_args={"x": HOSTILE}),
        job(HOSTILE, job="done"),
        failed_job("SDP+", error=HOSTILE, traceback=HOSTILE),
    ]
    page = Source(render(tmp_path, records))
    assert len(page.all("script")) == 1
    assert page.text.count("alert('x')") > 5  # shown as what it is


@pytest.mark.parametrize(
    ("records", "missing"),
    [
        ([failed_job()], ("table class", "Worst misses", "Curves", "Speed")),
        ([job(metrics={"image_AUROC": float("nan")})], ("against speed",)),
        ([job(metrics={})], ("against speed", "is bold")),
    ],
    ids=["all failed", "undefined", "no metrics"],
)
def test_a_comparison_with_little_in_it_has_a_page(
    tmp_path: Path, records: list[Record], missing: tuple[str, ...]
) -> None:
    text = render(tmp_path, records)
    assert "MVTec" in Source(text).text
    for words in missing:
        assert words not in text
    ids = {attributes["id"] for _, attributes in Source(text).elements if "id" in attributes}
    assert {link["href"].removeprefix("#") for link in Source(text).all("a")} <= ids
