# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What the evaluator of a job keeps for the report."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import ImageBatch
from scipy.integrate import trapezoid

from anomalib_clipad.compare.curves import curves_of
from anomalib_clipad.compare.recorder import RecordingEvaluator
from anomalib_clipad.compare.records import MAX_CURVE_POINTS


def batches(n: int = 6, side: int = 300) -> list[ImageBatch]:
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(n, side, side, dtype=torch.bool)
    masks[::2, 10:60, 20:90] = True
    maps = 0.5 * torch.rand(n, side, side, generator=generator) + 0.4 * masks
    scores = torch.rand(n, generator=generator)
    return [
        ImageBatch(
            image=torch.zeros(3, 3, side, side),
            image_path=[f"{index}.png" for index in range(start, start + 3)],
            mask_path=["None" if index % 2 else f"{index}_mask.png" for index in range(start, start + 3)],
            gt_label=torch.tensor([1 - index % 2 for index in range(start, start + 3)]),
            gt_mask=masks[start : start + 3],
            pred_score=scores[start : start + 3],
            anomaly_map=maps[start : start + 3],
        )
        for start in range(0, n, 3)
    ]


@pytest.fixture
def evaluator(tmp_path) -> RecordingEvaluator:
    evaluator = RecordingEvaluator()
    evaluator.log = lambda *_, **__: None
    trainer = SimpleNamespace(
        datamodule=None, test_dataloaders=None, is_global_zero=True, default_root_dir=tmp_path, barebones=False
    )
    evaluator.on_test_epoch_start(trainer, None)
    for index, batch in enumerate(batches()):
        evaluator.on_test_batch_end(trainer, None, None, batch, index)
    evaluator.on_test_epoch_end(trainer, None)
    return evaluator


def test_scores_and_reduced_maps_are_kept(evaluator):
    images, _ = evaluator.recorded()

    assert images.image_path.tolist() == [f"{index}.png" for index in range(6)]
    assert images.mask_path.tolist() == ["0_mask.png", "", "2_mask.png", "", "4_mask.png", ""]
    assert images.gt_label.tolist() == [True, False] * 3
    np.testing.assert_allclose(images.pred_score, torch.cat([batch.pred_score for batch in batches()]))
    assert images.maps.shape == (6, 128, 128)
    mean = torch.cat([batch.anomaly_map for batch in batches()]).mean(dim=(1, 2)) * 255
    np.testing.assert_allclose(images.maps.mean(axis=(1, 2)), mean, atol=1)
    assert evaluator.input_size == (300, 300)
    assert evaluator.seconds > 0


def test_masks_that_collation_drops_are_known_from_the_dataset(tmp_path):
    evaluator = RecordingEvaluator()
    samples = pd.DataFrame(
        {
            "image_path": [f"{index}.png" for index in range(6)],
            "mask_path": ["a_mask.png", None, "c_mask.png", "", Path("e_mask.png"), float("nan")],
        }
    )
    dataset = SimpleNamespace(samples=samples)
    trainer = SimpleNamespace(datamodule=None, test_dataloaders=SimpleNamespace(dataset=dataset))
    evaluator.on_test_epoch_start(trainer, None)
    for index, batch in enumerate(batches()):
        batch.mask_path = None  # as where the first image of a batch is normal
        evaluator.on_test_batch_end(trainer, None, None, batch, index)
    images, _ = evaluator.recorded()
    assert images.mask_path.tolist() == ["a_mask.png", "", "c_mask.png", "", "e_mask.png", ""]


def test_metrics_are_those_of_the_evaluator_and_of_the_curves(evaluator):
    _, curves = evaluator.recorded()
    [values] = evaluator.report.categories.values()

    for name, metric in (("image_roc", "image_AUROC"), ("pixel_roc", "pixel_AUROC")):
        curve = curves[name]
        assert len(curve["fpr"]) <= MAX_CURVE_POINTS
        if name == "pixel_roc":  # of few images the curve is a staircase, whose corners the points do not hold
            assert trapezoid(curve["tpr"], curve["fpr"]) == pytest.approx(values[metric], abs=0.01)
    limit = np.linspace(0, 0.3, 1001)
    area = np.interp(limit, curves["pro"]["fpr"], curves["pro"]["pro"]).mean()
    assert area == pytest.approx(values["pixel_AUPRO"], abs=0.02)


def test_what_is_undefined_lacks():
    scores, normal = torch.rand(3), torch.zeros(3)
    assert curves_of(scores, normal, None, None) == {}
    assert curves_of(scores, normal, torch.rand(3, 4, 4), torch.zeros(3, 4, 4)) == {}
    assert set(curves_of(scores, torch.tensor([0, 1, 0]), torch.rand(3, 4, 4), None)) == {"image_roc"}
