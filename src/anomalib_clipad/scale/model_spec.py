# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""How a model is made, as plain data, and all that its scores depend on, as text that can be compared."""

import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anomalib_clipad import SDP, SDPPlus
from anomalib_clipad._version import __version__
from anomalib_clipad.base.text import printable


@dataclass(frozen=True)
class ModelSpec:
    """SDP or SDP+ by its arguments or a checkpoint.

    Args:
        class_path: ``anomalib_clipad.SDP`` or ``anomalib_clipad.SDPPlus``.
        init_args: Arguments of that class; those of a checkpoint that differ from when it was saved. Components are
            mappings of ``class_path`` and ``init_args``.
        ckpt_path: Checkpoint of the class.
        device: Where it runs.

    Raises:
        FileNotFoundError: If there is no such checkpoint.

    Example:
        >>> spec = ModelSpec(init_args={"backbone": "clipad-tiny", "class_name": "nut"})
        >>> spec.describe()["model.class_name"], spec.make().class_name
        ('nut', 'nut')
    """

    class_path: str = "anomalib_clipad.SDP"
    init_args: Mapping[str, Any] = field(default_factory=dict)
    ckpt_path: str | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.ckpt_path is not None and not Path(self.ckpt_path).is_file():
            msg = f"Expected --ckpt_path to be a file, but found none at {Path(self.ckpt_path).absolute()}."
            raise FileNotFoundError(msg)

    def make(self) -> SDP | SDPPlus:
        """Load the model.

        Raises:
            ValueError: If a file is damaged or does not fit.
        """
        model_class: type[SDP | SDPPlus] = _named(self.class_path)
        options = {name: _made(value) for name, value in {**self.init_args, "visualizer": False}.items()}
        model = model_class(**options) if self.ckpt_path is None else model_class.load(self.ckpt_path, **options)
        return model.eval().to(self.device)

    def describe(self) -> dict[str, str]:
        """All that scores depend on: files by their content, not their place."""
        described = {"model": self.class_path, "version": __version__}
        if self.ckpt_path is not None:
            described["ckpt_path"] = _value(self.ckpt_path)
        arguments = {name: value for name, value in self.init_args.items() if name != "text_cache_dir"}
        return described | {f"model.{name}": _value(value) for name, value in arguments.items()}


def require_one_by_one(model: SDP | SDPPlus) -> None:
    """Refuse a model that needs all images of a run at once.

    Raises:
        ValueError: If it does.
    """
    for name in ("pool", "calibrate_unlabelled"):
        if getattr(model, name):
            msg = (
                f"Expected each image to be scored by itself, but got --model.{name}, which needs all images of a run "
                "at once. Calibrate by earlier images (--model.labels, --model.known_good), give a calibrated "
                "--ckpt_path, or use `anomalib predict`."
            )
            raise ValueError(msg)


def _named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _made(value: Any) -> Any:
    if not isinstance(value, Mapping) or "class_path" not in value:
        return value
    return _named(value["class_path"])(**{name: _made(each) for name, each in value.get("init_args", {}).items()})


def _value(value: Any) -> str:
    content = _by_content(value)
    return content if isinstance(content, str) else json.dumps(content, sort_keys=True, default=str)


def _by_content(value: Any) -> Any:
    """The same with the content of files in place of their paths."""
    if isinstance(value, Mapping):
        return {key: _by_content(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_by_content(each) for each in value]
    return describe_files(value) or printable(value) if isinstance(value, str) else value


def describe_files(*paths: str) -> str:
    """Name of the first of those files that are there, and SHA-256 of all; nothing for none."""
    there = [path for path in map(Path, paths) if path.is_file()]
    if not there:
        return ""
    digest = hashlib.sha256()
    for path in there:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return f"{printable(there[0].name)} (SHA-256 {digest.hexdigest()[:16]})"
