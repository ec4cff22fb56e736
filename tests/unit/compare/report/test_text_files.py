# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The CSV and the Markdown file, read as a program and as a person would."""

import csv
import io
import json
import math
from dataclasses import fields, replace

import pytest

from anomalib_clipad.compare.records import Measures, Record
from anomalib_clipad.compare.report.differences import differences
from anomalib_clipad.compare.report.tables import by_dataset
from anomalib_clipad.compare.report.text_files import csv_text, markdown_text
from anomalib_clipad.compare.report.wording import FINE_PRINT
from comparisons import expectation, failed_job, job

RECORDS = [
    job("SDP", "bottle", metrics={"pixel_AUPRO": 0.8, "image_AUROC": 0.9}),
    job("SDP", "cable", metrics={"image_AUROC": 0.7, "pixel_AUPRO": math.nan}),
    job("WinCLIP", "bottle", metrics={"image_AUROC": 0.95, "pixel_AUPRO": 0.6}),
    failed_job("WinCLIP", "cable", error="ValueError: two\nlines, | and <b>"),
]


def read_csv(records: list[Record]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_text(by_dataset(records)))))


def markdown(records: list[Record], n_jobs: int | None = None) -> str:
    return markdown_text(by_dataset(records), len(records) if n_jobs is None else n_jobs)


