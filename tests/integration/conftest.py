# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of commands share."""

from pathlib import Path

import pytest

from terminal import SameProcess, Terminal


@pytest.fixture
def anomalib(tmp_path: Path) -> Terminal:
    """A terminal in an empty folder."""
    return Terminal(tmp_path)


@pytest.fixture
def same_process(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> SameProcess:
    """The same, but in this process: for commands that other tests type in a terminal."""
    return SameProcess(tmp_path, monkeypatch, capfd, caplog)
