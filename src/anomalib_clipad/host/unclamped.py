# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The host's post-processing without its clamp, so that every model's metrics are those of its raw scores."""

import torch
from anomalib.models import AnomalibModule
from anomalib.post_processing import PostProcessor


class UnclampedPostProcessor(PostProcessor):
    """anomalib's ``PostProcessor`` with a normalisation that keeps the order of all scores.

    The host moves the threshold to ½ and cuts off what then lies outside [0, 1] before the metrics see it: all scores
    beyond become ties, which costs models unequally. Here both sides of the threshold are stretched by themselves:
    lowest score of the validation to 0, threshold to ½, highest to 1; scores beyond go on along the line. Overrides a
    private method of anomalib 2.7; superfluous once its metrics see scores that are not cut off.
    """

    @staticmethod
    def _normalize(
        preds: torch.Tensor | None, norm_min: torch.Tensor, norm_max: torch.Tensor, threshold: torch.Tensor
    ) -> torch.Tensor | None:
        """Normalise scores of any shape; without a range, as where nothing was validated, they stay as they are."""
        if preds is None or torch.isnan(norm_min) or torch.isnan(norm_max):
            return preds
        middle = torch.where(torch.isnan(threshold), (norm_min + norm_max) / 2, threshold)
        # In double: two scores must not become one by rounding.
        distance = preds.double() - middle
        below, above = ((end - middle).abs().double() for end in (norm_min, norm_max))
        width = torch.where(distance < 0, _positive(below), _positive(above))
        return 0.5 + distance / width / 2


def without_clamp(model: AnomalibModule) -> None:
    """Replace the post-processor of a model by one without the clamp, where it is the host's own."""
    if type(model.post_processor) is PostProcessor:
        model.post_processor = UnclampedPostProcessor(**model.post_processor.checkpoint_config())


def _positive(width: torch.Tensor) -> torch.Tensor:
    """A width to divide by: 1 where the threshold lies on the end of the range."""
    return torch.where(width > 0, width, 1.0)
