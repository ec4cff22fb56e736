# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Files of SDP+ heads: written with what they were made for, read without running anything in them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from anomalib_clipad.base.files import atomic_write
from anomalib_clipad.base.text import list_some
from anomalib_clipad.checkpoint.head_metadata import HeadsMetadata, check_heads
from anomalib_clipad.clip import embedded
from anomalib_clipad.clip.backbone import Backbone
from anomalib_clipad.clip.surgery import Taps, normalise_layers
from anomalib_clipad.host.command_line import plain_errors
from anomalib_clipad.scoring.heads import LinearHeads

SUFFIX = ".safetensors"

FILE_NAME = "heads.safetensors"
"""Name of the file of trained heads in the results folder."""

CHECKPOINT_KEY = "anomalib_clipad"
"""Entry of a Lightning checkpoint that is this package's own, a mapping."""
CHECKPOINT_METADATA = "heads"
"""Entry of that mapping: the encoded metadata of the heads in the checkpoint."""
CHECKPOINT_PREFIX = "model.heads."
"""What the names of the heads' weights begin with in a checkpoint."""

_AUTHORS_KEY = "linear_layers"


def save_heads(path: str | os.PathLike[str], heads: LinearHeads, metadata: HeadsMetadata) -> Path:
    """Write heads to a ``.safetensors`` file, in float32, with what they were made for."""
    path = Path(path).expanduser()
    if path.suffix != SUFFIX:
        msg = f"Expected path to end in {SUFFIX}, the format of heads, but got {path}. Pass {path.with_suffix(SUFFIX)}."
        raise ValueError(msg)
    if heads.num_layers != len(metadata.layers):
        msg = (
            f"Expected metadata to name one layer for each of {heads.num_layers} heads, "
            f"but got layers {metadata.layers}. Pass the layers of the model that the heads belong to."
        )
        raise ValueError(msg)
    # The dimensions can be read off the tensors; here they are for people who look at the header.
    shape = {"width": str(heads.width), "embed_dim": str(heads.embed_dim)}
    tensors = {key: value.detach().cpu().float().contiguous() for key, value in heads.state_dict().items()}
    with atomic_write(path) as draft:
        draft.write_bytes(save(tensors, metadata={**metadata.encode(), **shape}))
    return path


def load_heads(path: str | os.PathLike[str]) -> tuple[LinearHeads, HeadsMetadata | None]:
    """Read heads from a file; nothing in the file is executed. ValueError where it does not hold heads.

    It is a file of ``save_heads``; a checkpoint of SDP+; or one by ``torch.save`` of the authors' layout,
    ``{"linear_layers": {"fc.0.weight": ..., "fc.0.bias": ..., ...}}``, or of the inner mapping alone. Returns float32
    heads on the CPU and what they were made for: ``None`` where the file does not say, as the authors' do not.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        msg = (
            f"Expected heads to be a file of SDP+ heads, but got {path}, where there is no file. "
            "Heads are made by `anomalib train --model anomalib_clipad.SDPPlus --data MVTec`."
        )
        raise FileNotFoundError(msg)
    weights, encoded = _read_safetensors(path) if path.suffix == SUFFIX else _read_torch(path)
    try:
        heads = _build_heads(weights)
        metadata = None if encoded is None else HeadsMetadata.decode(encoded)
    except ValueError as error:
        raise _refusal(path, str(error)) from error
    if metadata is not None and len(metadata.layers) != heads.num_layers:
        raise _refusal(path, f"it names the layers {metadata.layers} for {heads.num_layers} heads")
    return heads, metadata


@plain_errors()
def make_heads(
    backbone: Backbone, layers: list[int] | None, taps: Taps, path: str | None, seed: int
) -> tuple[LinearHeads, HeadsMetadata | None]:
    """Read heads from a file and check that they fit the model, or make new ones from the seed.

    ``"embedded"`` stands for the heads that ship with the backbone; without a path new ones are made.
    """
    tapped = normalise_layers(layers, backbone.depth)
    if path is not None:
        file = embedded.heads_file(backbone.name) if path == "embedded" else Path(path)
        heads, metadata = load_heads(file)
        check_heads(heads, metadata, backbone, tapped, taps, file)
        return heads, metadata
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LinearHeads(backbone.width, backbone.embed_dim, len(tapped)), None


def _read_safetensors(path: Path) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            # Without metadata it is not one of ours, and no one else writes heads this way.
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # the reader raises errors of many kinds for damaged files
        raise _refusal(path, _unreadable(error)) from error


def _read_torch(path: Path) -> tuple[Mapping[str, Any], Mapping[str, str] | None]:
    """Read the authors' layout, or the heads of a Lightning checkpoint."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises errors of many kinds for damaged files
        raise _refusal(path, _unreadable(error)) from error
    if not isinstance(content, Mapping):
        raise _refusal(path, f"it holds a {type(content).__name__}")
    if isinstance(content.get(_AUTHORS_KEY), Mapping):
        return content[_AUTHORS_KEY], None
    if not isinstance(content.get("state_dict"), Mapping):
        return content, None
    own = content.get(CHECKPOINT_KEY)
    encoded = own.get(CHECKPOINT_METADATA) if isinstance(own, Mapping) else None
    if not isinstance(encoded, Mapping):
        raise _refusal(path, "it is a checkpoint of something else than SDPPlus, or of one without heads")
    prefix = CHECKPOINT_PREFIX
    state = content["state_dict"].items()
    return {key.removeprefix(prefix): value for key, value in state if key.startswith(prefix)}, encoded


def _build_heads(weights: Mapping[str, Any]) -> LinearHeads:
    """Make heads of weights after checking their names and shapes; ValueError where they are not those of heads."""
    expected = [f"fc.{index}.{part}" for index in range(max(1, len(weights) // 2)) for part in ("weight", "bias")]
    if set(weights) != set(expected):
        found = list_some(list(weights), most=3) or "nothing"
        msg = f"instead of {', '.join(expected[:2])} and so on it holds {found}"
        raise ValueError(msg)
    for name, value in weights.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            msg = f"its {name} is not a tensor of floating-point numbers"
            raise ValueError(msg)
    first = tuple(weights["fc.0.weight"].shape)
    if len(first) != 2 or 0 in first:
        msg = f"its fc.0.weight is {first} instead of (C, D)"
        raise ValueError(msg)
    for name in expected:
        shape = tuple(weights[name].shape)
        wanted = first if name.endswith("weight") else first[:1]
        if shape != wanted:
            msg = f"its {name} is {shape} instead of {wanted}, which would go with its fc.0.weight"
            raise ValueError(msg)
        if not weights[name].isfinite().all():
            msg = f"its {name} holds numbers that are not finite"
            raise ValueError(msg)
    with torch.device("meta"):  # no memory, and no draw from the global random state
        heads = LinearHeads(width=first[1], embed_dim=first[0], num_layers=len(weights) // 2)
    # Copies, since what was read may be a view of the file.
    copies = {name: value.to(torch.float32, copy=True) for name, value in weights.items()}
    heads.load_state_dict(copies, assign=True)
    return heads


def _unreadable(error: Exception) -> str:
    reason = str(error).partition("\n")[0]
    return f"it cannot be read ({reason}); nothing in it was executed"


def _refusal(path: Path, problem: str) -> ValueError:
    return ValueError(
        f"Expected heads to be a file of SDP+ heads, but got {path}: {problem.rstrip('.')}. "
        f"Pass a {SUFFIX} file of this package, a checkpoint of SDPPlus, or one of the authors' .pth files."
    )
