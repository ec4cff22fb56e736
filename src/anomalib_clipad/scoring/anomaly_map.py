# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""From embeddings to anomaly maps: pure functions, in float32 whatever the precision of their input.

Upsampling and blur are linear and separable, so each is a small matrix applied to the rows and another one applied to
the columns. One product of the two replaces both steps, on the small patch grid instead of the large map. Call these
functions outside autocast, which would run the products in half precision.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# scipy.ndimage.gaussian_filter cuts its kernel off at this many standard deviations.
_BLUR_TRUNCATE = 4.0


def cosines(embeddings: Tensor, text_embeddings: Tensor) -> Tensor:
    """Cosines ``(B, 1 + N, 2)`` of every token ``(B, 1 + N, C)``, which need not be normalised, to the two texts.

    Normal and anomalous text embeddings are those of each image ``(B, C, 2)``, or of all ``(C, 2)``.
    """
    # Dividing the products by the lengths saves a normalised copy of all tokens.
    embeddings = embeddings.float()
    products = embeddings @ functional.normalize(text_embeddings.float(), dim=-2)
    return products / torch.linalg.vector_norm(embeddings, dim=-1, keepdim=True).clamp_min(1e-12)


def patch_scores(embeddings: Tensor, text_embeddings: Tensor, *, feature_surgery: bool = True) -> Tensor:
    """Anomaly scores ``(B, N)`` in [-1, 1] at one tapped layer: feature surgery over two classes, in closed form.

    With cosines s of a patch and p, the softmax over the cosines of the class token, the class weighting and the
    subtraction of redundant features come down to ``p_a * s_a - p_n * s_n``: nothing larger than ``(B, N, 2)`` is
    needed. Arguments are those of :func:`cosines`. Without feature surgery, an ablation, it is ``(s_a - s_n) / 2``.
    """
    similarity = cosines(embeddings, text_embeddings)
    class_token = similarity[:, :1] if feature_surgery else torch.zeros_like(similarity[:, :1])
    weights = class_token.softmax(dim=-1)  # (B, 1, 2); the reference uses no temperature here
    normal, anomalous = (weights * similarity[:, 1:]).unbind(dim=-1)
    return anomalous - normal


def class_probability(embeddings: Tensor, text_embeddings: Tensor, logit_scale: float = 100.0) -> Tensor:
    """Probability ``(B,)`` that an image is anomalous, by its class token alone, as in zero-shot classification.

    Arguments are those of :func:`cosines`, of the last layer. CLIP models are trained towards a logit scale of 100.
    """
    return (logit_scale * cosines(embeddings[:, :1], text_embeddings)).softmax(dim=-1)[:, 0, 1]


def resample(
    maps: Tensor, size: tuple[int, int] | None = None, sigma: float = 0.0, *, align_corners: bool = False
) -> Tensor:
    """Bilinear upsampling of maps ``(..., h, w)``, then a Gaussian blur, in one step on the smaller maps, in float32.

    Equal to ``torch.nn.functional.interpolate``, whose gradient takes a quarter of the time of a training step, and to
    ``scipy.ndimage.gaussian_filter`` with its default arguments. ``sigma`` is in pixels of ``size``, the height and
    width wanted; ``None`` stands for those of the maps.
    """
    if not (math.isfinite(sigma) and sigma >= 0):
        msg = f"Expected sigma to be a finite number of pixels, 0 or more, but got {sigma}. Use 0 for no blur."
        raise ValueError(msg)
    # What a graph is traced with is no matrix to keep.
    traced = torch.compiler.is_compiling() or type(maps) is not Tensor
    make = _matrix if traced else kept_matrix
    sources = maps.shape[-2:]
    rows, columns = (
        make(source, target, sigma, align_corners, maps.device)
        for source, target in zip(sources, size or sources, strict=True)
    )
    return rows @ maps.float() @ columns.T


def head_logits(patch_embeddings: Tensor, text_embeddings: Tensor, logit_scale: float = 100.0) -> Tensor:
    """Logits ``(B, N)`` that patches ``(B, N, C)``, embedded by one head of SDP+, are anomalous rather than normal.

    A softmax over two cosines is the sigmoid of their difference, so that one product ``u (t_a - t_n)`` suffices. As in
    :func:`cosines` it is divided by the length of u, which saves a normalised copy of all patches and its gradient.
    """
    normal, anomalous = functional.normalize(text_embeddings.float(), dim=-2).split(1, dim=-1)
    embeddings = patch_embeddings.float()
    lengths = torch.linalg.vector_norm(embeddings, dim=-1).clamp_min(1e-12)
    return logit_scale * (embeddings @ (anomalous - normal)).squeeze(-1) / lengths


