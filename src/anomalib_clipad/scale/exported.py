# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Scores by a file that ``anomalib export`` wrote, with ONNX Runtime or OpenVINO."""

import importlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anomalib_clipad.base.text import list_some
from anomalib_clipad.data.image_loader import BATCH_SIZE, ListedImage, read_ahead
from anomalib_clipad.deploy.exported_model import CLASS_INPUT, METADATA_SECTION, require_modules
from anomalib_clipad.deploy.openvino import openvino_core
from anomalib_clipad.prediction.predictions import by_size
from anomalib_clipad.prediction.table import PredictionRow, describe_skipped, ordered

Run = Callable[[dict[str, Any]], tuple[Any, Any]]
"""Takes the inputs of a graph by name, gives ``pred_score`` and ``pred_label``; ``None`` where there is no label."""

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_DESCRIBED = ("class_names", "calibrated", "evidence")


@dataclass(frozen=True)
class ExportedScorer:
    """Scores with a file that ``anomalib export`` wrote.

    Args:
        run: The graph.
        description: The file's metadata: ``class_names``, ``calibrated`` and ``evidence``, JSON lists.
        batch_size: Images in a batch.
    """

    run: Run
    description: Mapping[str, str]
    batch_size: int = BATCH_SIZE

    def check(self, class_names: Collection[str | None]) -> None:
        """See :class:`~anomalib_clipad.scale.scorer.Scorer`."""
        known = json.loads(self.description["class_names"])
        for name in class_names:
            _class_index(name, known)

    def score(self, images: Sequence[ListedImage]) -> list[PredictionRow]:
        """See :class:`~anomalib_clipad.scale.scorer.Scorer`."""
        known = json.loads(self.description["class_names"])
        batches = (images[start : start + self.batch_size] for start in range(0, len(images), self.batch_size))
        rows = []
        for read, unreadable in read_ahead(batches, None):
            rows += [describe_skipped(each) for each in unreadable]
            for group in by_size(read):
                classes = [_class_index(image.source.class_name, known) for image in group]
                inputs = {"input": np.stack([image.pixels.numpy() for image in group])}
                if len(known) > 1:
                    inputs[CLASS_INPUT] = np.array(classes, dtype=np.int64)
                scores, labels = self.run(inputs)
                decided = [None] * len(group) if labels is None else np.ravel(labels).astype(bool).tolist()
                rows += [
                    self._row(image.source, known, index, score, anomalous)
                    for image, index, score, anomalous in zip(
                        group, classes, np.ravel(scores).tolist(), decided, strict=True
                    )
                ]
        return ordered(rows)

    def _row(
        self, image: ListedImage, known: Sequence[str], index: int, score: float, anomalous: bool | None
    ) -> PredictionRow:
        calibrated, evidence = (json.loads(self.description[key])[index] for key in ("calibrated", "evidence"))
        return PredictionRow(
            image.path,
            known[index],
            score,
            None if anomalous is None else ("anomalous" if anomalous else "normal"),
            None,  # a file does not tell its sensitivity
            calibrated,
            evidence,
            position=image.position,
        )


def _class_index(name: str | None, known: Sequence[str]) -> int:
    """Index of a class; images of which nobody says what they show are of the only one."""
    if name is None and len(known) == 1:
        return 0
    if name not in known:
        got = "an image without one" if name is None else repr(name)
        msg = f"Expected class names that the exported file knows, {list_some(known, 20)}, but got {got}."
        raise ValueError(msg)
    return known.index(name)


def open_onnx(path: str, device: str, threads: int | None) -> tuple[Run, Mapping[str, str]]:
    """Open a file for ONNX Runtime; give what runs it and its metadata.

    Raises:
        ModuleNotFoundError: If ONNX Runtime is not installed.
        ValueError: If the file is damaged or not one of ours, or this ONNX Runtime cannot use the device.
    """
    require_modules("onnxruntime")
    runtime = importlib.import_module("onnxruntime")
    able = [name for name, provider in _PROVIDERS.items() if provider in runtime.get_available_providers()]
    if device not in able:
        msg = f"Expected the device to be one that ONNX Runtime can use here, {list_some(able)}, but got {device!r}."
        raise ValueError(msg)
    options = runtime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = options.inter_op_num_threads = threads
    try:
        session = runtime.InferenceSession(path, options, providers=[_PROVIDERS[device]])
    except Exception as error:  # its errors have no class in common but this
        raise _unopened(path, "an ONNX", error) from error
    outputs = [output.name for output in session.get_outputs()]

    def run(inputs: dict[str, Any]) -> tuple[Any, Any]:
        wanted = [name for name in ("pred_score", "pred_label") if name in outputs]
        return (*session.run(wanted, inputs), None)[:2]

    return run, _checked(session.get_modelmeta().custom_metadata_map, path)


def open_openvino(path: str, device: str, threads: int | None) -> tuple[Run, Mapping[str, str]]:
    """Open an ``.xml`` file for OpenVINO; give what runs it and its metadata.

    Raises:
        ModuleNotFoundError: If OpenVINO is not installed.
        ValueError: If the file is damaged or not one of ours, or OpenVINO cannot use the device.
    """
    require_modules("openvino")
    # Without the hint, CPUs with bfloat16 round to that.
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        core = openvino_core()
        model = core.read_model(path)
        compiled = core.compile_model(model, device.upper(), settings)
    except Exception as error:  # as above
        raise _unopened(path, "an OpenVINO", error) from error
    described = {
        key: str(model.get_rt_info([METADATA_SECTION, key]).value)
        for key in _DESCRIBED
        if model.has_rt_info([METADATA_SECTION, key])
    }
    labelled = any("pred_label" in output.get_names() for output in model.outputs)

    def run(inputs: dict[str, Any]) -> tuple[Any, Any]:
        found = compiled(inputs)
        return found["pred_score"], found["pred_label"] if labelled else None

    return run, _checked(described, path)


def _unopened(path: str, kind: str, error: Exception) -> ValueError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1] if lines else type(error).__name__
    return ValueError(f"Expected {path} to be {kind} model, but opening it failed: {reason}. Export it again.")


def _checked(description: Mapping[str, str], path: str) -> Mapping[str, str]:
    missing = [key for key in _DESCRIBED if key not in description]
    if missing:
        msg = f"Expected {path} to be a file of `anomalib export` of SDP or SDPPlus, but its {missing[0]} is not known."
        raise ValueError(msg)
    return description