def tables(text: str) -> dict[str, list[list[str]]]:
    """Rows of the table under each heading, head first; a backslash keeps a bar inside its cell."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("|"):
            cells = line.strip("|").replace("\\|", "\0").split("|")
            found.setdefault(heading, []).append([cell.strip().replace("\0", "|") for cell in cells])
    for rows in found.values():
        assert set(rows.pop(1)) == {"---"}
        assert len({len(row) for row in rows}) == 1
    return found


def test_csv_has_a_row_for_each_job_in_the_order_of_the_grid() -> None:
    rows = read_csv(RECORDS)
    assert [row["job"] for row in rows] == [record.job for record in RECORDS]
    assert [row["status"] for row in rows] == ["done", "done", "done", "failed"]
    assert rows[3]["error"] == "ValueError: two lines, | and <b>"
    assert rows[3]["image_AUROC"] == rows[3]["wall_s"] == rows[3]["input_height"] == ""


def test_csv_holds_all_that_is_recorded() -> None:
    row = read_csv(RECORDS)[0]
    assert (row["image_AUROC"], row["pixel_AUPRO"]) == ("0.900000", "0.800000")
    measured = {field.name: float(row[field.name]) for field in fields(Measures)}
    assert Measures(**measured) == RECORDS[0].measures
    assert row["parameters"] == "1500000"
    assert json.loads(row["init_args"]) == {"sigma": 4}
    assert json.loads(row["versions"]) == {"anomalib": "2.7.0"}
    expected = {
        "input_height": "24",
        "input_width": "32",
        "weights": "embedded",
        "metrics": "exact, at model size",
        "calibrated_on_test": "True",
        "zero_shot": "True",
    }
    assert expected.items() <= row.items()


def test_csv_says_nan_where_a_metric_is_undefined() -> None:
    assert read_csv(RECORDS)[1]["pixel_AUPRO"] == "nan"


def test_csv_columns_do_not_depend_on_what_failed_first() -> None:
    head = csv_text(by_dataset(RECORDS)).splitlines()[0]
    assert csv_text(by_dataset(RECORDS[::-1])).splitlines()[0] == head
    assert head.startswith("job,status,model,dataset,category,seed,image_AUROC,pixel_AUPRO,wall_s,")


def test_markdown_has_the_papers_form() -> None:
    found = tables(markdown(RECORDS))
    assert found["Mean over 2 categories"] == [
        ["× 100", "image AUROC", "pixel AUPRO"],
        ["SDP", "**80.0**", "**80.0 (1/2)**"],  # best of two means over bottle alone
        ["WinCLIP", "95.0 (1/2)", "60.0 (1/2)"],
    ]
    assert found["By category"][1:] == [
        ["bottle", "SDP", "90.0", "**80.0**"],
        ["bottle", "WinCLIP", "**95.0**", "60.0"],
        ["cable", "SDP", "**70.0**", "–"],
        ["cable", "WinCLIP", "–", "–"],
    ]
    assert found["Failed"][1] == ["WinCLIP", "cable, seed 0", "ValueError: two lines, | and &lt;b>"]


def test_markdown_has_expected_figures_beside_measured_ones() -> None:
    jobs = ["SDP-bottle-0", "SDP-cable-0"]
    expected = [
        expectation("SDP", "image_AUROC", 80.4, jobs),
        expectation("SDP", "image_AUROC", 85.0, jobs),
        expectation("SDP", "pixel_AUPRO", 75.3, jobs),
    ]
    text = markdown_text(by_dataset(RECORDS), 4, differences(expected, RECORDS))
    assert tables(text)["Measured and expected"] == [
        ["× 100", "metric", "measured", "expected", "difference", "within ±1"],
        ["SDP", "image AUROC", "80.0", "80.4", "-0.4", "yes"],
        ["SDP", "image AUROC", "80.0", "85.0", "-5.0", "**no**"],
        ["SDP", "pixel AUPRO", "–", "75.3", "–", "not measured (1/2 runs)"],
    ]
    assert "\nExpected of SDP: a paper.\n" in text
    assert "Measured and expected" not in markdown(RECORDS)


def test_markdown_compares_what_every_model_finished() -> None:
    records = [*RECORDS, *(job(model, "nut", metrics={"image_AUROC": 0.6}) for model in ("SDP", "WinCLIP"))]
    rows = tables(markdown(records))["Mean over 2 categories that every model finished"]
    assert [row[:2] for row in rows[1:]] == [["SDP", "75.0"], ["WinCLIP", "**77.5**"]]
    assert "Category bottle, the only one that every model finished" in tables(markdown(RECORDS))


def test_markdown_tells_the_two_areas_under_pro_apart() -> None:
    (head, _) = tables(markdown([job(metrics={"pixel_AUPRO": 0.8, "pixel_ReferencePRO": 0.7})]))["Category bottle"]
    assert head == ["× 100", "pixel AUPRO", "pixel PRO, 200 thresholds"]


def test_markdown_says_what_lacks() -> None:
    text = markdown(RECORDS, n_jobs=6)
    assert "**4 of 6 jobs have finished; the tables are of these.**" in text
    assert "mean over only n of m categories" in text
    assert "Missing: WinCLIP: cable (failed)." in text
    complete = markdown(RECORDS[:1])
    assert "jobs have finished" not in complete
    assert "n of m" not in complete


def test_markdown_gives_deviations_over_seeds() -> None:
    records = [job(seed=seed, metrics={"image_AUROC": value}) for seed, value in enumerate((0.8, 0.9))]
    assert tables(markdown(records))["Category bottle, ± over 2 seeds"][1] == ["SDP", "85.0 ± 7.1"]


def test_markdown_gives_speed_and_size() -> None:
    head, row = tables(markdown([job()]))["Speed and size"]
    assert dict(zip(head, row, strict=True)) == {
        "model": "SDP",
        "runs": "1/1",
        "seconds a run": "10.0",
        "of these fit": "2.0",
        "images/s, model alone": "20.0",
        "images/s, end to end": "10.0",
        "peak memory (MiB)": "900",
        "parameters (M)": "1.5",
        "checkpoint (MB)": "4.6",
    }


def test_every_table_of_figures_says_what_it_has_to_be_read_with() -> None:
    text = markdown(RECORDS)
    sections = text.split("### ")[1:]
    with_figures = [part for part in sections if part.startswith(("Mean", "Category", "By category", "Speed"))]
    assert len(with_figures) == 4
    for part in with_figures:
        for name in FINE_PRINT:
            assert f"{name}:" in part
        assert "exact, at model size" in part


def test_what_differs_is_told_by_model() -> None:
    other = job("PatchCore")
    untrained = replace(other.provenance, input_size=[224, 224], calibrated_on_test=False, note="untrained backbone.")
    text = markdown([job("SDP"), job("SDP+"), replace(other, provenance=untrained)])
    assert "Input size: 24×32 (SDP · SDP+); 224×224 (PatchCore)." in text
    assert "Image scores calibrated on the test set: yes (SDP · SDP+); no (PatchCore)." in text
    assert "Zero-shot: yes." in text
    assert "PatchCore: untrained backbone." in text
    many = markdown([*(job(f"SDP {index}") for index in range(5)), replace(other, provenance=untrained)])
    assert "Input size: 24×32 (all others); 224×224 (PatchCore)." in many


@pytest.mark.parametrize("records", [[failed_job()], [job(metrics={})]], ids=["all failed", "no metrics"])
def test_a_comparison_without_figures_is_written_too(records: list[Record]) -> None:
    assert len(read_csv(records)) == 1
    assert "## MVTec" in markdown(records)