def head_logit_map(logits: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Upsample logits of heads ``(..., N)`` from the patch grid to pixels, ``(..., H, W)``, for the loss."""
    _check_patches("logits", [logits], grid)
    # Unlike SDP's map, which the reference upsamples by align_corners=False.
    return resample(logits.unflatten(-1, grid), size, align_corners=True)


def head_map(logits: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Anomaly maps of heads of SDP+, before any blur: probabilities ``(..., H, W)``; see :func:`head_logit_map`."""
    return head_logit_map(logits, grid, size).sigmoid()


def sdp_map(
    scores: Sequence[Tensor],
    grid: tuple[int, int],
    size: tuple[int, int],
    sigma: float,
    logits: Sequence[Tensor] = (),
    head_weight: float = 1.0,
) -> Tensor:
    """Anomaly maps ``(B, H, W)`` of SDP, and with the logits of heads those of SDP+: upsampled, blurred, in [0, 1].

    The reference sums the L layers' scores in [-1, 1] and the heads' probabilities. (sum / L + 1) / 2, with heads (sum
    + L) / (3 L), ranks pixels the same way and suits the host, whose metrics squash values outside [0, 1]. The blur is
    linear and its kernel sums to one: SDP's part is blurred on the patch grid, and only the heads' part, whose sigmoid
    follows the upsampling, at full size, all heads at once.

    Scores and logits are ``(B, N)`` of each of the L layers, N the patches of ``grid``; ``sigma`` is in pixels of
    ``size``. SDP's maps have weight 1, those of the heads ``head_weight``, which is 1 in the paper.
    """
    _check_patches("scores", scores, grid)
    mean_score = torch.stack([layer.float() for layer in scores]).mean(dim=0)
    # In place: each new map of full size would cost as much as the blur.
    total, parts = resample(mean_score.unflatten(-1, grid), size, sigma).add_(1), 2.0  # from [0, 2]
    if logits:
        if len(logits) != len(scores):
            msg = (
                f"Expected logits to be those of {len(scores)} heads, one for each layer of the scores, "
                f"but got {len(logits)}. Use heads made for the tapped layers."
            )
            raise ValueError(msg)
        if not (math.isfinite(head_weight) and head_weight >= 0):
            msg = f"Expected head_weight to be a finite number, 0 or more, but got {head_weight}. The paper's is 1."
            raise ValueError(msg)
        from_heads = resample(head_map(torch.stack(list(logits)), grid, size).mean(dim=0), sigma=sigma)
        total, parts = total.add_(head_weight * from_heads), parts + head_weight
    # Rounding may leave a value a few 1e-8 outside, which would be enough for the host to squash the batch.
    return total.div_(parts).clamp_(0, 1)


def _check_patches(name: str, layers: Sequence[Tensor], grid: tuple[int, int]) -> None:
    if not layers or any(layer.shape[-1] != grid[0] * grid[1] for layer in layers):
        msg = (
            f"Expected {name} to hold at least one layer of {grid[0]}x{grid[1]} = {grid[0] * grid[1]} patches, "
            f"but got layers of {[layer.shape[-1] for layer in layers]} patches. Pass the grid of the same image."
        )
        raise ValueError(msg)


def _matrix(source: int, target: int, sigma: float, align_corners: bool, device: torch.device) -> Tensor:
    """Weights ``(target, source)`` of upsampling and blur along one axis, float32; not all devices have float64."""
    if source == target:
        matrix = _blur_matrix(target, sigma)
    else:
        matrix = _upsample_matrix(source, target, align_corners=align_corners)
        matrix = _blur_matrix(target, sigma) @ matrix if sigma else matrix
    return matrix.float().to(device)


@lru_cache(maxsize=16)
def kept_matrix(*arguments: Any) -> Tensor:
    """The same, built once. SDP+ needs six for an oblong input; 16 take 64 MB at most where the sides are 1,024 px."""
    with torch.inference_mode(mode=False), torch.device("cpu"):  # predicting may come first, training later
        return _matrix(*arguments)


def _upsample_matrix(source: int, target: int, *, align_corners: bool) -> Tensor:
    """Weights ``(target, source)`` of linear interpolation along one axis, float64."""
    positions = torch.arange(target, dtype=torch.float64)
    if align_corners:
        positions = positions * ((source - 1) / max(target - 1, 1))
    else:
        positions = ((positions + 0.5) * (source / target) - 0.5).clamp(0, source - 1)
    distances = positions.unsqueeze(1) - torch.arange(source, dtype=torch.float64)
    return (1 - distances.abs()).clamp_min(0)


def _blur_matrix(size: int, sigma: float) -> Tensor:
    """Weights ``(size, size)`` of a Gaussian blur along one axis, float64.

    scipy mirrors the axis about its ends, edge pixel repeated. Pixel j is thus seen at j and at -1 - j, both repeated
    every 2 * size pixels as far as the kernel reaches; its weight for pixel i is the sum over all these images.
    """
    radius = int(_BLUR_TRUNCATE * sigma + 0.5)
    if radius == 0:
        return torch.eye(size, dtype=torch.float64)
    repeats = -(-(radius + size) // (2 * size))
    pixels = torch.arange(size)
    shifts = 2 * size * torch.arange(-repeats, repeats + 1).unsqueeze(1)
    images = torch.cat([shifts + pixels, shifts - 1 - pixels])  # (images, size): where pixel j is seen
    distances = (images.unsqueeze(1) - pixels.unsqueeze(1)).abs()  # (images, size, size): from pixel i
    kernel = torch.exp(-0.5 * (torch.arange(radius + 1, dtype=torch.float64) / sigma) ** 2)
    kernel = functional.pad(kernel, (0, 1))  # one zero, for all that is out of reach
    matrix = kernel[distances.clamp_max(radius + 1)].sum(dim=0)
    return matrix / matrix.sum(dim=1, keepdim=True)
