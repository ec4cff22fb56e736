# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``anomalib-clipad`` where something is missing; tests/integration runs it."""

import sys
from pathlib import Path

import pytest

import layouts
from anomalib_clipad.cli import main
from anomalib_clipad.clip.catalogue import BackboneFacts
from anomalib_clipad.scale.job import Summary


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


SCORE = ["score", "--input", "photos", "--output", "scores.parquet"]
ON_TINY = ["--model", "anomalib_clipad.SDP", "--model.backbone", "clipad-tiny"]


@pytest.mark.parametrize("name", ["ray", "pyarrow"])
def test_without_its_extra_scoring_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, name: str
) -> None:
    for module in [module for module in sys.modules if module.startswith("anomalib_clipad.scale.")]:
        monkeypatch.delitem(sys.modules, module)
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(SystemExit, match="2"):
        main([*SCORE, *ON_TINY])

    message = " ".join(capsys.readouterr().err.split())
    assert f"got no {name}. Install it: pip install 'anomalib-clipad[ray]'" in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected one of --model, --ckpt_path, --onnx and --openvino to say what scores, but got none"),
        (ON_TINY, "photos"),
        ([*ON_TINY, "--input", "there", "--workers", "0"], "Expected workers to be at least 1, but got 0"),
        ([*ON_TINY, "--input", "there", "--block_size", "0"], "Expected block_size to be at least 1 for 2 images"),
        ([*ON_TINY, "--onnx", "m.onnx"], "Expected a model or an exported file, but got both"),
        (["--ckpt_path", "none.ckpt"], "Expected ckpt_path to be a file, but found none at"),
        (["--ckpt_path", "damaged.ckpt", "--input", "there"], "damaged.ckpt"),
        ([*ON_TINY, "--model.clas_name", "nut"], "clas_name"),
        ([*ON_TINY, "--input", "there", "--output", "there"], "Expected there to be new, or the output of an earlier"),
    ],
)
def test_wrong_calls_of_scoring_write_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    layouts.write_images(tmp_path / "there", 2)
    (tmp_path / "damaged.ckpt").write_bytes(b"no checkpoint")
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(SystemExit, match="2"):
        main([*SCORE, *arguments])

    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert "Traceback" not in error
    assert sorted(tmp_path.rglob("*")) == before


def test_scoring_is_told_the_given_arguments_alone(tmp_path, monkeypatch, capsys):
    """Nested ones too, as plain data; the others are a checkpoint's own."""
    specs = []

    def score(listing, output, spec, engine, block_size, *, progress):
        specs.append((listing, output, spec, engine.keywords, block_size))
        return Summary(Path(output), 3, 1, 3, 1.0)

    monkeypatch.setattr("anomalib_clipad.scale.command.score", score)
    (tmp_path / "m.ckpt").write_bytes(b"")
    options = ["--model", "anomalib_clipad.SDPPlus", "--model.tiles.size", "240", "--model.scales", "[240, 448]"]
    with pytest.raises(SystemExit, match="1"):  # an image could not be read
        main([*SCORE, *options, "--ckpt_path", str(tmp_path / "m.ckpt"), "--workers", "3", "--block_size", "7"])
    [(listing, output, spec, keywords, block_size)] = specs
    assert (listing, output, block_size) == ("photos", "scores.parquet", 7)
    assert keywords == {"workers": 3, "address": None}
    assert (spec.class_path, spec.threads, spec.device) == ("anomalib_clipad.SDPPlus", 1, "cpu")
    assert spec.init_args == {"tiles": {"size": 240}, "scales": [240, 448]}
    assert "3 images scored in 1 s (3.0 images/s). 1 could not be read" in capsys.readouterr().out


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
