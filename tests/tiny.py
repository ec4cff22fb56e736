# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Models on the backbone that ships with the package: no download, and fast enough for every test."""

from typing import Any

from anomalib_clipad import SDP, SDPPlus

BACKBONE = "clipad-tiny"
ON_TINY = ("--model.backbone", BACKBONE)
"""The same on the command line."""


def sdp(**options: Any) -> SDP:
    """SDP on the small backbone."""
    return SDP(**{"backbone": BACKBONE, **options})


def sdp_plus(**options: Any) -> SDPPlus:
    """SDP+ on the small backbone."""
    return SDPPlus(**{"backbone": BACKBONE, **options})
