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
    report = MetricsReport(["image_AUROC"])
    report.add("brushed_metal", 5, {"image_AUROC": first})
    report.add("gear", 5, {"image_AUROC": second})
    return report


def test_models_stand_side_by_side_with_their_means():
    console = Console(width=80, record=True)

    console.print(comparison({"SDP": make_report(0.5, 0.7), "SDP+": make_report(0.6, 1.0)}, ("image_AUROC",)))

    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.export_text().splitlines()]
    assert ["brushed_metal", "0.500", "0.600"] in rows
    assert ["mean", "0.600", "0.800"] in rows


@pytest.mark.parametrize("command", COMMANDS.values())
def test_the_commands_that_are_printed_name_configs_that_exist(command):
    assert (ROOT / command.split()[-1]).is_file()
