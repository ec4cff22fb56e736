# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""All that touches CLIP: backbones, architecture surgery, prompts and their representative vectors."""

from anomalib_clipad.clip.architectures import list_backbones
from anomalib_clipad.clip.backbone import load_backbone
from anomalib_clipad.clip.prompt_ensemble import PromptEnsemble
from anomalib_clipad.clip.representative import select_representative
from anomalib_clipad.clip.surgery import surgery_tokens
from anomalib_clipad.clip.text_engine import TextEngine

__all__ = ["PromptEnsemble", "TextEngine", "list_backbones", "load_backbone", "select_representative", "surgery_tokens"]
