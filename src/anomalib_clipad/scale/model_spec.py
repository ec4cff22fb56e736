# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The model of a watch: how it is made, and all that its scores depend on, as text that can be compared."""

import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

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
            RuntimeError: If SDP+ has no heads, or there is no such device.
            ValueError: If a file is damaged or does not fit, or the model needs all images at once.
        """
        model_class: type[SDP | SDPPlus] = _named(self.class_path)
        options = {**{name: _made(value) for name, value in self.init_args.items()}, "visualizer": False}
        loaded = model_class(**options) if self.ckpt_path is None else model_class.load(self.ckpt_path, **options)
        model = loaded.eval().to(self.device)
        for name, used in (("pool", model.pool is not None), ("calibrate_unlabelled", model.calibrate_unlabelled)):
            if used is not False:
                msg = (
                    f"Expected --model.{name} false, since it needs all images at once, but a watch scores them as "
                    "they come. Calibrate by earlier images (--model.labels, --model.known_good), or give a calibrated "
                    "--ckpt_path."
                )
                raise ValueError(msg)
        with torch.no_grad():
            model.on_predict_start()  # refuses what cannot score, and calibrates on what the arguments name
        model.usual_class()  # refuses several classes of which none is named
        return model

    def describe(self) -> dict[str, str]:
        """All that scores depend on: files by their content, not their place."""
        described = {"model": self.class_path, "version": __version__}
        if self.ckpt_path is not None:
            described["ckpt_path"] = _value(self.ckpt_path)
        return described | {f"model.{name}": _value(value) for name, value in self.init_args.items()}


def _named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _made(value: Any) -> Any:
    if not isinstance(value, Mapping) or "class_path" not in value:
        return value
    return _named(value["class_path"])(**{name: _made(each) for name, each in value.get("init_args", {}).items()})


def _value(value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value, sort_keys=True, default=str)
    path = Path(value)
    if not path.is_file():
        return printable(value)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return f"{printable(path.name)} (SHA-256 {digest.hexdigest()[:16]})"
