# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``anomalib-clipad`` where something is missing; tests/integration runs it."""

import sys

import pytest

from anomalib_clipad.cli import main
from anomalib_clipad.clip.catalogue import BackboneFacts


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


def test_without_its_extra_the_demo_says_how_to_install_it(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("anomalib_clipad.demo")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)

    with pytest.raises(SystemExit, match="2"):
        main(["demo", "--backbone", "clipad-tiny"])

    message = " ".join(capsys.readouterr().err.split())
    assert "got no gradio. Install it: pip install 'anomalib-clipad[demo]'" in message
    assert "Traceback" not in message


def test_backbones_are_listed_with_what_they_cost(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit, match="0"):
        main(["backbones", "--match", "PLUS-240"])
    [head, row] = capsys.readouterr().out.splitlines()
    assert head.split() == [*BackboneFacts._fields]
    assert row.split()[:2] == ["ViT-B-16-plus-240", "open_clip"]
    assert row.split()[-8:] == ["896", "12", "16x16", "240x240", "117.2", "1.0", "laion400m_e31,", "laion400m_e32"]


def test_refused_backbones_are_listed_with_the_reason(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["backbones", "--refused", "--match", "rn50-"])
    assert capsys.readouterr().out.split("\n")[1].split(maxsplit=1) == ["RN50-quickgelu", "a ResNet image tower"]


def test_backbones_that_nothing_matches(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["backbones", "--match", "resnext"])
    assert "part of the name of a supported backbone, but got 'resnext'. Leave it out" in capsys.readouterr().err
