# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Counted pixels against the exact metrics of the same pixels."""

import pytest
import torch

from anomalib_clipad.metrics.binned_pixels import BinnedPixels
from anomalib_clipad.metrics.rank_metrics import RankCurve, area_under_pro, aupr, aupro, auroc, f1_max


def make(levels: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return maps in [0, 1] and masks (8, 24, 20), with scores at the centres of so many bins."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(8, 24, 20, dtype=torch.bool)
    masks[0, 2:9, 3:8] = masks[0, 12:14, 12:20] = masks[5, :, :4] = True
    maps = 0.6 * torch.rand(8, 24, 20, generator=generator) + 0.3 * masks * torch.rand(8, 1, 1, generator=generator)
    return (maps if levels is None else ((maps * levels).floor() + 0.5) / levels), masks


@pytest.mark.parametrize(("levels", "bins", "error"), [(50, 50, 1e-12), (None, 2**16, 1e-4)])
def test_counts_give_the_metrics_of_the_pixels(levels, bins, error):
    maps, masks = make(levels)
    exact = RankCurve.from_scores(maps, masks)
    pixels = BinnedPixels(bins)
    for start in range(0, 8, 3):  # in batches, the last of them smaller and without any defect
        pixels.update(maps[start : start + 3], masks[start : start + 3])

    curve = pixels.curve()

    for metric in (auroc, aupr, f1_max):
        assert metric(curve) == pytest.approx(metric(exact), abs=error)
    assert area_under_pro(pixels.curve(), pixels.region_overlap(), 0.3) == pytest.approx(
        aupro(exact, masks, 0.3), abs=error
    )


def test_parts_add_up():
    maps, masks = make(None)
    whole = BinnedPixels(1000)
    whole.update(maps, masks)
    parts = [BinnedPixels(1000), BinnedPixels(1000)]
    parts[0].update(maps[:3], masks[:3])
    parts[1].update(maps[3:], masks[3:])

    joined = BinnedPixels.merged(parts)

    assert (joined.normal == whole.normal).all()
    assert joined.region_overlap() == pytest.approx(whole.region_overlap())


def test_scores_that_are_not_finite_are_noticed():
    pixels = BinnedPixels(10)
    pixels.update(torch.full((1, 2, 2), float("nan")), torch.zeros(1, 2, 2))
    assert not pixels.finite


def test_one_bin_is_refused():
    with pytest.raises(ValueError, match="Expected pixel_bins to be at least 2, but got 1"):
        BinnedPixels(1)
