# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints and files of heads: what they hold, and the checks before anything is used."""
