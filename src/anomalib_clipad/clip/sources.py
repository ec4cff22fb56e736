# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Files of CLIP models: open_clip's downloads, and what its schemes ``local-dir:`` and ``hf-hub:`` name."""

import json
from pathlib import Path
from typing import Any

import open_clip

from anomalib_clipad.clip import embedded
from anomalib_clipad.host.hub import asked_once

_FOLDER, _HUB = "local-dir:", "hf-hub:"
_CONFIG_FILE = "open_clip_config.json"
_WEIGHT_FILES = (  # in open_clip's order
    *("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
    *("open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth"),
    *("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth"),
)


def download(settings: dict[str, Any], what: str, substitute: str) -> Path:
    """Get the file that open_clip has these settings for, from its cache or the network.

    RuntimeError if it cannot be downloaded; it says ``what`` it is, and the ``substitute`` to pass without network.
    """
    try:
        with asked_once():
            return Path(open_clip.download_pretrained(settings))
    except Exception as error:  # each of the download libraries has errors of its own
        msg = (
            f"Expected to download {what}, but got {type(error).__name__}: {str(error).rstrip('.')}. Without network "
            f"pass {substitute}, or try the pipeline with the stand-in that ships with the package "
            f"(backbone={embedded.NAMES[0]!r}, or --model.backbone {embedded.NAMES[0]})."
        )
        raise RuntimeError(msg) from error


def is_published(name: str) -> bool:
    """Whether the name of a backbone is that of a folder or a repository of the hub, in open_clip's format."""
    return name.startswith((_FOLDER, _HUB))


def short_name(name: str) -> str:
    """The name of a backbone, of a folder without those above it: heads fit wherever it lies."""
    return f"{_FOLDER}{_path(name).resolve().name}" if name.startswith(_FOLDER) else name


def published_config(name: str) -> dict[str, Any]:
    """Read what a folder or repository says of its architecture (``model_cfg``) and images (``preprocess_cfg``)."""
    path = _find_file(name, _CONFIG_FILE)
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = {"embed_dim", "vision_cfg", "text_cfg"} - set(content["model_cfg"])
    except (ValueError, KeyError, TypeError) as error:
        missing = {f"model_cfg ({type(error).__name__}: {error})"}
    if missing:
        msg = (
            f"Expected {path} to describe an architecture in open_clip's format, but got one without "
            f"{', '.join(sorted(missing))}. Pass a folder or repository that open_clip itself loads."
        )
        raise ValueError(msg)
    return content


def published_weights(name: str) -> Path:
    """Find the weights in a folder or repository; errors are those of :func:`published_config`."""
    return _find_file(name, *_WEIGHT_FILES)


def _path(name: str) -> Path:
    return Path(name.removeprefix(_FOLDER)).expanduser()


def _find_file(name: str, *files: str) -> Path:
    """First of these files that is there; of several on the hub, open_clip finds its own."""
    if name.startswith(_HUB):
        repository, file = name.removeprefix(_HUB), files[0] if len(files) == 1 else ""
        substitute = f"a folder with its files (backbone='{_FOLDER}/path', or --model.backbone)"
        return download({"hf_hub": f"{repository}/{file}"}, f"{file or 'the weights'} of {name}", substitute)
    found = next((path for path in map(_path(name).joinpath, files) if path.is_file()), None)
    if found is None:
        msg = f"Expected backbone to be a folder with {' or '.join(files)}, but got {name!r}, where none is."
        raise FileNotFoundError(msg)
    return found
