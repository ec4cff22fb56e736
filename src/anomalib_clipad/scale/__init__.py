# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Scoring beyond one process and without end: many machines, folders that fill up, videos."""
