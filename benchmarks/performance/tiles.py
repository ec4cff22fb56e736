# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What large images cost in tiles: ``python -m benchmarks.performance.tiles strip`` for the memory of one."""

import json
import statistics
import sys

import psutil
import torch
from torch import Tensor

from anomalib_clipad.compare.measures import peak_memory, release_memory
from anomalib_clipad.scoring.looks import Looks, Tiles, tile_batches
from anomalib_clipad.scoring.torch_model import SDPModel
from benchmarks.performance.setting import Setting
from benchmarks.performance.table import Row
from benchmarks.performance.timing import alternate, ratio, run_module

_MODULE = "benchmarks.performance.tiles"


def tiled(setting: Setting) -> tuple[SDPModel, Tiles]:
    """SDP that sees tiles of its backbone's size only."""
    options = Tiles(size=min(setting.backbone.image_size), whole=False)
    model = setting.sdp()
    model.looks = Looks(tiles=options)
    return model, options


@torch.inference_mode()
def measure(setting: Setting) -> list[Row]:
    """Time tiles against the bare tower on the same ones, and look at the memory that a strip takes."""
    model, options = tiled(setting)
    side = min(setting.backbone.image_size) * (2 if setting.smoke else 4)
    image, tower = setting.images(1, side), setting.backbone.model.encode_image

    def run_tower() -> None:
        for _, tiles in tile_batches(image, options):
            tower(tiles)

    seconds = alternate({"tower": run_tower, "SDP": lambda: model(image)}, rounds=max(1, setting.rounds // 2))
    megapixels = side**2 / 1e6
    pace = megapixels / statistics.median(seconds["SDP"])
    size = "smoke" if setting.smoke else "full"
    peaks = {name: json.loads(run_module(_MODULE, name, size)) for name in ("strip", "eight")}
    strip, plain = peaks["strip"], peaks["eight"]
    note = (
        f"in the pass: {strip[0]:.0f} MiB of which the image is {strip[1]:.0f}; eight plain images {plain[0]:.0f} MiB"
    )
    return [
        Row(
            f"SDP in tiles of {options.side} ÷ the tower on the same tiles",
            ratio(seconds["SDP"], seconds["tower"]),
            1.15,
            note=f"{side} × {side} px, {pace:.3g} megapixels a second",
        ),
        Row(
            "memory of a strip in tiles ÷ that of eight plain images and itself", strip[0] / sum(plain), 1.0, note=note
        ),
    ]


@torch.inference_mode()
def measure_pass(name: str, setting: Setting) -> tuple[float, float]:
    """MiB that a forward pass takes at its peak, the image included, and MiB of the strip."""
    height, width = (200, 800) if setting.smoke else (2000, 8000)
    model, _ = tiled(setting) if name == "strip" else (setting.sdp(), None)
    model(setting.images(1, min(setting.backbone.image_size)))
    release_memory()
    before = psutil.Process().memory_info().rss / 2**20
    with peak_memory(on_gpu=False) as peak:
        image: Tensor = torch.zeros(1, 3, height, width) if name == "strip" else setting.images(8)
        model(image)
    return peak[0] - before, 3 * height * width * 4 / 2**20


if __name__ == "__main__":
    print(json.dumps(measure_pass(sys.argv[1], Setting.for_smoke() if sys.argv[2] == "smoke" else Setting())))
