# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The package version, its only source: the build and the package both read it here."""

__version__ = "0.1.0"
