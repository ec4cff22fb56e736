# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The page of a run: a gallery to look through, a threshold to try, and marks to calibrate by."""

from anomalib_clipad.prediction.page.gallery import Gallery, Planes
from anomalib_clipad.prediction.page.run_page import PAGE_FILE, write_page

__all__ = ["PAGE_FILE", "Gallery", "Planes", "write_page"]
