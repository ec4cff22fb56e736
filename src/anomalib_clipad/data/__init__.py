# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Datamodules over several categories, and from one dataset to another."""

from anomalib_clipad.data.image_list import ImageList
from anomalib_clipad.data.multi_category import MVTec, VisA
from anomalib_clipad.data.synthetic import SyntheticDefects
from anomalib_clipad.data.transfer import Transfer

__all__ = ["ImageList", "MVTec", "SyntheticDefects", "Transfer", "VisA"]
