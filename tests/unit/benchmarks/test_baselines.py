# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The offline baselines of the comparison; WinCLIP only where it is right."""

from importlib import metadata
from types import SimpleNamespace

import pytest
import torch
from packaging.version import Version

from anomalib_clipad.compare.pipeline import WINCLIP_NEEDS
from benchmarks.baselines import TinyWinClip

pytestmark = pytest.mark.skipif(
    Version(metadata.version("open_clip_torch")) >= WINCLIP_NEEDS, reason="WinCLIP is wrong on this open_clip"
)


def test_winclip_runs_on_the_weights_of_clipad_tiny():
    model = TinyWinClip(scales=(2,)).eval()
    model.trainer = SimpleNamespace(datamodule=SimpleNamespace(category="wood"))
    model.setup("test")

    result = model.model(torch.randn(2, 3, 120, 120, generator=torch.Generator().manual_seed(0)))

    assert model.model.text_embeddings.shape == (2, 128)
    assert result.anomaly_map.shape == (2, 120, 120)
    assert result.pred_score.isfinite().all()
