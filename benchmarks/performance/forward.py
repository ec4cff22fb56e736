# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Forward passes against the bare image tower of open_clip: the same batch, threads and precision."""

import torch
from anomalib.data import InferenceBatch

from anomalib_clipad.clip.surgery import surgery_tokens
from anomalib_clipad.post_processing.post_processor import CategoryPostProcessor
from anomalib_clipad.scoring.anomaly_map import class_probability, head_logits, patch_scores, sdp_map
from benchmarks.performance.setting import Setting
from benchmarks.performance.table import Row
from benchmarks.performance.timing import alternate, ratio


@torch.inference_mode()
def measure(setting: Setting) -> list[Row]:
    """Time SDP and SDP+ against the tower, and the part of each that follows the tower."""
    clip, image = setting.backbone, setting.images()
    sdp, plus, post_processor = setting.sdp(), setting.sdp_plus(), CategoryPostProcessor().eval()
    tokens = surgery_tokens(clip.model.visual, image, sdp.layers)
    size = (image.shape[-2], image.shape[-1])

    def after_tower() -> InferenceBatch:
        texts = sdp.texts(None)
        scores = [patch_scores(layer, texts) for layer in tokens.embeddings]
        raw = InferenceBatch(
            pred_score=class_probability(tokens.embeddings[-1], texts),
            anomaly_map=sdp_map(scores, tokens.grid, size, sdp.sigma),
        )
        return post_processor(raw)

    def after_tower_plus() -> InferenceBatch:
        texts = plus.texts(None)
        scores = [patch_scores(layer, texts) for layer in tokens.embeddings]
        logits = [head_logits(layer, texts) for layer in plus.heads(tokens.patches)]
        raw = InferenceBatch(
            pred_score=class_probability(tokens.embeddings[-1], texts),
            anomaly_map=sdp_map(scores, tokens.grid, size, plus.sigma, logits),
        )
        return post_processor(raw)

    seconds = alternate(
        {
            "tower": lambda: clip.model.encode_image(image),
            "SDP": lambda: sdp(image),
            "SDP+": lambda: plus(image),
            "after": after_tower,
            "after+": after_tower_plus,
        },
        rounds=1 if setting.smoke else 2 * setting.rounds,  # the differences are small
    )
    tower = seconds["tower"]
    rate = setting.batch_size / sorted(tower)[len(tower) // 2]
    return [
        Row("SDP forward ÷ bare image tower", ratio(seconds["SDP"], tower), 1.15, note=f"tower: {rate:.1f} images/s"),
        Row("SDP+ forward ÷ bare image tower", ratio(seconds["SDP+"], tower), 1.18),
        Row("everything after the tower ÷ tower, SDP", ratio(seconds["after"], tower), 0.03),
        Row("the same of SDP+, its heads included", ratio(seconds["after+"], tower), note="heads alone are 1.9 %"),
    ]
