# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What scores images in a worker: SDP or SDP+ by its arguments or a checkpoint, or an exported file."""

import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from anomalib_clipad import SDP, SDPPlus
from anomalib_clipad._version import __version__
from anomalib_clipad.data.image_loader import BATCH_SIZE, ListedImage, read_ahead
from anomalib_clipad.deploy.exported_model import CLASS_INPUT, METADATA_SECTION, require_modules
from anomalib_clipad.prediction.predictions import by_size
from anomalib_clipad.prediction.table import PredictionRow, describe_skipped, ordered


class Scorer(Protocol):
    """Scores images."""

    def score(self, images: Sequence[ListedImage]) -> list[PredictionRow]:
        """Rows of the tables in the order of the images; a file that cannot be read has a row with its error."""


@dataclass(frozen=True)
class ModelScorer:
    """Scores with SDP or SDP+ in this process."""

    model: SDP | SDPPlus
    batch_size: int = BATCH_SIZE

    def score(self, images: Sequence[ListedImage]) -> list[PredictionRow]:
        """See :class:`Scorer`."""
        paths = [image.path for image in images]
        names = [image.class_name or self.model.usual_class() for image in images]
        try:
            rows = self.model.predict(paths, names, self.batch_size).rows
        except OSError:  # none of them could be read
            read = read_ahead([list(images)], None)
            return ordered(describe_skipped(each) for _, skipped in read for each in skipped)
        # Rows alone: maps would travel and be kept.
        return [_row_of(row, images[row.position].position) for row in rows]


def _row_of(row: PredictionRow, position: int) -> PredictionRow:
    return PredictionRow(
        **{each.name: getattr(row, each.name) for each in fields(PredictionRow)} | {"position": position}
    )


@dataclass(frozen=True)
class ExportedScorer:
    """Scores with a file that ``anomalib export`` wrote, by ONNX Runtime or OpenVINO.

    Args:
        run: Takes the inputs of the graph by name, gives ``pred_score`` and ``pred_label``, if there is one.
        description: The file's metadata: ``class_names``, ``calibrated`` and ``evidence``, JSON lists.
        batch_size: Images in a batch.
    """

    run: Any
    description: Mapping[str, str]
    batch_size: int = BATCH_SIZE

    def score(self, images: Sequence[ListedImage]) -> list[PredictionRow]:
        """See :class:`Scorer`.

        Raises:
            ValueError: If the file does not know a class, or knows several and an image names none.
        """
        names = json.loads(self.description["class_names"])
        batches = (images[start : start + self.batch_size] for start in range(0, len(images), self.batch_size))
        rows = []
        for read, unreadable in read_ahead(batches, None):
            rows += [describe_skipped(each) for each in unreadable]
            for group in by_size(read):
                classes = [self._class_of(image.source, names) for image in group]
                inputs = {"input": np.stack([image.pixels.numpy() for image in group])}
                if len(names) > 1:
                    inputs[CLASS_INPUT] = np.array(classes, dtype=np.int64)
                scores, labels = self.run(inputs)
                decided = [None] * len(group) if labels is None else np.ravel(labels).astype(bool).tolist()
                rows += [
                    self._row(image.source, names, index, score, anomalous)
                    for image, index, score, anomalous in zip(
                        group, classes, np.ravel(scores).tolist(), decided, strict=True
                    )
                ]
        return ordered(rows)

    def _class_of(self, image: ListedImage, names: Sequence[str]) -> int:
        if image.class_name is None and len(names) == 1:
            return 0
        if image.class_name not in names:
            msg = f"Expected the class of {image.path} to be one of {', '.join(names)}, but got {image.class_name}."
            raise ValueError(msg)
        return names.index(image.class_name)

    def _row(
        self, image: ListedImage, names: Sequence[str], index: int, score: float, anomalous: bool | None
    ) -> PredictionRow:
        calibrated, evidence = (json.loads(self.description[key])[index] for key in ("calibrated", "evidence"))
        return PredictionRow(
            image.path,
            names[index],
            score,
            None if anomalous is None else ("anomalous" if anomalous else "normal"),
            None,  # a file does not tell its sensitivity
            calibrated,
            evidence,
            position=image.position,
        )


