# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""One rule for text, heads, references and pool: a weighted mean on the scale of a probability.

The text's cosines become a probability by the CLIP's own temperature, as in zero-shot classification. With heads, whose
maps are probabilities already, the text's part is the map of SDP+. Distances to other images are multiplied by 3.5 and
cut off at 1, as in FADE (https://arxiv.org/abs/2409.00556), whose backbone and weights are those of CLIP-AD. Where
there are no other images nothing is fused: the map is the paper's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anomalib_clipad.host.command_line import plain_errors
from anomalib_clipad.scoring.anomaly_map import resample

DISTANCE_GAIN = 3.5
"""Brings the upper end of distances near 1 (FADE, section on the fusion of language and vision)."""


@dataclass(frozen=True)
class Weights:
    """Weights of the sources, of maps as of image scores; what counts is their ratio.

    Args:
        text: Weight of the text's part; 0 to look at the others alone. The heads of SDP+ belong to it.
        references: Weight of the distances to references.
        pool: Weight of the scores by the other images of a pool.
    """

    text: float = 0.15
    references: float = 0.85
    pool: float = 0.85

    @plain_errors()
    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (isfinite(value) and value >= 0):
                msg = f"Expected weights.{name} to be a finite number, 0 or more, but got {value}."
                raise ValueError(msg)

    @classmethod
    def of(cls, given: "Weights | Mapping[str, Any] | None", default: "Weights | None" = None) -> "Weights":
        """Weights of what a user gave: some of them by name, or ``None`` for the defaults, those of a backbone.

        Raises:
            ValueError: If there is no such source, or a weight is not valid.
        """
        if isinstance(given, Weights):
            return given
        names = [field.name for field in fields(cls)]
        for name in given or {}:
            if name not in names:
                msg = f"Expected weights of {', '.join(names)}, but got one of {name}."
                raise ValueError(msg)
        return replace(default or cls(), **(given or {}))


class PoolScores(NamedTuple):
    """What the other images of a pool say of B images: patch scores (B, N) in [0, 2], image scores (B,) in [0, 1].

    ``known`` (B,) tells which images were scored.
    """

    patches: Tensor
    images: Tensor
    known: Tensor


class Source(NamedTuple):
    """What one source says of B images: maps (B, H, W) and image scores (B,), probabilities; and its weights (B,)."""

    anomaly_map: Tensor
    score: Tensor
    weight: Tensor


def text_map(
    scores: Sequence[Tensor], grid: tuple[int, int], size: tuple[int, int], sigma: float, logit_scale: float = 100.0
) -> Tensor:
    """What SDP says of each pixel, as a probability (B, H, W).

    The first arguments are those of :func:`~anomalib_clipad.scoring.anomaly_map.sdp_map`. Where the class token favours
    neither text, a score of feature surgery is half the difference of two cosines; twice that at the temperature that
    a CLIP has learnt is their softmax.
    """
    mean_score = torch.stack([layer.float() for layer in scores]).mean(dim=0)
    return (2 * logit_scale * resample(mean_score.unflatten(-1, grid), size, sigma)).sigmoid()


def distance_map(
    distances: Tensor, grid: tuple[int, int], size: tuple[int, int], sigma: float
) -> tuple[Tensor, Tensor]:
    """Maps (B, H, W) and image scores (B,) by distances (B, N) in [0, 1] of patches to those of other images."""
    scaled = (DISTANCE_GAIN * distances).clamp(max=1)
    return resample(scaled.unflatten(-1, grid), size, sigma), scaled.amax(dim=-1)


def pool_map(pool: PoolScores, grid: tuple[int, int], size: tuple[int, int], sigma: float) -> tuple[Tensor, Tensor]:
    """The same of a pool; lengths of differences of unit vectors become half of 1 minus cosines."""
    return distance_map(as_distances(pool.patches), grid, size, sigma)[0], pool.images


def as_distances(mutual: Tensor) -> Tensor:
    """Distances ``(1 - cos) / 2`` in [0, 1] that stand for lengths of differences of unit vectors, in [0, 2]."""
    return (mutual / 2).square()


def fuse_sources(text: Source, others: Sequence[Source], of_text_alone: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (B, H, W) and image scores (B,): means of all sources by their weights.

    Images that the ``others`` do not weigh at all keep the map ``of_text_alone`` (B, H, W), and the text's score.
    """
    weighs = torch.stack([source.weight for source in others]).sum(dim=0) > 0
    sources = [text._replace(weight=torch.where(weighs, text.weight, 1.0)), *others]
    total = torch.stack([source.weight for source in sources]).sum(dim=0)
    shares = [source.weight / total for source in sources]
    maps = torch.stack(
        [share[:, None, None] * source.anomaly_map for share, source in zip(shares, sources, strict=True)]
    )
    scores = torch.stack([share * source.score for share, source in zip(shares, sources, strict=True)])
    fused = maps.sum(dim=0).clamp(0, 1)
    return torch.where(weighs[:, None, None], fused, of_text_alone), scores.sum(dim=0)
