# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""SDP on a GPU: images/s by batch and precision, and the time for the test images of MVTec AD.

Without a GPU the rows say so.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from anomalib_clipad.models.geometry import make_pre_processor
from anomalib_clipad.post_processing.post_processor import CategoryPostProcessor
from benchmarks.performance.setting import Setting
from benchmarks.performance.table import Row

MODES = {"fp32": torch.float32, "bf16": torch.bfloat16, "bf16 compiled": torch.bfloat16}

MVTEC_TEST_IMAGES = {700: 115, 800: 167, 840: 117, 900: 83, 1000: 132, 1024: 1111}
"""Side in pixels to number of test images: 1,725 in all, of 15 categories."""


def measure(setting: Setting) -> list[Row]:
    """Measure on the first CUDA device, or return rows without figures."""
    if not (torch.cuda.is_available() or setting.smoke):
        reason = "no GPU on this machine"
        speed = [Row(f"GPU, {mode}: images/s for batch 1 to 256", None, note=reason) for mode in MODES]
        return [*speed, Row("GPU, bf16: all 1,725 test images of MVTec AD", None, unit=" s", note=reason)]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batches, share = ([1, 2], 0.01) if setting.smoke else ([1, 4, 16, 64, 256], 1.0)
    with torch.inference_mode():
        speed = [
            _speed(setting, device, mode, batches) for mode in MODES if mode != "bf16 compiled" or not setting.smoke
        ]
        return [*speed, _mvtec(setting, device, share)]


def _speed(setting: Setting, device: torch.device, mode: str, batches: list[int]) -> Row:
    """Images/s at each batch, and the best of them against the bare tower and the card's largest product."""
    sdp, tower = setting.sdp().to(device), setting.backbone.model.visual.to(device)
    if mode.endswith("compiled"):
        sdp.compile()
    rates, bare = [], []
    with _precision(device, MODES[mode]):
        for batch in batches:
            image = setting.images(batch).to(device)
            rates.append(batch / _seconds(lambda image=image: sdp(image), device))
            bare.append(batch / _seconds(lambda image=image: tower(image), device))
        with FlopCounterMode(display=False) as counter:
            tower(setting.images(1).to(device))
    limit = _peak_flops(device, MODES[mode]) / counter.get_total_flops()
    best = max(rates)
    listed = ", ".join(f"{batch}: {rate:.0f}" for batch, rate in zip(batches, rates, strict=True))
    note = f"{listed}; bare tower at best {max(bare):.0f}, at the speed of the card's largest product {limit:.0f}"
    return Row(f"{device.type.upper()}, {mode}: images/s at best", best, better="large", note=note)


def _mvtec(setting: Setting, device: torch.device, share: float) -> Row:
    """Seconds for noise of the sizes of MVTec AD's test images, from main memory to scores; nothing is decoded."""
    sdp = setting.sdp().to(device)
    clip, post_processor = setting.backbone, CategoryPostProcessor().eval().to(device)
    transform: Any = make_pre_processor(clip.image_size, clip.mean, clip.std).transform
    start = time.perf_counter()
    for side, count in MVTEC_TEST_IMAGES.items():
        wanted = max(1, round(share * count))
        images = torch.randint(0, 255, (min(32, wanted), 3, side, side), dtype=torch.uint8)
        for first in range(0, wanted, len(images)):
            batch = images[: wanted - first].to(device).float() / 255
            with _precision(device, torch.bfloat16):
                post_processor(sdp(transform(batch))).pred_score.cpu()
    note = "noise of their sizes, resized on the device; without decoding, metrics and pictures"
    seconds = time.perf_counter() - start
    return Row(f"{device.type.upper()}, bf16: all 1,725 test images of MVTec AD", seconds, unit=" s", note=note)


def _precision(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    return torch.autocast(device.type, dtype) if dtype != torch.float32 else contextlib.nullcontext()


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    """Best of three timings of five calls, after a warm-up."""
    function()
    timings = []
    for _ in range(3):
        _synchronise(device)
        start = time.perf_counter()
        for _ in range(5):
            function()
        _synchronise(device)
        timings.append((time.perf_counter() - start) / 5)
    return min(timings)


def _peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of one large matrix product: what the card really reaches."""
    size = 8192 if device.type == "cuda" else 512
    matrix: Tensor = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / _seconds(lambda: matrix @ matrix, device)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
