# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The same images give the same scores: to the last digit by the same call, to 1e-4 by other batches and threads."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import layouts
from anomalib_clipad.prediction.table import CSV_FILE, JSON_FILE
from tiny import sdp, sdp_plus

MODELS = {"SDP": sdp, "SDP+": lambda **options: sdp_plus(heads="embedded", **options)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    layouts.write_images(tmp_path / "photos", 5)
    layouts.write_images(tmp_path / "photos/bad", 4, anomalous=True, seed=9)
    return tmp_path / "photos"


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("pool", [False, True])
def test_the_same_call_writes_the_same_tables(kind: str, pool: bool, photos: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        model = MODELS[kind](class_name="nut").calibrate(photos, pool=pool)
        model.predict(photos, pool=pool).save(tmp_path / name, page=False)
    for file in (CSV_FILE, JSON_FILE):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


@pytest.mark.parametrize("kind", MODELS)
def test_batches_and_threads_change_only_the_rounding(kind: str, photos: Path, threads: None) -> None:
    model = MODELS[kind](class_name="nut")
    torch.set_num_threads(1)
    expected = model.predict(photos, batch_size=1)
    for count, size in ((1, 9), (2, 1), (2, 4)):
        torch.set_num_threads(count)
        found = model.predict(photos, batch_size=size)
        torch.testing.assert_close(found.pred_score, expected.pred_score, atol=1e-4, rtol=0)
        torch.testing.assert_close(found.anomaly_map, expected.anomaly_map, atol=1e-4, rtol=0)
