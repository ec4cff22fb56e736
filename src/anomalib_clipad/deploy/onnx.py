# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX graphs of an exported model, for images of any size and any number of classes."""

import importlib
import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anomalib_clipad.base.files import atomic_write
from anomalib_clipad.deploy.exported_model import CLASS_INPUT, ExportedModel, require_modules
from anomalib_clipad.deploy.transform import exportable_transform
from anomalib_clipad.post_processing.post_processor import CategoryPostProcessor

OPSETS = range(18, 24)
"""Opsets that PyTorch's exporter writes without converting."""

_LARGEST_FILE = 1_900_000_000
"""Bytes of weights in one ONNX file, whose format ends at 2 GiB; those of larger models go to a file beside it."""

_FOLDED_BYTES = 2**28
"""Largest constants that are computed when exporting instead of at each inference."""

_EXAMPLE_SIZE = (40, 36)
"""Raw image that a graph for any size is traced with."""


def write_onnx(
    exported: ExportedModel,
    path: Path,
    input_size: tuple[int, int] | None,
    description: dict[str, str],
    **options: Any,
) -> Path:
    """Write a graph that any ONNX runtime opens; ``input_size`` is that of raw images, ``None`` for any.

    ``description`` becomes metadata of the file, ``options`` go to ``torch.onnx.export``.
    """
    check_input_size(input_size)
    options = {"opset_version": OPSETS[0], **options}
    _check_options(options)
    if exported.transform is None and input_size is None:
        msg = (
            "Expected input_size to be given for a model that does not resize its images, but got none. "
            "Pass their height and width (--input_size)."
        )
        raise ValueError(msg)
    require_modules("onnx", "onnxscript")
    graph = ExportedModel(
        exportable_transform(exported.transform, input_size), exported.model, exported.post_processor
    ).eval()
    example = _example(graph, input_size)
    with torch.no_grad():
        outputs = [name for name, value in graph(*example)._asdict().items() if value is not None]
    external = options.pop("external_data", _size(graph) > _LARGEST_FILE)
    optimise = options.pop("optimize", True)
    settings = {
        "input_names": ["input", CLASS_INPUT][: len(example)],
        "output_names": outputs,
        "dynamic_shapes": None if "dynamic_axes" in options else _dynamic_shapes(len(example), input_size),
        "verbose": False,
        "optimize": False,  # once, below: the exporter's own passes take half of the time and leave large constants
        **options,
    }
    with _quiet_exporter():
        try:
            program: Any = torch.onnx.export(graph, example, **settings)
        except torch.onnx.OnnxExporterError as error:
            if isinstance(graph.post_processor, CategoryPostProcessor | None):
                raise
            name = type(graph.post_processor).__name__
            msg = (
                f"Expected post_processor to be one that can be exported to ONNX, but got {name}. "
                "Export to PyTorch (to_torch, --export_type torch), or leave post_processor at its default."
            )
            raise ValueError(msg) from error
        if optimise:
            # The tables of resizing and blur are larger than what is folded by default. Runtimes do the rest.
            limits = {"input_size_limit": _FOLDED_BYTES, "output_size_limit": _FOLDED_BYTES, "num_iterations": 1}
            program.model = importlib.import_module("onnxscript.optimizer").optimize(program.model, **limits)
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, with paths of this machine
    program.model.metadata_props.update(description)
    with atomic_write(path) as draft:
        program.save(draft, external_data=external)
    return path


def check_input_size(input_size: tuple[int, int] | None) -> None:
    """Refuse a fixed size of raw images that is not a height and a width."""
    if input_size is None:
        return
    sides = list(input_size)
    if len(sides) != 2 or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides):
        msg = (
            f"Expected input_size to be the height and width of raw images in pixels, but got {input_size}. "
            "Leave it out for a model that takes images of any size."
        )
        raise ValueError(msg)


def _check_options(options: dict[str, Any]) -> None:
    opset = options["opset_version"]
    if isinstance(opset, bool) or not isinstance(opset, int) or opset not in OPSETS:
        msg = f"Expected opset_version to be one of {', '.join(map(str, OPSETS))}, but got {opset!r}."
        raise ValueError(msg)
    if options.get("dynamo", True) is not True:
        msg = f"Expected dynamo to be True, PyTorch's only exporter in use, but got {options['dynamo']}. Leave it out."
        raise ValueError(msg)
    # Where to write is not an option, and the batch is always dynamic.
    valid = sorted(set(inspect.signature(torch.onnx.export).parameters) - {"model", "args", "f", "kwargs"})
    for option in options:
        if option not in valid:
            msg = f"Expected options of ONNX to be among {', '.join(valid)}, but got {option!r}."
            raise ValueError(msg)


def _example(graph: ExportedModel, input_size: tuple[int, int] | None) -> tuple[Tensor, ...]:
    """Inputs to trace with; a batch of one would be taken for a constant."""
    device = graph.model.texts.embeddings.device
    image = torch.zeros(2, 3, *(input_size or _EXAMPLE_SIZE), device=device)
    if len(graph.class_names) == 1:
        return (image,)
    return image, torch.zeros(2, dtype=torch.long, device=device)


def _dynamic_shapes(n_inputs: int, input_size: tuple[int, int] | None) -> tuple[dict[int, Any], ...]:
    batch = torch.export.Dim("batch_size")
    image = {0: batch}
    if input_size is None:
        image |= {2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    return (image, {0: batch})[:n_inputs]


def _size(module: nn.Module) -> int:
    """Bytes of a module's weights."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's notes on each constant from the user; errors and warnings of others are shown."""
    noisy = [logging.getLogger(name) for name in ("onnx_ir", "onnxscript")]
    levels = [each.level for each in noisy]
    for each in noisy:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*axis name: batch_size will not be used")
            yield
    finally:
        for each, level in zip(noisy, levels, strict=True):
            each.setLevel(level)
