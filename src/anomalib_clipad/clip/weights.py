# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Files of CLIP weights: reading them without running what is in them, and refusing those of another architecture."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

_OPENAI_ENTRIES = ("input_resolution", "context_length", "vocab_size")
# Entries that other programs store beside the weights; none is a parameter of the model.
_EXTRA_ENTRIES = (*_OPENAI_ENTRIES, "visual.attn_mask", "attn_mask", "text.transformer.embeddings.position_ids")
# CoCa's decoder writes captions, which nothing here needs.
_EXTRA_PREFIX = "text_decoder."
# The text tower lies in `text` where it is one of its own; files of other models have its parts beside the image tower.
_TEXT_PARTS = ("text_projection", "positional_embedding", "token_embedding", "transformer.", "ln_final.")
# Modules of which trainers put objects into their checkpoints.
_TRAINERS = r"numpy|argparse|pathlib|collections|omegaconf|lightning|pytorch_lightning"


def read_weights(path: Path, *, allow_torchscript: bool = False) -> dict[str, Tensor]:
    """Read a state dict from a local file, else ValueError; nothing in the file is executed.

    It is a ``.safetensors`` file, or one written by ``torch.save``, plain or under the key ``state_dict``. A
    TorchScript archive is a program: only for files whose checksum has been verified.
    """
    if not path.is_file():
        msg = f"Expected pretrained to be a file of weights, but got {path}, where there is no file."
        raise FileNotFoundError(msg)
    archive = _is_torchscript(path)
    if archive and not allow_torchscript:
        msg = (
            f"Expected pretrained to be a file of weights, but {path} is a TorchScript archive, which is a program. "
            "Where you trust it, save torch.jit.load(path).state_dict() by torch.save, and pass that file."
        )
        raise ValueError(msg)
    content = torch.jit.load(path, map_location="cpu").state_dict() if archive else _read_tensors(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        msg = f"Expected pretrained to be a file of named tensors, but got {path}, which holds something else."
        raise ValueError(msg)
    # Models trained on several devices are saved with their wrapper's prefix.
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _read_tensors(path: Path) -> object:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise errors of many kinds for damaged files
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it holds {named[1]}, which is not a tensor" if named else str(error).partition("\n")[0]
        if named and re.match(rf"({_TRAINERS})\.", named[1]):
            msg = (
                f"Expected pretrained to be a file of weights, but {path} is a trainer's checkpoint: {reason}. "
                "Where you trust it, save its weights alone, torch.save(torch.load(path, weights_only=False)"
                "['state_dict'], 'weights.pt'), and pass that file."
            )
            raise ValueError(msg) from error
        msg = (
            f"Expected pretrained to be a file of weights, but {path} cannot be read ({reason}). "
            "Nothing in it was executed. Pass a .safetensors file, or a state dict written by torch.save."
        )
        raise ValueError(msg) from error


def _is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive, such as OpenAI's own files; their zip has a part for constants."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(Path(name).name == "constants.pkl" for name in archive.namelist())
    except Exception:  # noqa: BLE001 - no zip, or a damaged one, of which the readers tell; errors are of many kinds
        return False


def is_openai_format(weights: Mapping[str, Tensor]) -> bool:
    """Whether weights are in the format of OpenAI's files, which were trained with QuickGELU."""
    return weights.keys() >= set(_OPENAI_ENTRIES)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], name: str, source: str) -> None:
    """Copy weights into a model, in its precision, if they are all there and fit; otherwise the model is not touched.

    The error message says the ``name`` of the architecture and the ``source`` of the weights.
    """
    expected = model.state_dict()
    if any(key.startswith("text.") for key in expected) and "positional_embedding" in weights:
        weights = {f"text.{key}" if key.startswith(_TEXT_PARTS) else key: value for key, value in weights.items()}
    given = {
        key: value
        for key, value in weights.items()
        if key in expected or not (key in _EXTRA_ENTRIES or key.startswith(_EXTRA_PREFIX))
    }
    problem = _find_mismatch(expected, given)
    if problem is not None:
        msg = (
            f"Expected the weights in {source} to be those of a {name}, but {problem}. "
            "Pass the backbone that the file was made for, or another file."
        )
        raise ValueError(msg)
    # Some versions of open_clip keep the logit scale as a vector of one element.
    model.load_state_dict({key: value.reshape(expected[key].shape) for key, value in given.items()})


def _find_mismatch(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    """Name the first weight that differs, preferring shapes, which say most about an architecture."""
    for key, value in expected.items():
        if key in given and given[key].shape != value.shape and not given[key].numel() == value.numel() == 1:
            return f"{key} is {tuple(value.shape)} in the backbone and {tuple(given[key].shape)} in the file"
    for description, keys in (
        ("the file is without", [key for key in expected if key not in given]),
        ("the backbone is without", [key for key in given if key not in expected]),
    ):
        if keys:
            others = f" and {len(keys) - 1} more weights" if len(keys) > 1 else ""
            return f"{description} {keys[0]}{others}"
    return None
