# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The table that puts two models side by side, and the configs that it points to."""

from pathlib import Path

import pytest
from rich.console import Console

from anomalib_clipad.metrics.report import MetricsReport
from anomalib_clipad.quickstart import COMMANDS, comparison

ROOT = Path(__file__).parents[2]


def make_report(first: float, second: float) -> MetricsReport:
    metrics = ["image_AUROC", "pixel_AUROC", "pixel_AUPRO"]
    report = MetricsReport(metrics)
    report.add("brushed_metal", 5, dict.fromkeys(metrics, first))
    report.add("gear", 5, dict.fromkeys(metrics, second))
    return report


def test_models_stand_side_by_side_with_their_means_in_80_columns():
    console = Console(width=80, record=True)
    reports = {"plain": make_report(0.1, 0.2), "SDP": make_report(0.5, 0.7), "SDP+": make_report(0.6, 1.0)}

    console.print(comparison(reports, ("image_AUROC", "pixel_AUROC", "pixel_AUPRO")))

    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.export_text().splitlines()]
    assert ["brushed_metal", *["10.0", "50.0", "60.0"] * 3] in rows
    assert ["mean", *["15.0", "60.0", "80.0"] * 3] in rows


@pytest.mark.parametrize("command", COMMANDS.values())
def test_the_commands_that_are_printed_name_configs_that_exist(command):
    assert (ROOT / command.split()[-1]).is_file()
