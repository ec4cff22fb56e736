# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The folder of a watch: whose it is, and with which settings."""

from pathlib import Path

import pytest

from anomalib_clipad.prediction.table import JSON_FILE
from anomalib_clipad.scale.output import SETTINGS_FILE, keep, owned, require_same

SETTINGS = {"input": "/photos", "every": "1", "model.class_name": "nut"}


def test_the_same_settings_go_on(tmp_path: Path) -> None:
    require_same(tmp_path, SETTINGS)
    keep(tmp_path, SETTINGS)
    require_same(tmp_path, dict(reversed(SETTINGS.items())))


def test_others_are_refused_and_what_differs_is_named(tmp_path: Path) -> None:
    keep(tmp_path, SETTINGS)
    others = {"input": "/photos", "every": "5", "model.sigma": "3"}
    message = "every is 5, was 1; model.class_name is nothing, was nut; model.sigma is 3, was nothing. Choose another"
    with pytest.raises(ValueError, match=message):
        require_same(tmp_path, others)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / JSON_FILE).write_text("")
    with pytest.raises(ValueError, match=r"has a predictions\.jsonl of something else. Choose another output"):
        require_same(tmp_path, SETTINGS)


@pytest.mark.parametrize("content", ["{", "3"])
def test_damaged_settings_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / SETTINGS_FILE).write_text(content)
    with pytest.raises(ValueError, match="hold the settings of a watch, but it is damaged"):
        require_same(tmp_path, SETTINGS)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("filelock")
    busy = pytest.raises(RuntimeError, match="used by nobody else, but another process writes to")
    with owned(tmp_path), busy, owned(tmp_path):
        pass
    with owned(tmp_path):
        pass
