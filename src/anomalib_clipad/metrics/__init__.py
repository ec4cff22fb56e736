# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics per category and their mean, exact or in bounded memory."""

from anomalib_clipad.metrics.evaluator import CategoryEvaluator
from anomalib_clipad.metrics.reference_pro import ReferencePRO

__all__ = ["CategoryEvaluator", "ReferencePRO"]
