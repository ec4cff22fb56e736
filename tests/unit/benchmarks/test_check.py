# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What `make bench-check` calls worse, and that it measures the wheel of another commit."""

import json
import sys

import pytest

import warm
from benchmarks.performance import check
from benchmarks.performance.check import BASELINE, Tree, compare
from benchmarks.performance.table import Row
from benchmarks.performance.timing import ROOT


def rounds(*values: float, better: str = "small") -> list[list[Row]]:
    return [[Row("x", value, better=better)] for value in values]


@pytest.mark.parametrize(
    ("before", "now", "better", "worse"),
    [
        ((1.0, 1.0, 1.0), (1.2, 1.11, 1.3), "small", True),
        ((1.0, 1.0, 1.0), (1.09, 1.09, 1.3), "small", False),
        # Of three rounds one says the opposite: noise.
        ((1.0, 1.0, 1.0), (1.2, 0.9, 1.3), "small", False),
        # The machine became slower for both.
        ((1.0, 2.0, 3.0), (1.05, 2.1, 3.15), "small", False),
        ((9.0, 9.0, 9.0), (6.0, 6.0, 6.0), "large", True),
        ((6.0, 6.0, 6.0), (9.0, 9.0, 9.0), "large", False),
        # Of differences there is no ratio.
        ((-1.0, -1.0, -1.0), (-0.5, -0.5, -0.5), "small", False),
    ],
)
def test_worse_is_a_tenth_in_the_median_and_something_in_each_round(before, now, better, worse):
    [change] = compare(rounds(*before, better=better), rounds(*now, better=better))
    assert change.worse is worse


def test_only_what_both_have_measured_is_compared():
    before, now = [[Row("gone", 1.0), Row("x", 2.0), Row("y", None)]], [[Row("new", 1.0), Row("x", 3.0), Row("y", 1.0)]]
    assert [change.now.measure for change in compare(before, now)] == ["x"]


def test_what_was_measured_is_shown_if_a_later_measure_fails(monkeypatch, capsys):
    def run(tree, measure, folder, *, smoke):
        if measure == "fails":
            msg = "Expected it to run"
            raise RuntimeError(msg)
        return [Row("x", 1.0 if tree.environment else 3.0)]

    monkeypatch.setattr(check, "build", lambda reference, folder: Tree(folder, {}))
    monkeypatch.setattr(check, "run", run)
    with pytest.raises(RuntimeError, match="Expected it to run"):
        check.check("v1.2", ["works", "fails"], rounds=2)
    [row] = [line for line in capsys.readouterr().out.splitlines() if "0.33" in line]
    assert " 3 " in row


def test_there_is_a_baseline():
    stored = json.loads(BASELINE.read_text(encoding="utf-8"))
    assert stored["commit"]
    assert all(Row(**row).value is not None for row in stored["rows"])


@pytest.mark.slow
def test_a_wheel_of_a_commit_is_measured_in_turn_with_this_tree():
    command = [sys.executable, "-m", "benchmarks.performance.check", "--against", "HEAD", "--only", "resampling"]
    done = warm.run([*command, "--rounds", "1", "--smoke"], cwd=ROOT)
    assert "now ÷ before" in done.stdout, done.stderr[-2000:]
    assert "resampling, round 1 of 1" in done.stdout
    assert "upsampling" in done.stdout


@pytest.mark.slow
def test_a_commit_that_is_not_there_is_named():
    command = [sys.executable, "-m", "benchmarks.performance.check", "--against", "v99.9"]
    done = warm.run(command, cwd=ROOT)
    assert done.returncode == 1
    assert "git archive v99.9" in done.stderr
    assert "Traceback" not in done.stderr
