# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Synthetic photographs: reproducible, varied, with visible defects and exact masks."""

import numpy as np
import pytest

from anomalib_clipad.data.synthetic import render
from anomalib_clipad.data.synthetic.defects import DEFECTS
from anomalib_clipad.data.synthetic.objects import OBJECTS
from anomalib_clipad.data.synthetic.render import (
    CATEGORIES,
    DEFECT_KINDS,
    photograph,
)

SIZE = 64


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_seed_determines_the_photograph_and_another_gives_another(category):
    first, again, other = (photograph(np.random.default_rng(seed), category, "scratch", SIZE) for seed in (1, 1, 2))

    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert first[0].dtype == np.uint8
    assert first[0].shape == (SIZE, SIZE, 3)
    assert np.abs(first[0].astype(int) - other[0]).mean() > 3


@pytest.mark.parametrize("defect", DEFECT_KINDS)
@pytest.mark.parametrize("category", ["carpet", "gear"])
def test_the_mask_holds_just_what_the_defect_has_changed(category, defect, monkeypatch):
    """Exact masks: outside them the product is as it was, inside it is visibly another."""
    monkeypatch.setattr(render, "camera", lambda _, image: np.round(255 * image).astype(np.uint8))
    for seed in range(3):
        good = photograph(np.random.default_rng(seed), category, None, 128)[0].astype(int)
        bad, mask = photograph(np.random.default_rng(seed), category, defect, 128)
        change = np.abs(bad - good).max(-1)

        assert mask.mean() >= render.MINIMUM_AREA
        # On a dark product a patch of the same product may fall short; then the most visible of many draws is kept.
        assert change[mask].mean() >= 255 * render.MINIMUM_CONTRAST / 2
        # A soft edge, and the shadow of a thread, reach a little beyond.
        assert np.mean(change[~mask] > 40) < 0.02


@pytest.mark.parametrize("category", OBJECTS)
def test_defects_lie_on_the_object(category):
    image, silhouette = OBJECTS[category](np.random.default_rng(0), 96)

    _, mask = DEFECTS["hole"](np.random.default_rng(1), np.clip(image, 0, 1), silhouette)

    assert 0.05 < silhouette.mean() < 0.8
    assert (silhouette[mask] > 0.2).all()


def test_a_category_looks_the_same_at_every_size():
    small, large = (photograph(np.random.default_rng(3), "washer", None, size)[0] for size in (60, 240))

    reduced = large.reshape(60, 4, 60, 4, 3).mean((1, 3))
    assert np.corrcoef(reduced.ravel(), small.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("defect", DEFECT_KINDS)
def test_small_defects_cover_the_share_that_is_asked_for(defect, monkeypatch):
    monkeypatch.setattr(render, "camera", lambda _, image: np.round(255 * image).astype(np.uint8))
    good = photograph(np.random.default_rng(1), "gear", None, 480)[0].astype(int)
    bad, mask = photograph(np.random.default_rng(1), "gear", defect, 480, defect_area=(0.001, 0.004))
    change = np.abs(bad - good).max(-1)

    assert 0.001 <= mask.mean() <= 0.004
    assert change[mask].mean() >= 255 * render.MINIMUM_CONTRAST / 2
    assert np.mean(change[~mask] > 40) < 0.002
