# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What scores images in a worker: SDP or SDP+ by its arguments or a checkpoint, or an exported file."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from anomalib_clipad import SDP, SDPPlus
from anomalib_clipad._version import __version__
from anomalib_clipad.base.text import list_some
from anomalib_clipad.data.image_loader import BATCH_SIZE, ListedImage, read_ahead
from anomalib_clipad.prediction.table import PredictionRow, describe_skipped, row_alone
from anomalib_clipad.scale.exported import ExportedScorer, open_onnx, open_openvino
from anomalib_clipad.scale.model_spec import ModelSpec, describe_files, require_one_by_one

_BATCHES_AT_ONCE = 16
"""Batches whose maps are in memory together, before only their rows are kept."""

_ONE_BY_ONE = {"page": False, "regions": False}
"""What rows of scores have no use for."""


class Scorer(Protocol):
    """Scores images, each by itself."""

    def check(self, class_names: Collection[str | None]) -> None:
        """Refuse what would fail or be wrong for all images: ValueError; ``None`` stands for images without a name."""

    def score(self, images: Sequence[ListedImage]) -> list[PredictionRow]:
        """Rows of the tables in the order of the images; a file that cannot be read has a row with its error.

        Raises:
            ValueError: If the class of an image is not known.
        """


@dataclass(frozen=True)
class ModelScorer:
    """Scores with SDP or SDP+ in this process."""

    model: SDP | SDPPlus
    batch_size: int = BATCH_SIZE

    def check(self, class_names: Collection[str | None]) -> None:
        """See :class:`Scorer`. Text vectors of the classes are computed, or read from the cache."""
        named = [name for name in class_names if name is not None]
        if self.model.class_name is not None and named:
            msg = (
                f"Expected class names from the list or from the model, but got {list_some(named, 3)} "
                f"and {self.model.class_name!r}. Leave out class_name (--model.class_name)."
            )
            raise ValueError(msg)
        require_one_by_one(self.model)
        self.model.on_predict_start()
        self.model.add_classes([name or self.model.usual_class() for name in class_names])

    def score(self, images: Sequence[ListedImage]) -> list[PredictionRow]:
        """See :class:`Scorer`."""
        step = _BATCHES_AT_ONCE * self.batch_size
        return [row for start in range(0, len(images), step) for row in self._score(images[start : start + step])]

    def _score(self, images: Sequence[ListedImage]) -> list[PredictionRow]:
        names = [image.class_name or self.model.usual_class() for image in images]
        try:
            rows = self.model.predict([image.path for image in images], names, self.batch_size).rows
        except OSError:
            rows = [replace(describe_skipped(each), position=index) for index, each in enumerate(_unreadable(images))]
            if len(rows) < len(images):  # it was something else
                raise
        return [replace(row_alone(row), position=images[row.position].position) for row in rows]


def _unreadable(images: Sequence[ListedImage]) -> Iterator[Any]:
    for _, skipped in read_ahead([images], None):
        yield from skipped


@dataclass(frozen=True)
class ScorerSpec:
    """How a worker makes its scorer: plain data that travels to other machines, which have the same files.

    Args:
        class_path: ``anomalib_clipad.SDP`` or ``anomalib_clipad.SDPPlus``.
        init_args: Arguments of that class; those of a checkpoint that differ from when it was saved.
        ckpt_path: Checkpoint of the class.
        onnx: File for ONNX Runtime.
        openvino: ``.xml`` file for OpenVINO.
        device: Where a model runs; of exported files OpenVINO's name of the device.
        batch_size: Images in a batch.
        threads: Threads of a worker; ``None`` for the libraries' own choice.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If more than one thing is to score, or a number is not valid.
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
        if self.init_args and self.ckpt_path is None and given:
            msg = (
                f"Expected {given[0]} alone, but got arguments of a model, {list_some(list(self.init_args))}: "
                "an exported file has what it was exported with. Leave them out, or export again."
            )
            raise ValueError(msg)
        for name in given:
            path = Path(getattr(self, name))
            if not path.is_file():
                msg = f"Expected {name} to be a file, but found none at {path.absolute()}."
                raise FileNotFoundError(msg)
        for name in ("batch_size", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                msg = f"Expected {name} to be at least 1, but got {value}."
                raise ValueError(msg)

    def make(self) -> Scorer:
        """Load the model.

        Raises:
            ModuleNotFoundError: If a runtime is not installed.
            ValueError: If a file is damaged or does not fit.
        """
        if self.onnx is not None:
            return ExportedScorer(*open_onnx(self.onnx, self.device, self.threads), self.batch_size)
        if self.openvino is not None:
            return ExportedScorer(*open_openvino(self.openvino, self.device, self.threads), self.batch_size)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return ModelScorer(self._model().make(), self.batch_size)

    def check(self, class_names: Collection[str | None]) -> None:
        """Load the model once on the CPU and let go of it, to find out here what would fail in all workers.

        Raises:
            ModuleNotFoundError: If a runtime is not installed.
            RuntimeError: If SDP+ has no heads.
            ValueError: If a file is damaged, or the model cannot score images of these classes.
        """
        replace(self, device="cpu", threads=None).make().check(class_names)

    def describe(self) -> dict[str, str]:
        """All that scores depend on, to compare with when a run goes on: files by their content, not their place."""
        if self.onnx is not None:  # a large graph has its weights beside it
            return {"onnx": describe_files(self.onnx, f"{self.onnx}.data"), "version": __version__}
        if self.openvino is not None:
            weights = str(Path(self.openvino).with_suffix(".bin"))
            return {"openvino": describe_files(self.openvino, weights), "version": __version__}
        return replace(self._model(), init_args=self.init_args).describe()

    def _model(self) -> ModelSpec:
        return ModelSpec(self.class_path, {**self.init_args, **_ONE_BY_ONE}, self.ckpt_path, self.device)
