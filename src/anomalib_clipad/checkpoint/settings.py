# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The settings that a checkpoint was calibrated with: a model of other settings does not take it silently.

The host's commands make a model of their own arguments, whatever a checkpoint was made with, and only then load it.
"""

import hashlib
import json
from collections.abc import Mapping

from anomalib_clipad.clip.prompt_ensemble import PromptEnsemble
from anomalib_clipad.clip.text_engine import TextEngine
from anomalib_clipad.scoring.torch_model import SDPModel

_SDP_SETTINGS = ("sigma", "layers", "taps", "staged", "architecture_surgery", "feature_surgery")
_SDP_PLUS_SETTINGS = ("sigma", "head_weight")
"""Layers and taps are compared with the heads'."""


def describe_settings(model: SDPModel, text_engine: TextEngine) -> dict[str, str]:
    """Describe, as the user's arguments, what scores depend on beside weights and input.

    Example:
        >>> from anomalib_clipad import SDP
        >>> clipad = SDP("clipad-tiny", sigma=4)
        >>> describe_settings(clipad.model, clipad.collaborators.text_engine)["sigma"]
        '4.0'
    """
    names = _SDP_SETTINGS if model.heads is None else _SDP_PLUS_SETTINGS
    return {
        **{name: _as_argument(getattr(model, name)) for name in names},
        "prompts": _describe_prompts(text_engine.prompts),
        "strategy": text_engine.strategy,
        "strategy_params": json.dumps(text_engine.strategy_params, sort_keys=True),
    }


def check_settings(saved: Mapping[str, str], actual: Mapping[str, str]) -> None:
    """Compare the settings of a checkpoint with those of the model that loads it.

    Raises:
        ValueError: If they differ.
    """
    for name, value in saved.items():
        if actual.get(name) != value:
            msg = (
                f"Expected {name} to be {value}, with which the checkpoint was made and calibrated, but got "
                f"{actual.get(name)}. Pass the checkpoint's (--model.{name}), or begin without the checkpoint."
            )
            raise ValueError(msg)


def _as_argument(value: str | float | bool | tuple[int, ...]) -> str:
    """Text of a value, the same for 4 and 4.0."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(float(value))
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _describe_prompts(ensemble: PromptEnsemble) -> str:
    """Number of prompts for a class, and a fingerprint of them all."""
    states = (ensemble.normal_states, ensemble.anomalous_states)
    content = json.dumps([*states, ensemble.templates, sorted(ensemble.aliases.items())])
    number = sum(map(len, states)) * len(ensemble.templates)
    return f"{number} prompts of fingerprint {hashlib.sha256(content.encode()).hexdigest()[:12]}"
