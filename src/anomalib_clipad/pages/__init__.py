# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What pages of results share: one skeleton, one style, and small pictures."""
