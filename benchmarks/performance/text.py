# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Text vectors of one class: prompts at their own length against the full context, and from the disk cache."""

import tempfile
import time

import torch
from torch.nn import functional

from anomalib_clipad.clip.prompt_ensemble import resolve_prompts
from anomalib_clipad.clip.representative import select_representative, strategy_parameters
from anomalib_clipad.clip.text_engine import TextEngine
from benchmarks.performance.setting import Setting
from benchmarks.performance.table import Row
from benchmarks.performance.timing import alternate, ratio


@torch.inference_mode()
def measure(setting: Setting) -> list[Row]:
    """Time both ways for the 418 prompts of a class."""
    clip, prompts = setting.backbone, resolve_prompts(None)
    parameters = strategy_parameters("mean", None)

    def full() -> None:
        for state in prompts.prompts("bottle"):
            embeddings = [
                clip.model.encode_text(clip.tokenizer(state[start : start + 256]))
                for start in (0, 256)[: -(-len(state) // 256)]
            ]
            select_representative(functional.normalize(torch.cat(embeddings), dim=-1), "mean", **parameters)

    def ours() -> None:
        TextEngine(clip, prompts, "mean", cache_dir=False).text_embeddings("bottle")

    seconds = alternate({"full": full, "ours": ours}, 1 if setting.smoke else 2)
    with tempfile.TemporaryDirectory() as folder:
        TextEngine(clip, prompts, "mean", cache_dir=folder).text_embeddings("bottle")
        start = time.perf_counter()
        TextEngine(clip, prompts, "mean", cache_dir=folder).text_embeddings("bottle")
        cached = time.perf_counter() - start
    context = clip.tokenizer(["bottle"]).shape[1]
    return [
        Row(
            f"text vectors of a class: full {context}-token encoding ÷ ours",
            ratio(seconds["full"], seconds["ours"]),
            4,
            "large",
            note=f"ours {min(seconds['ours']):.1f} s",
        ),
        Row("text vectors of a class from the disk cache", 1000 * cached, 50, unit=" ms"),
    ]
