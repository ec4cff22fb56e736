# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What every room needs and no library has: whole files, joined processes, short lists."""
