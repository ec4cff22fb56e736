# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""All that touches CLIP: backbones, architecture surgery, prompts and their representative vectors."""
