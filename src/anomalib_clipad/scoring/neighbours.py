# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Anomaly by comparison with other images: pure functions of patch tokens, in float32 whatever their precision.

References are images known to be good: a patch that resembles none of theirs is anomalous (WinCLIP+,
https://arxiv.org/abs/2303.14814; APRIL-GAN, https://arxiv.org/abs/2305.17382). The images of a pool are unlabelled and
score each other: a patch that resembles few of the others' is anomalous (MuSc, https://arxiv.org/abs/2401.16753).
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

DEGREES = (1, 3, 5)
"""Sides of the neighbourhoods, in patches, that mutual scoring averages over."""

NEAREST_SHARE = 0.3
"""Share of the other images of a pool, the nearest ones of each patch, that score it."""

RANKS = (1, 2, 3)
"""Numbers of neighbours, the image itself included, by which the image scores of a pool are smoothed."""

_BLOCK_BYTES = 2**27
"""Size of the largest block of cosines that is held at once, unless the caller says otherwise."""


def reference_distances(patches: Sequence[Tensor], memory: Sequence[Tensor], allowed: Tensor | None = None) -> Tensor:
    """Distances (B, N) in [0, 1] of patches to the nearest one in memory: ``min (1 - cos) / 2``, mean over L layers.

    Args:
        patches: Patch tokens (B, N, D) of each layer, not normalised.
        memory: Unit patch tokens (M, D) of the references, of each layer.
        allowed: Which rows of the memory are of the class of each image (B, M); ``None`` for all. An image without any
            has the distance 0.
    """
    total = patches[0].new_zeros((), dtype=torch.float32)
    for tokens, rows in zip(patches, memory, strict=True):
        cosines = functional.normalize(tokens.float(), dim=-1) @ rows.float().T  # (B, N, M)
        if allowed is not None:
            cosines = cosines.masked_fill(~allowed[:, None], -2.0)
        total = total + (1 - cosines.amax(dim=-1)) / 2
    distances = (total / len(patches)).clamp(0, 1)
    return distances if allowed is None else distances * allowed.any(dim=1, keepdim=True)


def neighbourhood(patches: Tensor, grid: tuple[int, int], degree: int) -> Tensor:
    """Unit means (B, N, D) of the ``degree`` x ``degree`` patches round each patch (B, N, D).

    Before that an image is normalised over all its patches and channels. Outside of the grid are zeros, which count.
    """
    tokens = functional.layer_norm(patches.float(), patches.shape[-2:])
    planes = tokens.transpose(1, 2).unflatten(-1, grid)  # (B, D, h, w)
    means = functional.avg_pool2d(planes, degree, stride=1, padding=degree // 2)
    return functional.normalize(means.flatten(2).transpose(1, 2), dim=-1)


def mutual_scores(
    layers: Iterable[Tensor],
    grid: tuple[int, int],
    degrees: Sequence[int] = DEGREES,
    share: float = NEAREST_SHARE,
    block_bytes: int = _BLOCK_BYTES,
) -> Tensor:
    """Scores (B, N) in [0, 2] of the patches of a pool of B images by each other (MuSc).

    Args:
        layers: Patch tokens (B, N, D) of each tapped layer, in any precision; those of one are held at a time.
        grid: Patches along the height and the width.
        degrees: Odd sides of the neighbourhoods, in patches.
        share: Share of the other images, those nearest to a patch, whose distances are averaged; one image at least.
        block_bytes: Largest block of cosines held at once. The result does not depend on it beyond rounding.

    Raises:
        ValueError: If there is one image only, or a degree is even.
    """
    if any(degree < 1 or degree % 2 == 0 for degree in degrees):
        msg = f"Expected degrees to be odd numbers of patches, but got {list(degrees)}. MuSc's are 1, 3 and 5."
        raise ValueError(msg)
    found = []
    for layer in layers:
        if len(layer) < 2:
            msg = f"Expected a pool of at least 2 images, but got {len(layer)}. Images of a pool score each other."
            raise ValueError(msg)
        found += [_mutual_scores(neighbourhood(layer, grid, degree), share, block_bytes) for degree in degrees]
    return torch.stack(found).mean(dim=0)


def _mutual_scores(patches: Tensor, share: float, block_bytes: int) -> Tensor:
    """The same for unit vectors (B, N, D) of one layer and degree."""
    n_images, n_patches = patches.shape[:2]
    nearest = max(1, int(share * (n_images - 1)))
    side = max(1, min(n_images, int((block_bytes / 4) ** 0.5 / n_patches)))  # images along both sides of a block
    scores = []
    for rows in _slices(n_images, side):
        blocks = [_distances(patches[rows], patches[others]) for others in _slices(n_images, side)]
        distances = torch.cat(blocks, dim=-1)  # (A, N, B)
        own = torch.arange(rows.start, rows.stop)
        distances[own - rows.start, :, own] = torch.inf
        scores.append(distances.topk(nearest, dim=-1, largest=False).values.mean(dim=-1).cpu())
    return torch.cat(scores)


def smoothed_by_neighbours(scores: Tensor, embeddings: Tensor, ranks: Sequence[int] = RANKS) -> Tensor:
    """Image scores (B,) of a pool, averaged over the images that look most alike: MuSc's RsCIN.

    MuSc scales the scores to [0, 1] first. Its means are linear, so that this may as well be done afterwards, or not.

    Args:
        scores: Image scores (B,).
        embeddings: Image embeddings (B, C), not normalised.
        ranks: Numbers of neighbours, the image itself included; their results are averaged. Those beyond B are B.
    """
    unit = functional.normalize(embeddings.float(), dim=-1)
    values, indices = (unit @ unit.T).topk(min(max(ranks), len(scores)), dim=-1)
    smoothed = [
        (values[:, :rank] * scores[indices[:, :rank]]).sum(dim=-1) / values[:, :rank].sum(dim=-1) for rank in ranks
    ]
    return torch.stack(smoothed).mean(dim=0)


def _distances(one: Tensor, others: Tensor) -> Tensor:
    """Distances (A, N, B) of each unit patch (A, N, D) to the nearest one of each of other images (B, N, D)."""
    cosines = (one.flatten(0, 1) @ others.flatten(0, 1).T).unflatten(1, others.shape[:2])  # (A N, B, N)
    nearest = cosines.amax(dim=-1).unflatten(0, one.shape[:2])
    return (2 - 2 * nearest).clamp_min(0).sqrt()


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))
