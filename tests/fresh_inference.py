# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Run as a program: open exported files as their users do, in a process that has seen nothing else of the model.

``python fresh_inference.py <results.npz> <folder of images> <export root>...`` scores every image by each runtime and
keeps ``<export root>/<runtime>/<image>/{score,map}``.
"""

import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from anomalib.deploy import OpenVINOInferencer, TorchInferencer
from PIL import Image

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


def main(target: str, images: str, *roots: str) -> None:
    os.environ["TRUST_REMOTE_CODE"] = "1"
    results = {}
    for root in roots:
        weights = Path(root) / "weights"
        runtimes = {
            "torch": TorchInferencer(weights / "torch/model.pt", device="cpu").predict,
            "openvino": OpenVINOInferencer(weights / "openvino/model.xml", "CPU", EXACT).predict,
            "openvino of onnx": OpenVINOInferencer(weights / "onnx/model.onnx", "CPU", EXACT).predict,
        }
        session = onnxruntime.InferenceSession(weights / "onnx/model.onnx", providers=["CPUExecutionProvider"])
        for path in sorted(Path(images).iterdir()):
            for runtime, predict in runtimes.items():
                prediction = predict(path)
                results[f"{root}/{runtime}/{path.name}/score"] = np.asarray(prediction.pred_score).ravel()
                results[f"{root}/{runtime}/{path.name}/map"] = np.squeeze(prediction.anomaly_map)
            pixels = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32).transpose(2, 0, 1)[None] / 255
            score, anomaly_map = session.run(["pred_score", "anomaly_map"], {"input": pixels})
            results[f"{root}/onnxruntime/{path.name}/score"] = score
            results[f"{root}/onnxruntime/{path.name}/map"] = anomaly_map[0]
    np.savez(target, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
