# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Run as a program: open exported files as their users do, in a process that has seen nothing else of the model.

``python fresh_inference.py <results.npz> <folder of images> <export root>...`` scores every image by each runtime and
keeps ``<export root>/<runtime>/<image>/{score,map}``.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from anomalib.deploy import OpenVINOInferencer, TorchInferencer
from PIL import Image

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


def main(target: str, images: str, *roots: str) -> None:
    os.environ["TRUST_REMOTE_CODE"] = "1"
    results = {}
    for root in roots:
        for runtime, predict in runtimes(Path(root) / "weights").items():
            for path in sorted(Path(images).iterdir()):
                score, anomaly_map = predict(path)
                results[f"{root}/{runtime}/{path.name}/score"] = np.ravel(score)
                results[f"{root}/{runtime}/{path.name}/map"] = np.squeeze(anomaly_map)
    np.savez(target, **results)


def runtimes(weights: Path) -> dict[str, Callable[[Path], tuple[Any, Any]]]:
    """What opens the files that there are; each gives score and map of an image."""
    found: dict[str, Callable[[Path], tuple[Any, Any]]] = {}
    if (file := weights / "torch/model.pt").exists():
        found["torch"] = by_host(TorchInferencer(file, device="cpu"))
    if (file := weights / "openvino/model.xml").exists():
        found["openvino"] = by_host(OpenVINOInferencer(file, "CPU", EXACT))
    if (file := weights / "onnx/model.onnx").exists():
        found["openvino of onnx"] = by_host(OpenVINOInferencer(file, "CPU", EXACT))
        found["onnxruntime"] = by_onnxruntime(file)
    return found


def by_host(inferencer: Any) -> Callable[[Path], tuple[Any, Any]]:
    def predict(path: Path) -> tuple[Any, Any]:
        prediction = inferencer.predict(path)
        return prediction.pred_score, prediction.anomaly_map

    return predict


def by_onnxruntime(file: Path) -> Callable[[Path], tuple[Any, Any]]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def predict(path: Path) -> tuple[Any, Any]:
        pixels = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32).transpose(2, 0, 1)[None] / 255
        score, anomaly_map = session.run(["pred_score", "anomaly_map"], {"input": pixels})
        return score, anomaly_map

    return predict


if __name__ == "__main__":
    main(*sys.argv[1:])
