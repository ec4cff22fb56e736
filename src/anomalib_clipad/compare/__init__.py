# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Comparison of models on the same images: a grid of jobs, and a record of each."""

from importlib.util import find_spec

if missing := [name for name in ("jinja2", "psutil") if find_spec(name) is None]:
    msg = (
        f"Expected the extra 'compare' to be installed, but got no {' and no '.join(missing)}. "
        "Install it: pip install 'anomalib-clipad[compare]'."
    )
    raise ImportError(msg)
