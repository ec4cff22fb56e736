# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of the package, as ratios within one run: ``make bench``."""
