# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The host's export methods for SDP and SDP+."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from anomalib.data import AnomalibDataModule
from anomalib.deploy import CompressionType, ExportType
from anomalib.metrics import F1Score
from torchmetrics import Metric

from anomalib_clipad.data.image_loader import engine_transform
from anomalib_clipad.deploy.exported_model import ExportedModel, metadata, select_classes, write_torch
from anomalib_clipad.deploy.onnx import check_input_size, write_onnx
from anomalib_clipad.deploy.openvino import Quantisation, check_compression, write_openvino
from anomalib_clipad.post_processing.post_processor import CategoryPostProcessor
from anomalib_clipad.scoring.torch_model import SDPModel

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule as _Base
else:
    _Base = object


class ClipExport(_Base):
    """Methods by which ``anomalib export`` and ``Engine.export`` write a model; part of ``ClipModule``."""

    model: SDPModel
    class_name: str | None
    collaborators: Any
    evidence: Callable[[str], str]

    def to_exported_model(self, class_names: Sequence[str] | None = None) -> ExportedModel:
        """Make what is deployed of the model: everything but the text tower, for some classes.

        Args:
            class_names: Classes, in the order in which ``class_index`` counts them; text vectors are computed for those
                that are new. By default the model's ``class_name``, else all classes known.

        Raises:
            RuntimeError: If no class is known, or SDP+ has no heads.
            ValueError: If ``class_names`` is empty or names a class twice.
        """
        self.on_predict_start()  # refuses what `anomalib predict` refuses
        if class_names is None:
            class_names = list(self.model.texts.names) if self.class_name is None else [self.class_name]
            if not class_names:
                msg = (
                    "Expected the model to know the class to export, but got none. Name it (--model.class_name or "
                    "class_name=...), or export a checkpoint of a test or training (--ckpt_path)."
                )
                raise RuntimeError(msg)
        if isinstance(class_names, str) or not class_names or len(set(class_names)) < len(class_names):
            msg = f"Expected class_names to be a list of one or more different names, but got {class_names!r}."
            raise ValueError(msg)
        chosen = self._indices(class_names)
        ours = self.post_processor if isinstance(self.post_processor, CategoryPostProcessor) else None
        uncalibrated = [
            name for name, index in zip(class_names, chosen, strict=True) if ours and not ours.is_calibrated(index)
        ]
        if uncalibrated:
            logger.warning(
                "Exported without calibration, with full ranges and thresholds of 0.5: %s. To calibrate, test or "
                "predict with calibrate_unlabelled first, and export the checkpoint.",
                ", ".join(uncalibrated),
            )
        model, post_processor = select_classes(self.model, self.post_processor, chosen)
        return ExportedModel(engine_transform(self.pre_processor), model, post_processor).eval()

    def to_torch(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        class_names: Sequence[str] | None = None,
    ) -> Path:
        """Write a ``.pt`` file for the host's ``TorchInferencer``; arguments as in :meth:`to_onnx`."""
        path = _path(export_root, ExportType.TORCH, model_file_name, ".pt")
        return write_torch(self.to_exported_model(class_names), path)

    def to_onnx(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        class_names: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Path:
        """Write an ``.onnx`` file, see docs/export.md.

        Args:
            export_root: Results folder; the file goes to its ``weights/onnx``.
            model_file_name: Name of the file without its ending.
            input_size: Height and width of raw images; ``None`` for any.
            class_names: Classes, see :meth:`to_exported_model`. A graph of several has a second input, ``class_index``.
                On the command line: ``--onnx_kwargs '{"class_names": ["nut", "bolt"]}'``.
            kwargs: Further arguments of ``torch.onnx.export``.

        Raises:
            ModuleNotFoundError: If a package for ONNX is not installed.
            RuntimeError: If no class is known, or SDP+ has no heads.
            ValueError: If an argument is invalid.
        """
        path = _path(export_root, ExportType.ONNX, model_file_name, ".onnx")
        return self._write_onnx(self.to_exported_model(class_names), path, input_size, **kwargs)

    def to_openvino(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        compression_type: CompressionType | None = None,
        datamodule: AnomalibDataModule | None = None,
        metric: Metric | None = None,
        task: Any = None,
        max_drop: float = 0.01,
        ov_kwargs: dict[str, Any] | None = None,
        onnx_kwargs: dict[str, Any] | None = None,
    ) -> Path:
        """Write ``.xml`` and ``.bin`` files, see docs/export.md.

        Args:
            export_root: Results folder; the files go to its ``weights/openvino``.
            model_file_name: Name of the files without their endings.
            input_size: As in :meth:`to_onnx`.
            compression_type: ``fp16``, ``int8`` (weights only), ``int8_ptq`` or ``int8_acq``; ``None`` for float32.
            datamodule: Images to quantise with, for the last two.
            metric: What ``int8_acq`` keeps up, the image F1 score by default.
            task: Not used; anomalib passes it to other models.
            max_drop: How much of the metric ``int8_acq`` may lose.
            ov_kwargs: Arguments of ``openvino.convert_model``.
            onnx_kwargs: Arguments of :meth:`to_onnx`, ``class_names`` among them.

        Raises:
            ModuleNotFoundError: If a package for OpenVINO is not installed.
            RuntimeError: If no class is known, or SDP+ has no heads.
            ValueError: If an argument is invalid.
        """
        del task
        quantisation = Quantisation(datamodule, metric or F1Score(fields=["pred_label", "gt_label"]), max_drop)
        compression = check_compression(compression_type, quantisation)
        check_input_size(input_size)
        options = dict(onnx_kwargs or {})
        if not options.get("optimize", True):
            msg = (
                "Expected graphs for OpenVINO to be optimised, but got optimize=False in onnx_kwargs. "
                "OpenVINO would compile them for longer than anybody waits. Leave it out."
            )
            raise ValueError(msg)
        exported = self.to_exported_model(options.pop("class_names", None))
        path = _path(export_root, ExportType.OPENVINO, model_file_name, ".xml")
        with TemporaryDirectory() as folder:
            onnx = self._write_onnx(exported, Path(folder) / "model.onnx", input_size, **options)
            return write_openvino(
                onnx,
                path,
                exported.class_names,
                self._description(exported),
                compression,
                quantisation,
                **(ov_kwargs or {}),
            )

    def _write_onnx(
        self, exported: ExportedModel, path: Path, input_size: tuple[int, int] | None, **options: Any
    ) -> Path:
        return write_onnx(exported, path, input_size, self._description(exported), **options)

    def _description(self, exported: ExportedModel) -> dict[str, str]:
        evidence = [self.evidence(name) for name in exported.class_names]
        return metadata(exported, self.name, self.collaborators.backbone.name, evidence)


def _path(export_root: Path | str, kind: ExportType, name: str, suffix: str) -> Path:
    """File in the host's layout of results."""
    return Path(export_root) / "weights" / kind.value / f"{name}{suffix}"
