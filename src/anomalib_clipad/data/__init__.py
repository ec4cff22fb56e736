# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Datamodules over several categories."""

from anomalib_clipad.data.multi_category import MVTec, VisA
from anomalib_clipad.data.synthetic import SyntheticDefects

__all__ = ["MVTec", "SyntheticDefects", "VisA"]