@dataclass(frozen=True)
class ScorerSpec:
    """How a worker makes its scorer: plain data that travels to other machines, which have the same files.

    Exactly one of ``ckpt_path``, ``onnx``, ``openvino`` and ``init_args`` alone says what scores.

    Args:
        class_path: ``anomalib_clipad.SDP`` or ``anomalib_clipad.SDPPlus``.
        init_args: Arguments of that class; those of a checkpoint that differ from when it was saved.
        ckpt_path: Checkpoint of the class.
        onnx: File for ONNX Runtime.
        openvino: ``.xml`` file for OpenVINO.
        device: Where a model runs; of exported files OpenVINO's name of the device.
        batch_size: Images in a batch.
        threads: Threads of a worker; ``None`` for the libraries' own choice.
    """

    class_path: str = "anomalib_clipad.SDP"
    init_args: Mapping[str, Any] = field(default_factory=dict)
    ckpt_path: str | None = None
    onnx: str | None = None
    openvino: str | None = None
    device: str = "cpu"
    batch_size: int = BATCH_SIZE
    threads: int | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("ckpt_path", "onnx", "openvino") if getattr(self, name) is not None]
        if len(given) > 1:
            msg = f"Expected one of ckpt_path, onnx and openvino, but got {' and '.join(given)}. Leave out all but one."
            raise ValueError(msg)
        for name in given:
            path = Path(getattr(self, name))
            if not path.is_file():
                msg = f"Expected {name} to be a file, but found none at {path.absolute()}."
                raise FileNotFoundError(msg)

    def make(self) -> Scorer:
        """Load the model.

        Raises:
            ModuleNotFoundError: If a runtime is not installed.
            ValueError: If a file is damaged or does not fit.
        """
        if self.onnx is not None:
            return ExportedScorer(*_open_onnx(self.onnx, self.threads), self.batch_size)
        if self.openvino is not None:
            return ExportedScorer(*_open_openvino(self.openvino, self.device, self.threads), self.batch_size)
        module, _, name = self.class_path.rpartition(".")
        model_class = getattr(importlib.import_module(module), name)
        options = {**self.init_args, "visualizer": False}
        model = model_class(**options) if self.ckpt_path is None else model_class.load(self.ckpt_path, **options)
        if self.threads is not None:
            importlib.import_module("torch").set_num_threads(self.threads)
        return ModelScorer(model.eval().to(self.device), self.batch_size)

    def describe(self) -> dict[str, str]:
        """All that scores depend on, to compare with when a run goes on: files by their content, not their place."""
        content = {name: getattr(self, name) for name in ("ckpt_path", "onnx", "openvino")}
        return {
            "model": self.class_path,
            "arguments": json.dumps(self.init_args, sort_keys=True, default=str),
            **{name: "" if path is None else _digest(path) for name, path in content.items()},
            "version": __version__,
        }


def _open_onnx(path: str, threads: int | None) -> tuple[Any, Mapping[str, str]]:
    require_modules("onnxruntime")
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = options.inter_op_num_threads = threads
    try:
        session = runtime.InferenceSession(path, options)
    except Exception as error:  # its errors have no class in common but this
        msg = f"Expected {path} to be an ONNX model, but opening it failed: {str(error).splitlines()[0]}"
        raise ValueError(msg) from error
    outputs = [output.name for output in session.get_outputs()]

    def run(inputs: dict[str, Any]) -> tuple[Any, Any]:
        wanted = [name for name in ("pred_score", "pred_label") if name in outputs]
        return (*session.run(wanted, inputs), None)[:2]

    return run, _checked(session.get_modelmeta().custom_metadata_map, path)


def _open_openvino(path: str, device: str, threads: int | None) -> tuple[Any, Mapping[str, str]]:
    require_modules("openvino")
    openvino = importlib.import_module("openvino")
    # Without the hint, CPUs with bfloat16 round to that.
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        core = openvino.Core()
        model = core.read_model(path)
        compiled = core.compile_model(model, device.upper(), settings)
    except Exception as error:  # as above
        msg = f"Expected {path} to be an OpenVINO model, but opening it failed: {str(error).splitlines()[0]}"
        raise ValueError(msg) from error
    described = {
        key: str(model.get_rt_info([METADATA_SECTION, key]).value)
        for key in ("class_names", "calibrated", "evidence")
        if model.has_rt_info([METADATA_SECTION, key])
    }
    labelled = any("pred_label" in output.get_names() for output in model.outputs)

    def run(inputs: dict[str, Any]) -> tuple[Any, Any]:
        found = compiled(inputs)
        return found["pred_score"], found["pred_label"] if labelled else None

    return run, _checked(described, path)


def _checked(description: Mapping[str, str], path: str) -> Mapping[str, str]:
    missing = [key for key in ("class_names", "calibrated", "evidence") if key not in description]
    if missing:
        msg = f"Expected {path} to be a file of `anomalib export` of SDP or SDPPlus, but its {missing[0]} is not known."
        raise ValueError(msg)
    return description


def _digest(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _slowly(file)


def _slowly(file: Any) -> str:  # Python 3.10
    digest = hashlib.sha256()
    while block := file.read(2**20):
        digest.update(block)
    return digest.hexdigest()
