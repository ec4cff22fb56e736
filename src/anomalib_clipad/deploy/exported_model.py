# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What is deployed of a model, and its files: PyTorch, ONNX and OpenVINO.

Raw images in, calibrated scores out; the text vectors are constants and the text tower is not needed any more. Files
appear complete or not at all.
"""

import copy
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn

from anomalib_clipad._version import __version__
from anomalib_clipad.base.files import atomic_write
from anomalib_clipad.post_processing.post_processor import CategoryPostProcessor, post_process
from anomalib_clipad.scoring.torch_model import SDPModel

CLASS_INPUT = "class_index"
"""Second input of a graph of several classes."""

METADATA_SECTION = "anomalib_clipad"
"""Section of OpenVINO's rt_info that holds what ONNX has among its metadata."""


class ExportedModel(nn.Module):
    """Pre-processing, model and post-processing of K classes, ``class_names``, in one: raw images in, scores out."""

    def __init__(self, transform: nn.Module | None, model: SDPModel, post_processor: nn.Module | None) -> None:
        super().__init__()
        self.transform = transform
        self.model = model
        self.post_processor = post_processor
        self.class_names: tuple[str, ...] = tuple(model.texts.names)

    def forward(self, image: Tensor, class_index: Tensor | None = None) -> InferenceBatch:
        """Score raw images (B, 3, H, W) in [0, 1]: scores (B,), labels (B,), maps (B, H, W) and masks (B, H, W).

        ``class_index`` (B,) points into ``class_names``; with one class it may be left out. A compiled graph cannot
        raise: it gives images of an index without a class scores and maps that are NaN.
        """
        known = None
        if class_index is not None and torch.compiler.is_compiling():
            known = (class_index >= 0) & (class_index < len(self.class_names))
            class_index = class_index.clamp(0, len(self.class_names) - 1)
        predictions = self.model(image if self.transform is None else self.transform(image), class_index)
        predictions = post_process(self.post_processor, predictions, class_index)
        return predictions if known is None else _without_unknown(predictions, known)


def _without_unknown(predictions: InferenceBatch, known: Tensor) -> InferenceBatch:
    """Replace what was said about images of no known class (B,)."""
    nan = torch.full_like(predictions.pred_score, torch.nan)
    pixels = known[:, None, None]
    return InferenceBatch(
        pred_score=torch.where(known, predictions.pred_score, nan),
        pred_label=None if predictions.pred_label is None else predictions.pred_label & known,
        anomaly_map=torch.where(pixels, predictions.anomaly_map, nan[:, None, None]),
        pred_mask=None if predictions.pred_mask is None else predictions.pred_mask & pixels,
    )


def select_classes(
    model: SDPModel, post_processor: nn.Module | None, class_index: Sequence[int]
) -> tuple[SDPModel, nn.Module | None]:
    """Copy a model and its post-processor with some of their classes, in that order; the vision tower is shared."""
    chosen = copy.deepcopy(model, {id(model.visual): model.visual}).requires_grad_(False).eval()
    indices = list(class_index)
    chosen.texts.replace([model.texts.names[index] for index in indices], model.texts.embeddings[indices].clone())
    chosen.memory.select(indices)
    calibrated = _without_model(post_processor)
    if isinstance(calibrated, CategoryPostProcessor):
        calibrated.select(indices)
    return chosen, calibrated


def _without_model(post_processor: nn.Module | None) -> nn.Module | None:
    """Copy a post-processor without the two methods that Lightning lends it, which would take along their model."""
    copied = copy.copy(post_processor)
    for borrowed in ("log", "log_dict"):
        vars(copied or nn.Module()).pop(borrowed, None)
    return copy.deepcopy(copied)


def metadata(exported: ExportedModel, name: str, backbone: str, evidence: Sequence[str]) -> dict[str, str]:
    """What the files say about themselves: strings, of which those with an item a class are JSON lists."""
    known, n_classes = exported.post_processor, len(exported.class_names)
    calibrated = known.calibrated.tolist() if isinstance(known, CategoryPostProcessor) else [False] * n_classes
    return {
        "class_names": json.dumps(exported.class_names),
        "calibrated": json.dumps(calibrated),
        "evidence": json.dumps(list(evidence)),
        "model": name,
        "scales": json.dumps(exported.model.looks.scales),
        "tiles": json.dumps(exported.model.looks.tiles and vars(exported.model.looks.tiles)),
        "backbone": backbone,
        "version": __version__,
    }


def write_torch(exported: ExportedModel, path: Path) -> Path:
    """Write what the host's ``TorchInferencer`` reads: a pickle of the module under the key ``model``."""
    with atomic_write(path) as draft:
        torch.save({"model": exported}, draft)
    return path


def require_modules(*names: str) -> None:
    """Refuse to go on without packages that export needs: ModuleNotFoundError."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        msg = (
            f"Expected {', '.join(missing)} to be installed for this export, but found none. "
            "Run `pip install 'anomalib-clipad[openvino]'`."
        )
        raise ModuleNotFoundError(msg, name=missing[0])
