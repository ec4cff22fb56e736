# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are no checkpoints end in one clear error, and nothing in them runs."""

import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from anomalib_clipad import SDP
from anomalib_clipad.checkpoint.head_files import CHECKPOINT_KEY
from anomalib_clipad.checkpoint.reader import open_checkpoint


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("check", [partial(open_checkpoint, model=SDP, options={}), SDP.load])
def test_code_in_a_file_does_not_run(tmp_path, check):
    torch.save({CHECKPOINT_KEY: Hostile(tmp_path / "trace")}, tmp_path / "model.ckpt")

    with pytest.raises(ValueError, match=r"but got .*model\.ckpt: it cannot be read .*; nothing in it was executed"):
        check(tmp_path / "model.ckpt")

    assert not (tmp_path / "trace").exists()
    torch.load(tmp_path / "model.ckpt", weights_only=False)
    assert (tmp_path / "trace").exists()  # the file would have done it


@pytest.mark.parametrize("kept", [0, 1, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, kept):
    torch.save({CHECKPOINT_KEY: {}, "state_dict": {"weight": torch.rand(100)}}, tmp_path / "model.ckpt")
    content = (tmp_path / "model.ckpt").read_bytes()
    (tmp_path / "model.ckpt").write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])

    with pytest.raises(ValueError, match="it cannot be read"):
        open_checkpoint(tmp_path / "model.ckpt", SDP, {})


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], torch.rand(2)], ids=["other", "list", "tensor"])
def test_other_content_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "model.ckpt")

    with pytest.raises(ValueError, match="it holds something else"):
        open_checkpoint(tmp_path / "model.ckpt", SDP, {})


def test_other_formats_are_refused(tmp_path):
    (tmp_path / "text.ckpt").write_text("hello")
    with zipfile.ZipFile(tmp_path / "zip.ckpt", "w") as file:
        file.writestr("readme", "hello")

    for name in ("text.ckpt", "zip.ckpt"):
        with pytest.raises(ValueError, match=f"{name}: it cannot be read"):
            open_checkpoint(tmp_path / name, SDP, {})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found none at .*model\.ckpt"):
        open_checkpoint(tmp_path / "model.ckpt", SDP, {})
