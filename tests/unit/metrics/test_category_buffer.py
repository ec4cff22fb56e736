# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Buffers of predictions, also of two real processes."""

from pathlib import Path

import pytest
import torch
from torchvision.tv_tensors import Mask

import warm
from anomalib_clipad.metrics.category_buffer import CategoryBuffer

IN_ONE_OF_TWO_PROCESSES = """
import sys
from pathlib import Path
import torch
from torch import distributed
from anomalib_clipad.metrics.category_buffer import CategoryBuffer

rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method=f"file://{Path(sys.argv[2]).absolute()}", rank=rank, world_size=2)
both, first_only = CategoryBuffer(), CategoryBuffer()
both.append({"pred_score": torch.tensor([0.1, 0.2 + rank]), "gt_mask": None}, ["same.png", f"{rank}.png"])
if rank == 0:
    first_only.append({"gt_label": torch.tensor([1, 0, 1])}, ["a.png", None, "a.png"])
assert torch.equal(both.gather().joined()["pred_score"], torch.tensor([0.1, 0.2, 1.2]))
assert both.gather().joined()["gt_mask"] is None
assert first_only.gather().joined()["gt_label"].tolist() == [1, 0]
assert len(first_only.gather()) == 2
distributed.destroy_process_group()
"""


def test_join() -> None:
    buffer = CategoryBuffer()
    assert (len(buffer), buffer.joined()) == (0, {})
    buffer.append({"gt_mask": Mask(torch.ones(2, 4, 4)), "pred_score": torch.tensor([0.1, 0.2])}, ["a", Path("b")])
    buffer.append({"gt_mask": None, "pred_score": torch.tensor([0.3])}, [None])
    columns = buffer.joined()
    assert len(buffer) == 3
    assert columns["gt_mask"] is None  # one image lacks it
    assert torch.equal(columns["pred_score"], torch.tensor([0.1, 0.2, 0.3]))


def test_masks_become_plain_tensors() -> None:
    buffer = CategoryBuffer()
    buffer.append({"gt_mask": Mask(torch.ones(1, 4, 4))}, ["a"])
    assert type(buffer.joined()["gt_mask"]) is torch.Tensor


def test_merge() -> None:
    buffers = [CategoryBuffer(), CategoryBuffer()]
    for index, buffer in enumerate(buffers):
        buffer.append({"pred_score": torch.tensor([float(index)])}, ["a"])
    merged = CategoryBuffer.merge(buffers)
    assert len(merged) == 2
    assert merged.joined()["pred_score"].tolist() == [0.0, 1.0]


@pytest.mark.slow
def test_gather_on_two_processes(tmp_path: Path) -> None:
    (tmp_path / "gather.py").write_text(IN_ONE_OF_TWO_PROCESSES)
    processes = [warm.Running(["gather.py", str(rank), "store"], cwd=tmp_path) for rank in range(2)]
    assert [process.wait(300) for process in processes] == [0, 0], [process.printed() for process in processes]
