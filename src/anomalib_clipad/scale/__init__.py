# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Scoring beyond one process and without end: many machines, folders that fill up, videos."""

from importlib.util import find_spec


def require_ray() -> None:
    """Refuse to go on without Ray Data: ImportError."""
    missing = [name for name in ("ray", "pyarrow") if find_spec(name) is None]
    if missing:
        msg = (
            f"Expected the extra 'ray' to be installed, but got no {' and no '.join(missing)}. "
            "Install it: pip install 'anomalib-clipad[ray]'."
        )
        raise ImportError(msg)
