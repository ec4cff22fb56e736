# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What ``anomalib-clipad score`` costs beside a plain loop.

``python -m benchmarks.performance.scale BACKBONE FOLDER BLOCK_SIZE`` for the loop alone, ``… --ray WORKERS`` for the
command's engine.

Each is run in a fresh process. A block for each worker warms up; what counts are the blocks after those. Processor time
is that of the workers, and of all their threads: on a busy machine it says more than what a clock shows.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import torch
from anomalib.deploy import CompressionType, ExportType
from anomalib.engine import Engine
from PIL import Image

from anomalib_clipad import SDP, SyntheticDefects
from anomalib_clipad.data.image_loader import ListedImage
from anomalib_clipad.scale.blocks import Block, Part, cut, score_block
from anomalib_clipad.scale.ray_scoring import score_by_ray
from anomalib_clipad.scale.scorer import ScorerSpec
from benchmarks.performance.setting import Setting, model_options
from benchmarks.performance.table import Row
from benchmarks.performance.timing import alternate, run_module, time_anomalib

_MODULE = "benchmarks.performance.scale"
_MIB = 2**20
_TICK = 0.01
"""Seconds in which Linux counts processor time."""
_DIFFERENT = 16
"""Different photographs; the others are further names of them."""


@dataclass(frozen=True)
class Figures:
    """What a run has taken after its warm-up.

    Attributes:
        rate: Images a second, by the clock.
        seconds: Processor time an image, of the workers.
        start: Seconds until the first block was finished.
        driver: MiB of the process that hands out blocks, at its peak.
        worker: MiB of the largest worker.
    """

    rate: float
    seconds: float
    start: float
    driver: float
    worker: float


