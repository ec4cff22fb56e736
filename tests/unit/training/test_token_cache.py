# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Cached tokens, against the tokens themselves."""

import logging
import os
import re
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from anomalib.data import ImageBatch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.tv_tensors import Mask

from anomalib_clipad.base import allocation
from anomalib_clipad.base.allocation import CachePlace
from anomalib_clipad.scoring.heads import TappedPatches
from anomalib_clipad.training.token_cache import CachedTokens, cache_tokens

M, LAYERS, GRID, WIDTH = 5, 2, (2, 3), 8
SHAPE = (LAYERS, 6, WIDTH)
BYTES = 2 * M * 2 * 6 * 8


def loader(batch_size: int = 2, n: int = M) -> DataLoader:
    """Images of one colour, which is their number; odd ones have a defect in the corner of that number."""

    def collate(numbers: list[int]) -> ImageBatch:
        mask = torch.zeros(len(numbers), 4, 6)
        for row, number in enumerate(numbers):
            mask[row, number % 4, 0] = number % 2
        image = torch.tensor(numbers).float().reshape(-1, 1, 1, 1).expand(-1, 3, 4, 6)
        return ImageBatch(image=image, gt_mask=Mask(mask), image_path=[f"{number}.png" for number in numbers])

    return DataLoader(list(range(n)), batch_size, collate_fn=collate)


def tokens_of(number: int) -> Tensor:
    """What the tower makes of an image, (L, N, D)."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(number))


def tap(batch: ImageBatch) -> TappedPatches:
    tokens = torch.stack([tokens_of(int(image[0, 0, 0])) for image in batch.image])
    return TappedPatches(list(tokens.unbind(dim=1)), GRID)


@pytest.fixture(params=["memory", "disk"])
def place(request: pytest.FixtureRequest) -> CachePlace:
    return request.param


@pytest.fixture
def cached(place: CachePlace, tmp_path: Path) -> CachedTokens:
    return cache_tokens(loader(), tap, place, tmp_path / "cache")


def test_batches_are_those_of_the_tower(cached):
    batch = next(iter(DataLoader(cached, batch_size=3, sampler=[4, 0, 3], collate_fn=cached.collate_fn)))

    expected = torch.stack([tokens_of(number) for number in (4, 0, 3)], dim=1)
    layers = torch.stack(batch.patches.layers)
    torch.testing.assert_close(layers, expected, rtol=2**-11, atol=1e-6)  # rounded to half precision
    assert layers.dtype == torch.float32
    assert batch.image_path == ["4.png", "0.png", "3.png"]
    assert (batch.batch_size, batch.patches.grid) == (3, GRID)
    defects = torch.zeros(3, 4, 6, dtype=torch.bool)
    defects[2, 3, 0] = True
    assert torch.equal(batch.gt_mask, defects)
    assert isinstance(batch.gt_mask, Mask)
    assert batch.image.ndim == 4


def test_there_are_as_many_as_images(cached):
    assert len(cached) == M
    assert cached.image_paths == [f"{n}.png" for n in range(M)]


def test_worker_processes_read_the_same(cached):
    def read(workers: int) -> Tensor:
        batches = DataLoader(cached, 2, num_workers=workers, collate_fn=cached.collate_fn)
        return torch.cat([torch.stack(batch.patches.layers, dim=1) for batch in batches])

    assert torch.equal(read(workers=0), read(workers=1))


def test_half_precision_takes_two_bytes_a_number(cached):
    assert cached.tokens.numel() * cached.tokens.element_size() == BYTES


def test_they_lie_in_the_folder_if_on_disk_but_a_kill_leaves_no_file_there(cached, place, tmp_path):
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("not Linux")
    mapped = [line for line in maps.read_text().splitlines() if str(tmp_path) in line]
    assert len(mapped) == (place == "disk")
    assert all("(deleted)" in line for line in mapped)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(cached) == M


def test_a_forked_process_shares_them(cached):
    if not hasattr(os, "fork"):
        pytest.skip("no fork")
    if not (child := os.fork()):
        cached.tokens[3] = 7.0
        os._exit(0)
    os.waitpid(child, 0)
    assert torch.all(cached.tokens[3] == 7.0)


def test_size_is_announced(place, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "anomalib_clipad"):
        cache_tokens(loader(), tap, place, tmp_path / "cache")
    assert f"Caching the tokens of {M} images takes 0.00 GB of {place}." in caplog.text


def test_nothing_is_made_where_it_does_not_fit(place, tmp_path, monkeypatch):
    monkeypatch.setattr(allocation, "_free_bytes", lambda *_: BYTES)
    seen = []
    other = {"memory": "disk", "disk": "memory"}[place]

    message = re.escape(
        f"Expected the cached tokens to fit into {place}, but got 0.00 GB of tokens for 0.00 GB that are free. "
        f"Choose token_cache='{other}' or None, or fewer images."
    )
    with pytest.raises(RuntimeError, match=message):
        cache_tokens(loader(), lambda batch: (seen.append(batch), tap(batch))[1], place, tmp_path / "cache")

    assert len(seen) == 1  # the size is known after one batch, not after all
    assert not list(tmp_path.iterdir())


def test_room_is_needed_for_each_process_of_the_machine(place, tmp_path, monkeypatch):
    monkeypatch.setattr(allocation, "_free_bytes", lambda *_: 2 * BYTES)
    with pytest.raises(RuntimeError, match=r"GB of tokens in each of 2 processes for 0\.00 GB that are free"):
        cache_tokens(loader(), tap, place, tmp_path, processes=2)


@pytest.mark.parametrize("free", [2 * BYTES, None])
def test_it_is_made_where_it_fits_or_the_system_does_not_tell(place, tmp_path, monkeypatch, free):
    monkeypatch.setattr(allocation, "_free_bytes", lambda *_: free)
    assert len(cache_tokens(loader(), tap, place, tmp_path)) == M


def test_free_disk_is_that_of_the_folder_that_will_hold_the_file(tmp_path, monkeypatch):
    asked = []
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(allocation.shutil, "disk_usage", lambda path: (asked.append(path), usage(123))[1])

    assert allocation._free_bytes("disk", tmp_path / "not/there/yet") == 123
    assert asked == [tmp_path]


def test_free_memory_is_what_linux_calls_available():
    lines = Path("/proc/meminfo")
    if not lines.exists():
        pytest.skip("not Linux")
    available = int(re.search(r"MemAvailable:\s+(\d+)", lines.read_text())[1]) * 1024
    assert allocation._free_bytes("memory", Path()) == pytest.approx(available, rel=0.1)


def test_free_memory_is_unknown_where_the_system_does_not_tell(monkeypatch):
    def fail(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(allocation.os, "sysconf", fail)
    assert allocation._free_bytes("memory", Path()) is None


def test_a_dataset_without_images_is_refused(place, tmp_path):
    with pytest.raises(RuntimeError, match="Expected the training dataset to hold images, but got none"):
        cache_tokens(loader(n=0), tap, place, tmp_path)
