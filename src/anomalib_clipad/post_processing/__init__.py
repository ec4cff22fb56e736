# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""From raw scores to calibrated ones, with thresholds from labelled or unlabelled images."""

from anomalib_clipad.post_processing.post_processor import CategoryPostProcessor

__all__ = ["CategoryPostProcessor"]
