# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Images of a user's own in, scores, tables and pictures out."""

from anomalib_clipad.prediction.predictions import Prediction, Predictions
from anomalib_clipad.prediction.visualizer import CategoryVisualizer

__all__ = ["CategoryVisualizer", "Prediction", "Predictions"]
