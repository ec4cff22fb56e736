# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``anomalib-clipad`` where something is missing; tests/integration runs it."""

import sys

import pytest

from anomalib_clipad.cli import main


@pytest.mark.parametrize("arguments", [["compare", "--config", "grid.yaml"], ["report", "results"]])
def test_without_its_extra_the_comparison_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, arguments: list[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("anomalib_clipad.compare")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psutil", None)

    with pytest.raises(SystemExit) as exit_:
        main(arguments)

    assert exit_.value.code == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "got no psutil. Install it: pip install 'anomalib-clipad[compare]'" in message
    assert "Traceback" not in message
