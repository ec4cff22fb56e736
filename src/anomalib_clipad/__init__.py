# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""CLIP-AD for anomalib: zero-shot anomaly detection with a frozen CLIP (https://arxiv.org/abs/2311.00453)."""

from anomalib_clipad._version import __version__
from anomalib_clipad.data import ImageList, MVTec, SyntheticDefects, Transfer, VisA
from anomalib_clipad.lightning_model import SDP
from anomalib_clipad.lightning_model_plus import SDPPlus

__all__ = ["SDP", "ImageList", "MVTec", "SDPPlus", "SyntheticDefects", "Transfer", "VisA", "__version__"]
