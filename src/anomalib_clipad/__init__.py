# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""CLIP-AD for anomalib: zero-shot anomaly detection with a frozen CLIP (https://arxiv.org/abs/2311.00453)."""

from ._version import __version__
from .data import MVTec, SyntheticDefects, VisA
from .lightning_model import SDP

__all__ = ["SDP", "MVTec", "SyntheticDefects", "VisA", "__version__"]
