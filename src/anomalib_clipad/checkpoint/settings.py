# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint was made and calibrated with: another model, or one of other settings, does not take it silently.

The host's commands make a model of their own arguments, whatever a checkpoint was made with, and only then load it.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from anomalib_clipad.checkpoint.head_files import CHECKPOINT_KEY, CHECKPOINT_METADATA
from anomalib_clipad.clip.backbone import Backbone
from anomalib_clipad.clip.prompt_ensemble import PromptEnsemble
from anomalib_clipad.clip.text_engine import TextEngine
from anomalib_clipad.scoring.looks import Tiles
from anomalib_clipad.scoring.torch_model import SDPModel

_SDP_SETTINGS = ("sigma", "layers", "taps", "staged", "architecture_surgery", "feature_surgery")
_SDP_PLUS_SETTINGS = ("sigma", "head_weight")
"""Layers and taps are compared with the heads'."""


def describe_model(model: SDPModel, backbone: Backbone, text_engine: TextEngine) -> dict[str, Any]:
    """Describe a model as plain data, for this package's entry of a checkpoint."""
    return {
        "class_names": list(model.texts.names),
        "backbone": backbone.name,
        "fingerprint": backbone.fingerprint,
        "settings": describe_settings(model, text_engine),
    }


def check_model(checkpoint: Mapping[str, Any], model: SDPModel, backbone: Backbone) -> dict[str, Any]:
    """Return this package's entry of a checkpoint; ValueError if that is of another model or backbone."""
    ours = "SDP" if model.heads is None else "SDPPlus"
    saved: dict[str, Any] | None = checkpoint.get(CHECKPOINT_KEY)
    if saved is None:
        msg = f"Expected a checkpoint of {ours}, but got one without '{CHECKPOINT_KEY}'."
        raise ValueError(msg)
    theirs = "SDPPlus" if CHECKPOINT_METADATA in saved else "SDP"
    if ours != theirs:
        msg = f"Expected a checkpoint of {ours}, but got one of {theirs}. Use it with --model anomalib_clipad.{theirs}."
        raise ValueError(msg)
    if saved["fingerprint"] != backbone.fingerprint:
        msg = (
            f"Expected a checkpoint made with the weights of this model's backbone ({backbone.name}, "
            f"pretrained={backbone.pretrained!r}), but got one made with other weights of {saved['backbone']}. "
            "Pass the same backbone and pretrained as when it was saved."
        )
        raise ValueError(msg)
    return saved


def describe_settings(model: SDPModel, text_engine: TextEngine) -> dict[str, str]:
    """Describe, as the user's arguments, what scores depend on beside weights and input."""
    names = _SDP_SETTINGS if model.heads is None else _SDP_PLUS_SETTINGS
    return {
        **{name: _as_argument(getattr(model, name)) for name in names},
        "prompts": _describe_prompts(text_engine.prompts),
        "strategy": text_engine.strategy,
        "scales": str([list(scale) for scale in model.looks.scales]),
        "tiles": _describe_tiles(model.looks.tiles),
        "weights": ", ".join(f"{name} {value:g}" for name, value in vars(model.weights).items()),
        "strategy_params": json.dumps(text_engine.strategy_params, sort_keys=True),
    }


def check_settings(saved: Mapping[str, str], actual: Mapping[str, str]) -> None:
    """Raise ``ValueError`` if the settings of a checkpoint are not those of the model that loads it."""
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


def _describe_tiles(tiles: Tiles | None) -> str:
    """What scores depend on: how many the tower sees at once changes none."""
    return "none" if tiles is None else f"size {tiles.size}, overlap {tiles.overlap:g}, whole {tiles.whole}"


def _describe_prompts(ensemble: PromptEnsemble) -> str:
    """Number of prompts for a class, and a fingerprint of them all."""
    states = (ensemble.normal_states, ensemble.anomalous_states)
    content = json.dumps([*states, ensemble.templates, sorted(ensemble.aliases.items())])
    number = sum(map(len, states)) * len(ensemble.templates)
    return f"{number} prompts of fingerprint {hashlib.sha256(content.encode()).hexdigest()[:12]}"
