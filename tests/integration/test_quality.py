# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The embedded model finds defects on products that it has not been trained on; untrained weights do not.

Thresholds lie well below the figures of README.md, which come from more images.
"""

from pathlib import Path

import pytest
from anomalib.engine import Engine

from anomalib_clipad import SyntheticDefects
from tiny import sdp

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measure(tmp_path_factory: pytest.TempPathFactory):
    """Mean metrics of SDP over the held-out categories, 24 images each."""
    folder = tmp_path_factory.mktemp("quality")

    def run(pretrained: str | None, defects: str = "all") -> dict[str, float]:
        data = SyntheticDefects(
            folder / "data", defects=defects, n_train=1, n_test_good=10, n_test_per_defect=1, num_workers=0
        )
        model = sdp(pretrained=pretrained, text_cache_dir=False, visualizer=False)
        [metrics] = Engine(default_root_dir=folder / "results", logger=False).test(model, datamodule=data)
        return metrics

    return run


def test_trained_weights_find_defects(measure):
    metrics = measure(pretrained=None)

    assert metrics["pixel_AUROC"] > 0.90
    assert metrics["pixel_AUPRO"] > 0.75
    assert metrics["image_AUROC"] > 0.75


def test_defects_of_a_kind_never_trained_on_are_found_too(measure):
    assert measure(pretrained=None, defects="held_out")["pixel_AUROC"] > 0.85


def test_untrained_weights_are_at_chance_level(measure: object, tmp_path: Path):
    metrics = measure(pretrained="random")

    assert 0.35 < metrics["pixel_AUROC"] < 0.65
    assert 0.35 < metrics["image_AUROC"] < 0.65
    assert metrics["pixel_AUPRO"] < 0.35
