# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Exported models in ONNX Runtime and OpenVINO against eager PyTorch, raw images in, scores out."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from anomalib.deploy import CompressionType, ExportType
from anomalib.engine import Engine
from numpy.typing import NDArray

from anomalib_clipad import SDP, SyntheticDefects
from anomalib_clipad.deploy.openvino import openvino_core
from benchmarks.performance.setting import Setting
from benchmarks.performance.table import Row
from benchmarks.performance.timing import alternate, ratio


@torch.inference_mode()
def measure(setting: Setting) -> list[Row]:
    """Export SDP as a user does and time batches of raw images."""
    with TemporaryDirectory() as folder:
        return _measure(setting, Path(folder))


def _measure(setting: Setting, folder: Path) -> list[Row]:
    model = SDP(
        setting.backbone_name, "random", class_name="bottle", strategy="mean", text_cache_dir=False, visualizer=False
    ).eval()
    side = setting.backbone.image_size[0]
    model.predict(torch.zeros(1, 3, side, side))  # makes the class known
    images = np.random.default_rng(0).random((setting.batch_size, 3, side, side), dtype=np.float32)
    engine = Engine(default_root_dir=folder, logger=False, accelerator="cpu")
    onnx = engine.export(model, ExportType.ONNX, export_root=folder / "onnx")
    data = SyntheticDefects(
        root=folder / "data", categories=["nut"], n_train=2, n_test_good=2, n_test_per_defect=1, num_workers=0
    )
    int8 = engine.export(
        model,
        ExportType.OPENVINO,
        export_root=folder / "int8",
        compression_type=CompressionType.INT8_PTQ,
        datamodule=data,
    )
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    runs: dict[str, Callable[[], object]] = {
        "eager": partial(model, torch.from_numpy(images)),
        "ONNX Runtime fp32": _onnx(onnx, images),
        "OpenVINO fp32": _openvino(onnx, images, exact),  # which an export to OpenVINO only converts
        "OpenVINO, precision of its own choice": _openvino(onnx, images, {}),
        "OpenVINO int8": _openvino(int8, images, exact),
    }
    seconds = alternate(runs, 1 if setting.smoke else 3)
    rows = [Row(f"eager ÷ {name}", ratio(seconds["eager"], seconds[name]), better="large") for name in list(runs)[1:]]
    best = max(rows, key=lambda row: row.value or 0)
    return [*rows, Row("eager ÷ the best of these", best.value, 2, "large", note=best.measure.removeprefix("eager ÷ "))]


def _onnx(path: Path, images: NDArray[np.float32]) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {session.get_inputs()[0].name: images})


def _openvino(path: Path, images: NDArray[np.float32], options: dict[str, str]) -> Callable[[], object]:
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY", **options}
    compiled = openvino_core().compile_model(path, "CPU", settings)
    return lambda: compiled(images)
