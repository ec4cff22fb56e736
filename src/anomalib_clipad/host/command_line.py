# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Errors on the host's command line."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def plain_errors() -> Iterator[None]:
    """End ``anomalib`` with the message of an error alone where a model cannot be made of its arguments.

    The host's parser takes the error for one of parsing: 190 lines of its own code, and the message once among the
    types that were tried. In Python errors are raised as they are. Removable when jsonargparse, 4.46 today, lets the
    errors of a class's constructor pass.
    """
    try:
        yield
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        if Path(sys.argv[0]).stem != "anomalib":
            raise
        sys.exit(f"anomalib: error: {error}")
