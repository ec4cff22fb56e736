# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What has become slower or larger since the last release: ``make bench-check``.

The wheel of the release is built from git and measured by the benchmarks of its time, in turn with this tree:
``python -m benchmarks.performance.check [--against REF] [--only NAME ...] [--rounds N]``. Both run in fresh processes.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from benchmarks.performance.__main__ import MEASURES
from benchmarks.performance.table import Row
from benchmarks.performance.timing import ROOT

CHECKED = ("forward", "resampling", "text", "metrics", "imports")
"""What takes a minute or two; the others with ``--only``."""
BASELINE = Path(__file__).with_name("baseline.json")
WORSE = 1.1


@dataclass(frozen=True)
class Tree:
    """A copy of the project, and the environment in which Python finds its package."""

    folder: Path
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Change:
    """A measure before and now, a figure for each round."""

    now: Row
    before: Sequence[float]
    after: Sequence[float]

    @property
    def factors(self) -> list[float]:
        """How many times worse each round was; nothing for differences, which may be negative."""
        if min(*self.before, *self.after) <= 0:
            return []
        pairs = zip(self.before, self.after, strict=True)
        return [after / before if self.now.better == "small" else before / after for before, after in pairs]

    @property
    def worse(self) -> bool:
        """Whether it is worse by more than a tenth in the median, and worse in each round: noise goes both ways."""
        factors = self.factors
        return bool(factors) and statistics.median(factors) > WORSE and min(factors) > 1


def check(against: str | None, measures: Sequence[str], rounds: int, *, smoke: bool = False) -> int:
    """Measure both in turn and print a table.

    Returns:
        Number of measures that got worse.

    Raises:
        RuntimeError: If the release cannot be built, or a measure fails on either side.
    """
    baseline = read_baseline()
    stored = {row["measure"]: row["value"] for row in baseline["rows"]}
    release = against or newest_tag() or baseline["commit"]
    console = Console()
    runs: list[list[list[Row]]] = [[], []]
    with TemporaryDirectory() as name:
        console.print(f"[dim]wheel of {release} …[/dim]")
        trees = [build(release, Path(name)), Tree(ROOT, os.environ)]
        try:
            for number in range(rounds):
                for measure in measures:
                    console.print(f"[dim]{measure}, round {number + 1} of {rounds} …[/dim]")
                    pair = [run(tree, measure, Path(name), smoke=smoke) for tree in trees]
                    for rows, new in zip(runs, pair, strict=True):
                        rows.append(new)
        finally:  # what was measured until one fails, or until it is stopped, took minutes
            changes = compare(*runs)
            console.print(table(changes, stored, release))
    return sum(change.worse for change in changes)


def read_baseline() -> dict:
    """The stored figures, written by ``python -m benchmarks.performance --json``."""
    return json.loads(BASELINE.read_text(encoding="utf-8"))


def newest_tag() -> str | None:
    """The last release that this tree goes back to, if there was one."""
    found = subprocess.run(
        ["git", "describe", "--tags", "--abbrev=0", "--match", "v*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or None


def build(reference: str, folder: Path) -> Tree:
    """Unpack a commit, build its wheel and install that where nothing else is."""
    source, packages = folder / "source", folder / "packages"
    with tarfile.open(fileobj=io.BytesIO(_call("git", "archive", reference))) as archive:
        archive.extractall(source, filter="data")
    uv = str(Path(sys.executable).with_name("uv"))
    _call(uv, "build", "--quiet", "--wheel", "--out-dir", str(folder), str(source))
    wheels = [str(path) for path in folder.glob("*.whl")]
    _call(uv, "pip", "install", "--quiet", "--python", sys.executable, "--no-deps", "--target", str(packages), *wheels)
    tree = Tree(source, {**os.environ, "PYTHONPATH": str(packages)})
    find = "from importlib.util import find_spec; print(find_spec('anomalib_clipad').origin)"
    where = _call(sys.executable, "-c", find, tree=tree).decode().strip()
    if not Path(where).is_relative_to(packages):
        msg = f"Expected to measure the wheel in {packages}, but Python finds {where}. Unset PYTHONPATH."
        raise RuntimeError(msg)
    return tree


def run(tree: Tree, measure: str, folder: Path, *, smoke: bool) -> list[Row]:
    """Rows of one measure from a fresh process."""
    rows = folder / "rows.json"
    flags = ["--smoke"] if smoke else []
    _call(
        *(sys.executable, "-W", "ignore", "-m", "benchmarks.performance"),
        *("--only", measure, "--json", str(rows), "--rounds", "1", *flags),  # the rounds are those of whole processes
        tree=tree,
    )
    return [Row(**row) for row in json.loads(rows.read_text(encoding="utf-8"))["rows"]]


def compare(before: Sequence[Sequence[Row]], now: Sequence[Sequence[Row]]) -> list[Change]:
    """Put together what both have measured, in the order of this tree's rows."""
    figures: list[dict[str, list[float]]] = [{}, {}]
    latest: dict[str, Row] = {}
    for side, runs in zip(figures, (before, now), strict=True):
        for row in (row for rows in runs for row in rows if row.value is not None):
            side.setdefault(row.measure, []).append(row.value)
            latest[row.measure] = row
    old, new = figures
    return [Change(latest[name], old[name], new[name]) for name in new if name in old]


def table(changes: Sequence[Change], stored: Mapping[str, float | None], release: str) -> Table:
    """Figures stored, of the release and of this tree, medians of all rounds."""
    shown = Table("measure", "baseline", release[:12], "now", "now ÷ before", "")
    for change in changes:
        unit = change.now.unit
        values = (stored.get(change.now.measure), statistics.median(change.before), statistics.median(change.after))
        ratios = [after / before for before, after in zip(change.before, change.after, strict=True) if before]
        shown.add_row(
            change.now.measure,
            *("–" if value is None else f"{value:.3g}{unit}" for value in values),
            f"{statistics.median(ratios):.2f}" if change.factors else "–",
            "[red]worse[/red]" if change.worse else "",
        )
    return shown


def _call(*command: str, tree: Tree | None = None) -> bytes:
    place = {"cwd": ROOT} if tree is None else {"cwd": tree.folder, "env": tree.environment}
    done = subprocess.run(command, capture_output=True, check=False, **place)
    if done.returncode:
        output = (done.stdout + done.stderr).decode(errors="replace")[-2000:]
        msg = f"Expected `{' '.join(command)}` to run, but got exit code {done.returncode}: {output}"
        raise RuntimeError(msg)
    return done.stdout


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.performance.check", description=__doc__)
    parser.add_argument("--against", help="tag or commit; by default the newest tag, or else the baseline's commit")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=CHECKED, dest="measures", help="what to measure")
    parser.add_argument("--rounds", type=int, default=3, help="how often, in turn")
    parser.add_argument("--smoke", action="store_true", help="smallest sizes, only to show that it runs")
    try:
        sys.exit(1 if check(**vars(parser.parse_args())) else 0)
    except RuntimeError as error:
        sys.exit(str(error))
