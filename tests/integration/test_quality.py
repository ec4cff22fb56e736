# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The paper's claims in miniature, on products and kinds of defect that ``clipad-tiny`` was not trained on.

Thresholds lie well below the figures of README.md, which come from more images: 4 categories of 24 here.
"""

from collections.abc import Callable

import pytest
from anomalib.engine import Engine

from anomalib_clipad import SDP, SyntheticDefects
from tiny import sdp, sdp_plus

pytestmark = pytest.mark.slow

CATEGORIES = ["wood", "marble", "gear", "button"]
QUIET = {"visualizer": False}
Measure = Callable[..., dict[str, float]]


@pytest.fixture(scope="module")
def measure(tmp_path_factory: pytest.TempPathFactory) -> Measure:
    """Mean metrics of a model over held-out categories."""
    folder = tmp_path_factory.mktemp("quality")

    def run(model: SDP, defects: str = "all") -> dict[str, float]:
        recipe = {"n_train": 1, "n_test_good": 10, "n_test_per_defect": 1, "num_workers": 0}
        data = SyntheticDefects(folder / "data", CATEGORIES, defects=defects, **recipe)
        [metrics] = Engine(default_root_dir=folder / "results", logger=False).test(model, datamodule=data)
        return metrics

    return run


@pytest.fixture(scope="module")
def by_sdp(measure: Measure) -> dict[str, float]:
    return measure(sdp(**QUIET))


def test_sdp_finds_defects(by_sdp: dict[str, float]):
    assert by_sdp["image_AUROC"] > 0.85
    assert by_sdp["pixel_AUROC"] > 0.75
    assert by_sdp["pixel_AUPRO"] > 0.5


def test_plain_similarity_does_not_find_them(measure: Measure, by_sdp: dict[str, float]):
    plain = measure(sdp(architecture_surgery=False, feature_surgery=False, **QUIET))
    assert plain["pixel_AUPRO"] < by_sdp["pixel_AUPRO"] - 0.3


def test_trained_heads_outline_them_better(measure: Measure, by_sdp: dict[str, float]):
    assert measure(sdp_plus(heads="embedded", **QUIET))["pixel_AUPRO"] > by_sdp["pixel_AUPRO"] + 0.02


def test_defects_of_a_kind_never_trained_on_are_found_too(measure: Measure):
    assert measure(sdp(**QUIET), defects="held_out")["pixel_AUROC"] > 0.7


def test_untrained_weights_are_at_chance_level(measure: Measure):
    metrics = measure(sdp(pretrained="random", **QUIET))

    assert 0.35 < metrics["pixel_AUROC"] < 0.65
    assert 0.35 < metrics["image_AUROC"] < 0.65
    assert metrics["pixel_AUPRO"] < 0.35
