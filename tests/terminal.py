# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""A terminal in which commands are typed as a user does."""

import csv
import os
import sys
from pathlib import Path

import pytest
from anomalib.cli import AnomalibCLI

import warm

ANOMALIB, CLIPAD = (Path(sys.executable).with_name(name) for name in ("anomalib", "anomalib-clipad"))


class Terminal:
    """A folder to type commands in, without network; text vectors are cached below it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "ANOMALIB_CLIPAD_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}

    def __call__(self, *arguments: str, succeeds: bool = True) -> str:
        """Run ``anomalib`` and return what it printed, without the line breaks that a terminal's width makes."""
        process = warm.run([ANOMALIB, *arguments], cwd=self.folder, env=self.environment)
        output = process.stdout + process.stderr
        assert (process.returncode == 0) == succeeds, output[-6000:]
        return " ".join(output.split())

    def results(self, datamodule: str, model: str = "SDP", category: str = "") -> Path:
        """Folder of the newest results."""
        return self.folder / "results" / model / datamodule / category / "latest"

    def table(self, *place: str) -> dict[str, dict[str, str]]:
        """Rows of the table of metrics by category."""
        with (self.results(*place) / "metrics_per_category.csv").open() as file:
            return {row["category"]: row for row in csv.DictReader(file)}


class SameProcess(Terminal):
    """The same commands in this process: a new one spends most of its time on imports."""

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        super().__init__(folder)
        self.capfd, self.caplog = capfd, caplog
        monkeypatch.chdir(folder)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def __call__(self, *arguments: str, succeeds: bool = True) -> str:
        """Run the command and return what it printed and logged, and its error if it had one."""
        error = ""
        try:
            AnomalibCLI(args=arguments)
        except (Exception, SystemExit) as raised:
            if succeeds:
                raise
            error = str(raised)
        else:
            assert succeeds
        printed = self.capfd.readouterr()
        return " ".join(f"{printed.out} {printed.err} {self.caplog.text} {error}".split())
