# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Every model's metrics are those of its raw scores."""

import pytest
import torch
from anomalib.data import InferenceBatch
from anomalib.models import Padim
from anomalib.post_processing import PostProcessor
from sklearn.metrics import average_precision_score, roc_auc_score

from anomalib_clipad.host.unclamped import UnclampedPostProcessor, without_clamp
from tiny import sdp


def calibrated(kind: type[PostProcessor], scores: torch.Tensor, threshold: float) -> PostProcessor:
    """A post-processor as a validation on these image scores leaves it; maps are calibrated alike."""
    post_processor = kind()
    for part in ("image", "pixel"):
        getattr(post_processor, f"{part}_min").copy_(scores.min())
        getattr(post_processor, f"{part}_max").copy_(scores.max())
        getattr(post_processor, f"_{part}_threshold").copy_(torch.tensor(threshold))
    return post_processor


@pytest.fixture
def scores() -> torch.Tensor:
    """Scores on a scale of their own, most of them far below the threshold of 40."""
    return 50 * torch.rand(200, generator=torch.Generator().manual_seed(0)) ** 2


def normalised(post_processor: PostProcessor, scores: torch.Tensor) -> torch.Tensor:
    return post_processor(InferenceBatch(pred_score=scores, anomaly_map=scores[:, None, None])).pred_score


def test_metrics_are_those_of_the_raw_scores_where_the_host_changes_them(scores):
    label = (scores + 20 * torch.rand(200, generator=torch.Generator().manual_seed(1)) > 25).numpy()
    ours = normalised(calibrated(UnclampedPostProcessor, scores, 40.0), scores)
    hosts = normalised(calibrated(PostProcessor, scores, 40.0), scores)

    for metric in (roc_auc_score, average_precision_score):
        assert metric(label, ours) == pytest.approx(metric(label, scores), abs=1e-9)
        assert abs(metric(label, hosts) - metric(label, scores)) > 1e-3


def test_range_and_threshold_become_0_half_and_1(scores):
    post_processor = calibrated(UnclampedPostProcessor, scores, 40.0)
    points = torch.stack([scores.min(), torch.tensor(40.0), scores.max()])
    torch.testing.assert_close(normalised(post_processor, points), torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))


def test_labels_are_the_hosts(scores):
    batch = InferenceBatch(pred_score=scores, anomaly_map=scores[:, None, None])
    ours, hosts = (calibrated(kind, scores, 40.0)(batch) for kind in (UnclampedPostProcessor, PostProcessor))
    assert ours.pred_label.tolist() == hosts.pred_label.tolist()
    assert ours.pred_mask.tolist() == hosts.pred_mask.tolist()


def test_scores_beyond_the_validated_ones_keep_their_order(scores):
    beyond = torch.tensor([-5.0, -1.0, 60.0, 70.0])
    values = normalised(calibrated(UnclampedPostProcessor, scores, 40.0), beyond)
    assert values.tolist() == sorted(set(values.tolist()))
    assert values[0] < 0
    assert values[-1] > 1


@pytest.mark.parametrize("threshold", [0.0, 1.0], ids=["on the lowest score", "on the highest"])
def test_a_threshold_on_the_end_of_the_range(threshold):
    scores = torch.tensor([0.0, 0.25, 1.0])
    values = normalised(calibrated(UnclampedPostProcessor, scores, threshold), scores)
    assert values.isfinite().all()
    assert values.tolist() == sorted(set(values.tolist()))


def test_without_validation_scores_stay():
    assert normalised(UnclampedPostProcessor(), torch.tensor([3.0, 7.0])).tolist() == [3.0, 7.0]


def test_only_the_hosts_own_post_processor_is_replaced():
    padim = Padim(backbone="resnet18", layers=["layer1"], pre_trained=False, n_features=5)
    padim.post_processor.image_sensitivity = 0.3
    model = sdp()
    own = model.post_processor

    without_clamp(padim)
    without_clamp(model)

    assert isinstance(padim.post_processor, UnclampedPostProcessor)
    assert padim.post_processor.image_sensitivity == 0.3
    assert model.post_processor is own
