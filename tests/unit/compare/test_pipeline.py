# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What is refused before a comparison starts."""

import pytest

from anomalib_clipad.compare import pipeline
from anomalib_clipad.compare.grid import make_config
from anomalib_clipad.compare.pipeline import check_winclip, compare


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


def test_nothing_is_written_for_a_wrong_grid(tmp_path):
    models = {"SDP": {"class_path": "anomalib_clipad.SDP", "init_args": {"sgma": 1}}}
    data = {"a": {"class_path": "anomalib_clipad.SyntheticDefects"}}
    with pytest.raises(ValueError, match=r"models\.SDP"):
        compare(make_config(models, data, output=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
