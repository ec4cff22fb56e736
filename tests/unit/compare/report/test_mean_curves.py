# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Means of curves."""

from pathlib import Path

import numpy as np
import pytest

from anomalib_clipad.compare.records import CURVES_FILE, job_folder, write_curves
from anomalib_clipad.compare.report.mean_curves import CURVE_KINDS, mean_curve, read_all
from anomalib_clipad.compare.report.tables import DatasetResults
from comparisons import failed_job, job, write_comparison

IMAGE_ROC, _, PRO = CURVE_KINDS


def test_the_mean_is_taken_at_each_false_positive_rate(tmp_path: Path) -> None:
    records = [job(category="a"), job(category="b"), failed_job(category="c")]
    output = write_comparison(tmp_path / "output", records)
    write_curves(output, "SDP-a-0", {"image_roc": {"fpr": [0, 1], "tpr": [0, 1]}})
    write_curves(output, "SDP-b-0", {"image_roc": {"fpr": [0, 0, 1], "tpr": [0, 1, 1]}})
    results = DatasetResults("MVTec", records)
    curves = read_all(output, results)
    curve = mean_curve(results, curves, "SDP", IMAGE_ROC, results.categories)
    assert curve is not None
    assert curve.n_runs == 2
    assert (curve.x[0], curve.y[0]) == (0, 0)
    np.testing.assert_allclose(curve.y[1:], (curve.x[1:] + 1) / 2)
    assert mean_curve(results, curves, "SDP", PRO, results.categories) is None  # undefined in both
    only_a = mean_curve(results, curves, "SDP", IMAGE_ROC, ["a"])
    assert only_a is not None
    np.testing.assert_allclose(only_a.y, only_a.x)


def test_pro_ends_where_its_area_does(tmp_path: Path) -> None:
    results = DatasetResults("MVTec", [job()])
    curves = read_all(write_comparison(tmp_path / "output", [job()]), results)
    curve = mean_curve(results, curves, "SDP", PRO, ["bottle"])
    assert curve is not None
    assert (curve.x[-1], curve.y[-1]) == pytest.approx((0.3, 0.9))


def test_a_file_that_is_gone_is_no_curve(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    output = write_comparison(tmp_path / "output", [job()])
    (job_folder(output, "SDP-bottle-0") / CURVES_FILE).unlink()
    assert read_all(output, DatasetResults("MVTec", [job()])) == {}
    assert "SDP-bottle-0" in caplog.text
