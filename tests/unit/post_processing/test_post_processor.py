# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration in validation, normalisation in testing, classes apart."""

from types import SimpleNamespace

import pytest
import torch
from anomalib.data import ImageBatch, InferenceBatch
from sklearn.metrics import roc_auc_score

from anomalib_clipad.post_processing.calibration import unit_calibration
from anomalib_clipad.post_processing.post_processor import CategoryPostProcessor

N_IMAGES = 12


@pytest.fixture
def module() -> SimpleNamespace:
    """What the post-processor needs of a Lightning module: images alternate between two classes."""
    return SimpleNamespace(
        class_names=["nut", "bolt"],
        known_good=None,
        class_index=lambda batch: torch.arange(batch.batch_size) % 2,
    )


def make_batch(seed: int = 0, scale: float = 1.0) -> ImageBatch:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(N_IMAGES, 8, 8, dtype=torch.bool)
    mask[: N_IMAGES // 2, 2:4, 2:4] = True
    offset = 0.1 * (torch.arange(N_IMAGES) % 2)  # the two classes have different ranges
    maps = 0.4 + offset[:, None, None] + scale * 0.1 * torch.rand(N_IMAGES, 8, 8, generator=generator) + 0.05 * mask
    return ImageBatch(
        image=torch.zeros(N_IMAGES, 3, 8, 8),
        gt_label=mask.flatten(1).any(1),
        gt_mask=mask,
        pred_score=0.3 + offset + scale * 0.2 * torch.rand(N_IMAGES, generator=generator),
        anomaly_map=maps,
    )


def validated(module: SimpleNamespace, **arguments: float) -> CategoryPostProcessor:
    post_processor = CategoryPostProcessor(**arguments)
    post_processor.resize(2)
    post_processor.on_validation_epoch_start(None, module)
    post_processor.on_validation_batch_end(None, module, make_batch())
    post_processor.on_validation_epoch_end(None, module)
    return post_processor


def test_uncalibrated_score_is_the_mean_of_probability_and_map_maximum():
    raw = InferenceBatch(pred_score=torch.tensor([0.3]), anomaly_map=torch.full((1, 4, 4), 0.6))

    result = CategoryPostProcessor(enable_normalization=False)(raw)

    # 1 % at either end is kept for values beyond a calibrated range.
    assert result.pred_score.item() == pytest.approx(0.01 + 0.98 * 0.45)
    assert not result.pred_label.item()
    assert result.pred_mask.all()


def test_each_class_gets_its_own_ranges(module):
    post_processor, batch = validated(module), make_batch()

    for index in (0, 1):
        torch.testing.assert_close(
            post_processor.score_ranges[index, 0], torch.stack(batch.pred_score[index::2].aminmax())
        )
        torch.testing.assert_close(
            post_processor.pixel_ranges[index], torch.stack(batch.anomaly_map[index::2].aminmax())
        )


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_rank_metrics_of_a_category_are_those_of_the_raw_scores(module, scale):
    post_processor, batch = validated(module), make_batch(seed=1, scale=scale)
    raw_maps = batch.anomaly_map.clone()

    post_processor.on_test_batch_end(None, module, batch)

    for index in (0, 1):
        labels = batch.gt_mask[index::2].ravel()
        expected = roc_auc_score(labels, raw_maps[index::2].ravel())
        assert roc_auc_score(labels, batch.anomaly_map[index::2].ravel()) == pytest.approx(expected, abs=1e-6)
    for values in (batch.pred_score, batch.anomaly_map):
        assert values.min() >= 0
        assert values.max() <= 1


def test_labels_are_set_where_the_normalised_score_exceeds_one_half(module):
    post_processor, batch = validated(module), make_batch()

    post_processor.on_test_batch_end(None, module, batch)

    assert torch.equal(batch.pred_label, batch.pred_score > 0.5)
    assert torch.equal(batch.pred_mask, batch.anomaly_map > 0.5)


def test_thresholds_hold_without_normalisation_too(module):
    """The host compares raw scores with 0.5 in this case."""
    normalised, plain = make_batch(), make_batch()

    validated(module).on_test_batch_end(None, module, normalised)
    validated(module, enable_normalization=False).on_test_batch_end(None, module, plain)

    assert torch.equal(normalised.pred_mask, plain.pred_mask)
    assert torch.equal(normalised.pred_label, plain.pred_label)
    torch.testing.assert_close(plain.anomaly_map, make_batch().anomaly_map)


def test_a_higher_sensitivity_finds_more(module):
    careful, lenient = make_batch(), make_batch()

    validated(module, pixel_sensitivity=0.8).on_test_batch_end(None, module, careful)
    validated(module, pixel_sensitivity=0.2).on_test_batch_end(None, module, lenient)

    assert careful.pred_mask.sum() > lenient.pred_mask.sum()


def test_resize_keeps_what_is_known(module):
    post_processor = validated(module)
    known = post_processor.score_ranges.clone()

    post_processor.resize(3)

    torch.testing.assert_close(post_processor.score_ranges[:2], known)
    torch.testing.assert_close(post_processor.score_ranges[2], torch.tensor([[0.0, 1.0], [0.0, 1.0]]))


def test_calibration_survives_a_state_dict(module):
    post_processor = validated(module)
    other = CategoryPostProcessor()
    other.resize(2)

    other.load_state_dict(post_processor.state_dict())

    torch.testing.assert_close(other.pixel_thresholds, post_processor.pixel_thresholds)


def test_an_interrupted_validation_leaves_nothing_behind(module):
    post_processor = CategoryPostProcessor()
    post_processor.resize(2)
    post_processor.on_validation_batch_end(None, module, make_batch(seed=5, scale=4))

    post_processor.on_validation_epoch_start(None, module)
    post_processor.on_validation_batch_end(None, module, make_batch())
    post_processor.on_validation_epoch_end(None, module)

    torch.testing.assert_close(post_processor.score_ranges, validated(module).score_ranges)


def test_a_class_is_calibrated_whatever_its_ranges_are():
    post_processor = CategoryPostProcessor()
    post_processor.resize(3)

    post_processor.calibrate(1, unit_calibration())
    post_processor.calibrate(2, unit_calibration())
    post_processor.calibrate(2, None)

    assert [post_processor.is_calibrated(index) for index in range(3)] == [False, True, False]
    post_processor.resize(4)
    post_processor.select([3, 1])
    assert [post_processor.is_calibrated(index) for index in range(2)] == [False, True]


@pytest.mark.parametrize("buffer", ["score_ranges", "image_thresholds", "pixel_ranges", "pixel_thresholds"])
def test_a_state_without_the_flag_tells_by_its_ranges(buffer):
    earlier, loaded = CategoryPostProcessor(), CategoryPostProcessor()
    earlier.resize(3)
    loaded.resize(3)
    getattr(earlier, buffer)[1] *= 0.9
    state = {name: value for name, value in earlier.state_dict().items() if name != "calibrated"}

    loaded.load_state_dict(state)

    assert [loaded.is_calibrated(index) for index in range(3)] == [False, True, False]
