# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Templates of pages: each is one file that loads nothing else."""

from pathlib import Path

import jinja2


def templates(folder: Path) -> jinja2.Environment:
    """Templates of a folder, which may extend ``house.html.jinja`` and include ``house.css``."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
