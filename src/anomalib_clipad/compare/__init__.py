# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Comparison of models on the same images: a grid of jobs, and a record of each."""
