# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The host's WinCLIP against SDP on the same images, in the environment where WinCLIP is right (open_clip 2.24)."""

import json
import sys
from importlib import metadata
from pathlib import Path
from unittest.mock import patch

import open_clip
import torch

from benchmarks.performance.setting import Setting
from benchmarks.performance.table import Row
from benchmarks.performance.timing import ROOT, alternate, ratio, run_module

_OLDER = ROOT / ".venv-openclip2" / "bin" / "python"


def measure(setting: Setting) -> list[Row]:
    """Time both in a process of their own."""
    if setting.smoke:
        return [Row("host's WinCLIP ÷ SDP, same images", None, 15, "large", note="left out of the smoke run")]
    python = _OLDER if _OLDER.exists() else Path(sys.executable)
    result = json.loads(run_module("benchmarks.performance.winclip", python=python))
    note = f"open_clip {result['open_clip']}; WinCLIP {result['winclip_s']:.1f} s a batch, three rounds"
    tower = "its windows have 12.8 times the tokens of the whole image"
    return [
        Row("host's WinCLIP ÷ SDP, same images", result["ratio"], 15, "large", note=note),
        Row("host's WinCLIP ÷ bare image tower", result["to_tower"], note=tower),
    ]


@torch.inference_mode()
def compare(setting: Setting) -> dict[str, float | str]:
    """Time one batch in three alternated rounds."""
    from anomalib.models.image.winclip.torch_model import WinClipModel

    # The class downloads its weights when it is made: hand it random ones.
    build = open_clip.create_model_and_transforms
    with patch("open_clip.create_model_and_transforms", lambda name, **_: build(name, pretrained=None)):
        winclip = WinClipModel().eval()
    winclip.setup(class_name="object")
    image, sdp = setting.images(), setting.sdp()
    tower = setting.backbone.model
    functions = {
        "winclip": lambda: winclip(image),
        "tower": lambda: tower.encode_image(image),
        "SDP": lambda: sdp(image),
    }
    seconds = alternate(functions, rounds=3)
    return {
        "ratio": ratio(seconds["winclip"], seconds["SDP"]),
        "to_tower": ratio(seconds["winclip"], seconds["tower"]),
        "winclip_s": min(seconds["winclip"]),
        "open_clip": metadata.version("open_clip_torch"),
    }


if __name__ == "__main__":
    print(json.dumps(compare(Setting())))
