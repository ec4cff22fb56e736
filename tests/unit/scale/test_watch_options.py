# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What `anomalib-clipad watch` refuses before anything is loaded; tests/integration runs it."""

from pathlib import Path

import pytest

from anomalib_clipad.cli import main
from anomalib_clipad.scale.model_spec import ModelSpec
from anomalib_clipad.scale.watch import WatchOptions


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "Expected a folder or --input, but got none"),
        ({"folder": ".", "input": "0"}, "but got both. Leave out one"),
        ({"folder": ".", "settle": -1.0}, "--settle to be at least 0, but got -1"),
        ({"folder": ".", "every": 0}, "--every to be at least 1, but got 0"),
        ({"folder": ".", "output": Path("out")}, "--output to lie outside of the watched folder, but got out"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        WatchOptions(spec=ModelSpec(), **{"output": tmp_path.parent / "elsewhere", **given})


def test_a_missing_folder_is_one_sentence_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["watch", str(tmp_path / "none"), "--output", str(tmp_path / "out"), "--model", "anomalib_clipad.SDP"])
    message = " ".join(capsys.readouterr().err.split())
    assert f"Expected a folder to watch, but found none at {tmp_path}/none." in message
    assert not (tmp_path / "out").exists()
