# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""References, pools and thresholds from good images as they are typed."""

import csv
from pathlib import Path

import pytest

import layouts
from terminal import Terminal
from tiny import ON_TINY

pytestmark = pytest.mark.slow

SDP = ("--model", "anomalib_clipad.SDP", *ON_TINY, "--model.visualizer", "false")


@pytest.fixture
def photos(anomalib: Terminal) -> None:
    """Good ones, and new ones of which some have a defect."""
    layouts.write_images(anomalib.folder / "photos/good", 30, size=60)
    layouts.write_images(anomalib.folder / "photos/new", 8, size=60, seed=100)
    layouts.write_images(anomalib.folder / "photos/new/more", 4, size=60, seed=50, anomalous=True)


def rows(results: Path) -> list[dict[str, str]]:
    with (results / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("photos")
class TestPredict:
    def test_with_references_and_a_threshold_from_them(self, anomalib: Terminal):
        options = (
            "--model.references.path",
            "photos/good",
            "--model.references.turns",
            "2",
            "--model.weights.text",
            "0",
        )
        good = ("--model.known_good.path", "photos/good", "--model.known_good.false_alarms", "0.04")

        output = anomalib("predict", *SDP, "--model.class_name", "gasket", *options, *good, "--data", "photos/new")

        table = rows(anomalib.folder / "results/SDP/latest")
        assert {row["evidence"] for row in table} == {"references (30)"}
        assert [row["label"] for row in table] == ["normal"] * 8 + ["anomalous"] * 4
        assert "gasket: Of 30 good images 1 would be flagged" in " ".join(output.split())
        assert (anomalib.folder / "results/SDP/latest/references.csv").read_text().count("photos/good") == 30

    def test_with_a_pool(self, anomalib: Terminal):
        anomalib("predict", *SDP, "--model.class_name", "gasket", "--model.pool", "true", "--data", "photos/new")
        table = rows(anomalib.folder / "results/SDP/latest")
        assert {row["evidence"] for row in table} == {"text, pool (12)"}

    def test_options_that_are_not_valid_end_in_one_line(self, anomalib: Terminal):
        options = ("--model.references.path", "photos/good", "--model.references.turns", "3")
        output = anomalib("predict", *SDP, *options, "--data", "photos/new", succeeds=False)
        assert "Expected references.turns to be one of 1, 2, 4, 8, but got 3." in " ".join(output.split())
        assert "Traceback" not in output


def test_the_few_shot_protocol(anomalib: Terminal):
    layouts.write_mvtec_ad(anomalib.folder / "mvtec", ("bottle", "cable"), n_train=4, size=60)
    data = (
        "--data",
        "MVTec",
        "--data.root",
        "mvtec",
        "--data.categories",
        "[bottle, cable]",
        "--data.num_workers",
        "0",
    )

    anomalib("test", *SDP, "--model.references.k_shot", "2", *data)

    [table] = (anomalib.folder / "results/SDP/MVTec").glob("**/references.csv")
    with table.open() as file:
        assert [row["class_name"] for row in csv.DictReader(file)] == ["bottle"] * 2 + ["cable"] * 2
