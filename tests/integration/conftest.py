# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of commands share."""

from pathlib import Path

import pytest

from terminal import Terminal


@pytest.fixture
def anomalib(tmp_path: Path) -> Terminal:
    """A terminal in an empty folder."""
    return Terminal(tmp_path)
