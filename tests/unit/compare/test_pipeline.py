# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What is refused before a comparison starts."""

from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml

from anomalib_clipad.compare import pipeline
from anomalib_clipad.compare.config import make_config
from anomalib_clipad.compare.grid import expand
from anomalib_clipad.compare.pipeline import check_winclip, compare, expected_of

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.mark.parametrize(
    ("version", "refused"), [("2.24.0", False), ("2.26.0", False), ("2.26.1", True), ("3.3", True)]
)
def test_winclip_is_refused_where_it_is_wrong(monkeypatch, version, refused):
    monkeypatch.setattr(pipeline.metadata, "version", lambda name: version)
    check_winclip("SDP", "anomalib_clipad.SDP")
    if not refused:
        check_winclip("WinCLIP", "anomalib.models.WinClip")
        return
    with pytest.raises(ImportError, match=r"silently wrong. Run `pip install 'open_clip_torch<2.26.1'`"):
        check_winclip("WinCLIP", "anomalib.models.WinClip")


@pytest.mark.parametrize(
    ("init_args", "expected", "message"),
    [
        ({"sgma": 1}, None, r"models\.SDP"),
        ({}, {"SDP": {"a": {"pixel_ReferencePRO": 75.3, "source": "x"}}}, r"It needs reference_pro: true"),
    ],
)
def test_nothing_is_written_for_a_wrong_grid(tmp_path, init_args, expected, message):
    models = {"SDP": {"class_path": "anomalib_clipad.SDP", "init_args": init_args}}
    data = {"a": {"class_path": "anomalib_clipad.SyntheticDefects"}}
    with pytest.raises(ValueError, match=message):
        compare(make_config(models, data, output=str(tmp_path / "out"), expected=expected))
    assert not (tmp_path / "out").exists()


def test_data_that_not_everyone_has_are_left_out_with_a_word(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pipeline, "_run", Mock())
    monkeypatch.setattr(pipeline, "write_report", Mock())
    data = {"class_path": "anomalib_clipad.SyntheticDefects", "categories": ["wood"]}
    there, gone = tmp_path / "there", tmp_path / "gone"
    there.mkdir()
    datasets = {"A": {**data, "skip_without": str(there)}, "B": {**data, "skip_without": str(gone)}, "C": data}
    models = {"SDP": {"class_path": "anomalib_clipad.SDP"}}
    output = tmp_path / "out"

    compare(make_config(models, datasets, output=str(output)))

    assert list(yaml.safe_load((output / "compare.yaml").read_text())["datasets"]) == ["A", "C"]
    assert capsys.readouterr().err == f"Skipped: B: no folder at {gone}.\n"


@pytest.mark.parametrize(
    ("name", "n_categories", "of_sdp"),
    [("paper_mvtec.yaml", 15, {"pixel_F1Max": 35.9, "pixel_ReferencePRO": 75.3}), ("paper_visa.yaml", 12, {})],
)
def test_the_papers_figures_are_expected_of_all_categories(name, n_categories, of_sdp):
    config = make_config(**yaml.safe_load((CONFIGS / name).read_text()))
    found = expected_of(config, expand(config))
    assert {len(each.jobs) for each in found} == {n_categories}
    assert {each.metric: each.figure for each in found if each.model == "SDP"} == of_sdp
    assert list(config.models) == ["SDP", "SDP+", "WinCLIP"]
    assert "GB" in config.needs
