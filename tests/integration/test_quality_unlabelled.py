# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds from unlabelled images, measured as docs/thresholds.md tells, on fewer images."""

from pathlib import Path

import pandas as pd
import pytest

import warm

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "unlabelled_thresholds.py"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Decisions on pools of 100 images of some held-out categories."""
    folder = tmp_path_factory.mktemp("unlabelled")
    recipe = ["--root", "images", "--good", "100", "--per-defect", "4", "--categories", "wood,marble,gear,button"]
    process = warm.run([SCRIPT, *recipe, "--sizes", "100", "--pools", "5", "--csv", "pools.csv"], cwd=folder)
    assert process.returncode == 0, process.stderr[-6000:]
    assert "| images | F1 | best F1 | difference |" in process.stdout
    return pd.read_csv(folder / "pools.csv")


def test_the_decision_is_nearly_as_good_as_the_best_threshold_allows(measured):
    with_anomalies = measured[measured["anomalous %"] > 0]

    assert sorted(with_anomalies["anomalous %"].unique()) == [5, 10, 20, 30, 50]
    assert with_anomalies["category"].nunique() == 4
    assert with_anomalies["difference"].mean() < 0.2
    assert (with_anomalies["best pixel F1"] - with_anomalies["pixel F1"]).mean() < 0.25


def test_most_pools_without_anomalous_images_raise_no_alarm(measured):
    without = measured[measured["anomalous %"] == 0]

    assert without["false alarms"].mean() < 0.2
    assert without["pools with one"].mean() < 0.5
