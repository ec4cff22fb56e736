# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Models that ship with the package, see the model card beside this file."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

_FOLDER = Path(__file__).parent
_TOKEN_ROWS = "token_embedding.rows"
_TOKEN_WEIGHT = "token_embedding.weight"

NAMES: tuple[str, ...] = tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))


EVIDENCE_WEIGHTS: dict[str, dict[str, dict[str, float]]] = {
    "clipad-tiny": {
        "SDP": {"text": 0.4, "references": 0.1, "pool": 0.9},
        "SDP+": {"text": 0.95, "references": 0.05, "pool": 0.05},
    }
}
"""Weights of text, references and pool, by model: chosen on training categories, see docs/memory.md."""


def config(name: str) -> dict[str, Any]:
    """Architecture of an embedded model, in the format of open_clip's model configurations."""
    settings: dict[str, Any] = json.loads((_FOLDER / f"{name}.json").read_text())
    return settings


def heads_file(name: str) -> Path:
    """File of SDP+ heads that ship with a model; ValueError if it has none."""
    path = _FOLDER / f"{name}-heads.safetensors"
    if not path.is_file():
        msg = (
            f"Expected heads that ship with the package to be for one of {', '.join(NAMES)}, but got {name!r}. "
            "Give a file of heads, or train them: `anomalib train --model anomalib_clipad.SDPPlus --data MVTec`."
        )
        raise ValueError(msg)
    return path


def state_dict(name: str) -> dict[str, Tensor]:
    """Weights of an embedded model, float32.

    The files are in half precision and hold only the token embeddings that occurred in training; all others are zero,
    as they were then.
    """
    state = {key: tensor.float() for key, tensor in load_file(_FOLDER / f"{name}.safetensors").items()}
    rows = state.pop(_TOKEN_ROWS).long()
    used = state[_TOKEN_WEIGHT]
    state[_TOKEN_WEIGHT] = used.new_zeros(config(name)["text_cfg"]["vocab_size"], used.shape[1]).index_copy(
        0, rows, used
    )
    return state
