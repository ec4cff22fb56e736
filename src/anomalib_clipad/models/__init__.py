# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The model classes of anomalib, SDP and SDPPlus: wiring, no maths."""

from anomalib_clipad.host.results import link_latest
from anomalib_clipad.models.lightning_model import SDP
from anomalib_clipad.models.lightning_model_plus import SDPPlus

__all__ = ["SDP", "SDPPlus"]

link_latest()
