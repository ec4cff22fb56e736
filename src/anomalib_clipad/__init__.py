# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""CLIP-AD for anomalib: zero-shot anomaly detection with a frozen CLIP (https://arxiv.org/abs/2311.00453)."""

from anomalib_clipad._version import __version__
from anomalib_clipad.clip import list_backbones
from anomalib_clipad.data import ImageList, MVTec, SyntheticDefects, Transfer, VisA
from anomalib_clipad.metrics import CategoryEvaluator, ReferencePRO
from anomalib_clipad.models import SDP, SDPPlus
from anomalib_clipad.post_processing import CategoryPostProcessor
from anomalib_clipad.prediction import CategoryVisualizer

__all__ = [
    "SDP",
    "CategoryEvaluator",
    "CategoryPostProcessor",
    "CategoryVisualizer",
    "ImageList",
    "MVTec",
    "ReferencePRO",
    "SDPPlus",
    "SyntheticDefects",
    "Transfer",
    "VisA",
    "__version__",
    "list_backbones",
]
