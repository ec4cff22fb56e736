# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Models on the backbone that ships with the package, fast enough for every test, and a quiet engine to run them."""

from pathlib import Path
from typing import Any

from anomalib.engine import Engine
from lightning.pytorch import Callback

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


def make_engine(folder: Path, *callbacks: Callback, **arguments: Any) -> Engine:
    """The host's engine, quiet, whose results lie in a folder."""
    quiet = {"logger": False, "enable_progress_bar": False}
    return Engine(default_root_dir=folder, callbacks=list(callbacks), **{**quiet, **arguments})
