# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Representative vector selection: one vector for the many prompts of a state (CLIP-AD, RVS).

The prompt embeddings (K, C) of a state are samples of a distribution; a strategy picks the vector (C,) that stands for
them, not yet of unit length.
Defaults are the paper's values for MVTec AD. They are lengths in the embedding space, where unit vectors are never
more than 2 apart: ``mean_shift`` at bandwidth 2 and ``dbscan`` at eps 1.5 (the paper's value for VisA) put every
prompt into one cluster and so return the mean. ``"auto"`` takes the length from the embeddings instead.
"""

import logging
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, Literal

import numpy as np
import torch
from sklearn.cluster import DBSCAN, MeanShift, estimate_bandwidth
from sklearn.decomposition import PCA
from sklearn.neighbors import KernelDensity, NearestNeighbors
from torch import Tensor

logger = logging.getLogger(__name__)

Length = float | Literal["auto"]

# Keeps an estimated length positive when prompts coincide; far below any distance between different prompts.
_SMALLEST_LENGTH = 1e-6


def mean(embeddings: np.ndarray) -> np.ndarray:
    """Take the arithmetic mean."""
    return embeddings.mean(axis=0)


def pca(embeddings: np.ndarray) -> np.ndarray:
    """Project the C dimensions, as samples, on the first principal axis of the K prompts, towards their mean."""
    # "full": the randomised solver that is the default for this size is neither exact nor repeatable.
    projection = PCA(n_components=1, svd_solver="full").fit_transform(embeddings.T)[:, 0]
    # The sign of a principal axis is arbitrary.
    return -projection if projection @ mean(embeddings) < 0 else projection


def kde(embeddings: np.ndarray, bandwidth: Length = 0.3) -> np.ndarray:
    """Average the prompts (K, C), each weighted by the Gaussian kernel density at its place.

    ``bandwidth="auto"`` is the mean distance to the farthest of the nearest 30 % of prompts.
    """
    bandwidth = _length("bandwidth", bandwidth, lambda: estimate_bandwidth(embeddings))
    log_density = KernelDensity(bandwidth=bandwidth).fit(embeddings).score_samples(embeddings)
    # In 640 dimensions a density is beyond what fp32 holds; only ratios matter.
    weights = np.exp(log_density - log_density.max())
    return weights @ embeddings / weights.sum()


def dbscan(embeddings: np.ndarray, eps: Length = 0.5, min_samples: int = 15) -> np.ndarray:
    """Take the mean of the largest DBSCAN cluster, of all prompts where there is none; used for the published results.

    The paper's ``eps`` and ``min_samples`` are 0.5 and 15, for VisA 1.5 and 25. ``eps="auto"`` is the median distance
    to the ``min_samples``-th nearest prompt, itself included: half of the prompts are then core points, so that a
    cluster is always found and outliers do not widen the radius.
    """
    if not isinstance(min_samples, int) or min_samples < 1:
        msg = f"Expected min_samples to be an integer of at least 1, but got {min_samples!r}. The paper uses 15."
        raise ValueError(msg)
    eps = _length("eps", eps, lambda: _median_neighbour_distance(embeddings, min_samples))
    labels = DBSCAN(eps=eps, min_samples=min_samples).fit_predict(embeddings)
    return _mean_of_largest_cluster(embeddings, labels, f"dbscan with eps={eps:.3g} and min_samples={min_samples}")


def mean_shift(embeddings: np.ndarray, bandwidth: Length = 2.0) -> np.ndarray:
    """Take the mean of the largest mean-shift cluster, of all prompts where there is none; "auto" as in :func:`kde`."""
    bandwidth = _length("bandwidth", bandwidth, lambda: estimate_bandwidth(embeddings))
    labels = MeanShift(bandwidth=bandwidth).fit_predict(embeddings)
    return _mean_of_largest_cluster(embeddings, labels, f"mean_shift with bandwidth={bandwidth:.3g}")


STRATEGIES: dict[str, Callable[..., np.ndarray]]
STRATEGIES = {strategy.__name__: strategy for strategy in (mean, pca, kde, dbscan, mean_shift)}


def strategy_parameters(strategy: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Complete the parameters of a strategy with its defaults; ValueError if it, or one of them, is unknown."""
    if strategy not in STRATEGIES:
        msg = f"Expected strategy to be one of {list(STRATEGIES)}, but got {strategy!r}."
        raise ValueError(msg)
    _, *tunable = signature(STRATEGIES[strategy]).parameters.values()
    defaults = {parameter.name: parameter.default for parameter in tunable}
    params = dict(params or {})
    unknown = [name for name in params if name not in defaults]
    if unknown:
        msg = f"Expected parameters of strategy {strategy!r} to be among {list(defaults)}, but got {unknown}."
        raise ValueError(msg)
    return {**defaults, **params}


def select_representative(embeddings: Tensor, strategy: str = "dbscan", **params: Any) -> Tensor:
    """Select the vector that represents the prompts of one state.

    Args:
        embeddings: Unit-length prompt embeddings (K, C).
        strategy: A key of ``STRATEGIES``.
        **params: Parameters of the strategy that differ from its defaults.

    Returns:
        The representative vector (C,), of unit length, on the device and in the dtype of ``embeddings``.

    Raises:
        ValueError: If the strategy or a parameter is unknown or out of range, or ``embeddings`` is not a finite,
            non-empty matrix whose representative has a direction.

    Example:
        >>> select_representative(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), "mean")
        tensor([0.7071, 0.7071])
    """
    params = strategy_parameters(strategy, params)
    if embeddings.ndim != 2 or embeddings.numel() == 0:
        msg = (
            f"Expected embeddings to have shape (K, C) with at least one prompt, but got {tuple(embeddings.shape)}. "
            "Give the embeddings of the prompts of one state."
        )
        raise ValueError(msg)
    if not embeddings.isfinite().all():
        count = int((~embeddings.isfinite()).any(dim=1).sum())
        msg = (
            f"Expected embeddings to be finite, but got NaN or infinity in {count} of {len(embeddings)} prompts. "
            "Check the backbone's weights and precision."
        )
        raise ValueError(msg)
    # Double precision: sklearn's distances lose half of their digits to cancellation.
    vector = STRATEGIES[strategy](embeddings.detach().cpu().double().numpy(), **params)
    length = np.linalg.norm(vector)
    if length < _SMALLEST_LENGTH:
        msg = (
            f"Expected embeddings to have a direction in common, but got a {strategy!r} vector of length {length:.1e}. "
            "Check the backbone's weights."
        )
        raise ValueError(msg)
    return torch.as_tensor(vector / length, dtype=embeddings.dtype, device=embeddings.device)


def _length(name: str, value: Length, estimate: Callable[[], float]) -> float:
    if value == "auto":
        return max(float(estimate()), _SMALLEST_LENGTH)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        msg = f"Expected {name} to be a positive number or 'auto', but got {value!r}. Unit vectors are at most 2 apart."
        raise ValueError(msg)
    return float(value)


def _median_neighbour_distance(embeddings: np.ndarray, neighbours: int) -> float:
    # DBSCAN counts a point among its own neighbours, as kneighbors does for the points it was fitted on.
    search = NearestNeighbors(n_neighbors=min(neighbours, len(embeddings))).fit(embeddings)
    distances, _ = search.kneighbors(embeddings)
    # A hair more, for a point whose distance is the median itself.
    return float(np.median(distances[:, -1])) * (1 + 1e-6)


def _mean_of_largest_cluster(embeddings: np.ndarray, labels: np.ndarray, description: str) -> np.ndarray:
    sizes = np.bincount(labels[labels >= 0], minlength=1)  # label -1 is noise
    if sizes.max() < 2:
        # The reference raises here. A prompt on its own represents nothing, so all of them do.
        logger.warning(
            "%s found no cluster among %d prompts: their mean is used instead. Try 'auto' or a larger value.",
            description,
            len(embeddings),
        )
        return mean(embeddings)
    return mean(embeddings[labels == sizes.argmax()])