def measure(setting: Setting) -> list[Row]:
    """Time a loop, one worker and two, and exported files; look at the memory of short and long runs."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        n_images, block = (48, 2) if setting.smoke else (48, 4)
        photos = write_photographs(folder / "photos", n_images, setting.backbone.image_size[0])
        loop, one, two = (
            run(setting.backbone_name, photos, block, *workers) for workers in ([], ["--ray", "1"], ["--ray", "2"])
        )
        rows = [
            Row("`score`: a plain loop, one thread", loop.rate, better="large", unit=" images/s", note=_note(loop)),
            _row("one worker ÷ plain loop", one, loop, 0.9),
            _row("two workers ÷ plain loop", two, loop, 0.9),
            Row("two workers ÷ one, by the clock", two.rate / one.rate, better="large", note="2 at best"),
        ]
        if not setting.smoke:
            for label, path in export(setting, folder).items():
                exported = run(str(path), photos, block, "--ray", "1")
                rows.append(_row(f"one worker with {label} ÷ plain loop", exported, loop))
            rows.append(_processes(setting, folder))
        return [*rows, *_growth(setting, folder)]


def _row(what: str, figures: Figures, loop: Figures, limit: float | None = None) -> Row:
    measure = f"`score`: {what}, images a processor second"
    return Row(measure, loop.seconds / figures.seconds, limit, "large", note=_note(figures))


def _note(figures: Figures) -> str:
    return f"{1000 * figures.seconds:.0f} ms of a core an image, {figures.rate:.3g} images/s by the clock"


def _processes(setting: Setting, folder: Path) -> Row:
    """What a second process brings to `anomalib predict`: more images in two commands, less the start of both."""
    rates = {}
    few, many = (write_photographs(folder / f"ddp{n}", n, setting.backbone.image_size[0]) for n in (16, 80))
    for processes in ("1", "2"):
        options = [
            *("predict", *model_options(setting, folder)),
            *("--model.visualizer", "false", "--model.page", "false"),
            *("--trainer.devices", processes, "--trainer.strategy", "auto" if processes == "1" else "ddp"),
        ]
        short, long = (time_anomalib(folder, *options, "--data", str(data), threads=1) for data in (few, many))
        rates[processes] = 64 / (long - short)
    note = f"one thread each: {rates['1']:.3g} and {rates['2']:.3g} images/s, without the start of the command"
    return Row("`anomalib predict`: two gloo processes ÷ one", rates["2"] / rates["1"], better="large", note=note)


def _growth(setting: Setting, folder: Path) -> list[Row]:
    """Overhead an image and memory, on the small model, whose own share is small."""
    few, many = (12, 24) if setting.smoke else (1_000, 20_000)
    block = 2 if setting.smoke else 100
    small = Setting(backbone_name="clipad-tiny")
    images, sdp = small.images(), small.sdp()
    torch.set_num_threads(1)
    with torch.inference_mode():
        alone = min(alternate({"": lambda: sdp(images)}, 1 if setting.smoke else 5)[""]) / len(images)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    short, long = (
        run("clipad-tiny", write_photographs(folder / str(n), n, 240), block, "--ray", "1") for n in (few, many)
    )
    rows = [
        Row(
            "`score`: processor time an image beside the model: reading, resizing, tables, Ray",
            1000 * (long.seconds - alone),
            unit=" ms",
            note=f"photographs of 240 px; clipad-tiny itself {1000 * alone:.1f} ms",
        )
    ]
    for who in ("driver", "worker"):
        before, after = getattr(short, who), getattr(long, who)
        note = f"{before:.0f} and {after:.0f} MiB"
        rows.append(Row(f"`score`: memory of the {who}, {many} ÷ {few} images", after / before, 1.2, note=note))
    return rows


def write_photographs(folder: Path, n: int, side: int) -> Path:
    """Write noise, some of it under several names."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(n):
        path = folder / f"{index:06d}.jpg"
        if index < _DIFFERENT:
            coarse = random.integers(60, 200, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((side, side)).save(path, quality=90)
        else:
            os.link(folder / f"{index % _DIFFERENT:06d}.jpg", path)
    return folder


def export(setting: Setting, folder: Path) -> dict[str, Path]:
    """Export the model for ONNX Runtime, and as int8 for OpenVINO."""
    options = {"class_name": "nut", "strategy": "mean", "text_cache_dir": False, "visualizer": False}
    model = SDP(setting.backbone_name, "random", **options).eval()
    model.add_classes(["nut"])
    engine = Engine(default_root_dir=folder, logger=False, accelerator="cpu")
    data = SyntheticDefects(
        root=folder / "data", categories=["nut"], n_train=2, n_test_good=2, n_test_per_defect=1, num_workers=0
    )
    return {
        "ONNX Runtime": engine.export(model, ExportType.ONNX, export_root=folder / "onnx"),
        "OpenVINO int8": engine.export(
            model,
            ExportType.OPENVINO,
            export_root=folder / "int8",
            compression_type=CompressionType.INT8_PTQ,
            datamodule=data,
        ),
    }


def run(model: str, photos: Path, block: int, *options: str) -> Figures:
    """Run this module in a fresh process."""
    return Figures(**json.loads(run_module(_MODULE, model, str(photos), str(block), *options)))


def spec_of(model: str) -> ScorerSpec:
    """What scores: a backbone, or a file, with one thread."""
    files = {".onnx": "onnx", ".xml": "openvino"}
    if Path(model).suffix in files:
        return ScorerSpec(**{files[Path(model).suffix]: model}, threads=1)
    arguments = {"backbone": model, "class_name": "nut"}
    untrained = {"pretrained": "random", "strategy": "mean", "text_cache_dir": False}
    return ScorerSpec(init_args=arguments if model == "clipad-tiny" else {**arguments, **untrained}, threads=1)


def here(blocks: Sequence[Block], spec: ScorerSpec, folder: Path) -> Iterator[Part]:
    """The plain loop."""
    scorer = spec.make()
    for block in blocks:
        yield score_block(scorer, block, folder)


def watch(parts: Iterator[Part], workers: int | None) -> Figures:
    """Look at clock, processor time and memory whenever a block is finished."""
    warm, begin = max(1, workers or 0), time.perf_counter()
    driver = worker = 0.0
    images, samples, first = 0, list[tuple[int, float, float]](), 0.0
    for number, part in enumerate(parts, start=1):
        now, images = time.perf_counter(), images + part.images
        first = first or now - begin
        processes = [psutil.Process()] if workers is None else _workers()
        driver = max(driver, psutil.Process().memory_info().rss / _MIB)
        worker = max([worker, *(each.memory_info().rss / _MIB for each in processes)])
        if number >= warm and len(processes) == warm:  # those that have ended tell no time any more
            samples.append((images, now, sum(sum(each.cpu_times()[:2]) for each in processes)))
    (few, begin, before), (many, end, after) = samples[0], samples[-1]
    spent = max(after - before, _TICK) / (many - few)
    return Figures((many - few) / (end - begin), spent, first, driver, worker)


def _workers() -> list[psutil.Process]:
    found = []
    for each in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "ScoreBlocks" in " ".join(each.cmdline()):
                found.append(each)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("photos", type=Path)
    parser.add_argument("block", type=int)
    parser.add_argument("--ray", type=int)
    given = parser.parse_args()
    paths = sorted(given.photos.iterdir())
    blocks = cut([ListedImage(str(path), None, position=index) for index, path in enumerate(paths)], given.block)
    with TemporaryDirectory() as name:
        if given.ray is None:
            parts = here(blocks, spec_of(given.model), Path(name))
        else:
            parts = score_by_ray(blocks, spec_of(given.model), Path(name), given.ray)
        print(json.dumps(asdict(watch(parts, given.ray))))
