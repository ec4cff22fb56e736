# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Procedural products with procedural defects and exact masks."""

from anomalib_clipad.data.synthetic.datamodule import SyntheticDefects

__all__ = ["SyntheticDefects"]
