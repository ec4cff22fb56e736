# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Images in, scores and maps out: the maths of CLIP-AD, without anomalib's wiring."""
