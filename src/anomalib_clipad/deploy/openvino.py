# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""OpenVINO files of an exported model, compressed as the host's ``compression_type`` says."""

import functools
import importlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from anomalib.data import AnomalibDataModule, ImageBatch
from anomalib.deploy import CompressionType
from numpy.typing import NDArray
from torchmetrics import Metric
from torchvision.transforms.v2.functional import resize

from anomalib_clipad.base.files import atomic_write
from anomalib_clipad.data.categories import image_categories
from anomalib_clipad.deploy.exported_model import CLASS_INPUT, METADATA_SECTION, require_modules

CALIBRATION_IMAGES = 300
"""Images that quantisation measures ranges on, at most; as many as NNCF looks at by default."""

_QUANTISING = (CompressionType.INT8_PTQ, CompressionType.INT8_ACQ)


class Sample(NamedTuple):
    """An image to quantise with: inputs of the graph, and what is known of it."""

    inputs: dict[str, NDArray[Any]]
    label: torch.Tensor
    mask: torch.Tensor | None


class Quantisation(NamedTuple):
    """What a quantised model is measured on.

    Attributes:
        datamodule: Its validation images give the ranges of activations, its test images the accuracy.
        metric: What INT8_ACQ must not lose; higher is better.
        max_drop: How much of it INT8_ACQ may lose, in [0, 1].
    """

    datamodule: AnomalibDataModule | None
    metric: Metric
    max_drop: float


def check_compression(compression: CompressionType | str | None, quantisation: Quantisation) -> CompressionType | None:
    """Refuse a compression that cannot be done, before anything is exported."""
    valid = [kind.value for kind in CompressionType]
    if compression is not None and compression not in valid:
        msg = f"Expected compression_type to be one of {', '.join(valid)}, but got {compression!r}."
        raise ValueError(msg)
    kind = None if compression is None else CompressionType(compression)
    if kind in _QUANTISING and quantisation.datamodule is None:
        msg = (
            f"Expected a datamodule to quantise with for compression_type {kind.value}, but got none. "
            "Name one (--data), or choose int8, which needs no images."
        )
        raise ValueError(msg)
    if kind is CompressionType.INT8_ACQ and not 0 <= quantisation.max_drop <= 1:
        msg = f"Expected max_drop to be between 0 and 1, but got {quantisation.max_drop}."
        raise ValueError(msg)
    require_modules("openvino", *([] if kind in {None, CompressionType.FP16} else ["nncf"]))
    return kind


@functools.cache
def openvino_core() -> Any:
    """The only ``openvino.Core`` of this process; needs OpenVINO.

    Each Core gives its thread another stack for signals where the CPU has AMX, and puts back the former one at its end.
    Of two that end in the order in which they began, the second puts back the stack that the first has freed. The next
    signal that Python handles, such as the end of a data loader's worker, then kills the process without a word
    (OpenVINO 2026.4).
    """
    return importlib.import_module("openvino").Core()


def write_openvino(
    onnx: Path,
    path: Path,
    class_names: Sequence[str],
    description: dict[str, str],
    compression: CompressionType | None,
    quantisation: Quantisation,
    **options: Any,
) -> Path:
    """Convert an ONNX graph, compress it and write ``path`` with the weights in a ``.bin`` file beside it.

    ``description`` becomes a section of its ``rt_info``, ``options`` go to ``openvino.convert_model``.
    """
    openvino = importlib.import_module("openvino")
    model = openvino.convert_model(onnx, **options)
    if compression is CompressionType.INT8:
        model = importlib.import_module("nncf").compress_weights(model)
    elif compression in _QUANTISING:
        model = _quantise(model, class_names, quantisation, accuracy_control=compression is CompressionType.INT8_ACQ)
    for key, value in description.items():
        model.set_rt_info(value, [METADATA_SECTION, key])
    with atomic_write(path) as draft:
        openvino.save_model(model, draft, compress_to_fp16=compression is CompressionType.FP16)
    return path


def _quantise(model: Any, class_names: Sequence[str], quantisation: Quantisation, *, accuracy_control: bool) -> Any:
    """Quantise the vision tower to 8 bits; resizing, comparison with the texts and scoring stay as they are."""
    nncf = importlib.import_module("nncf")
    datamodule = quantisation.datamodule
    assert datamodule is not None  # check_compression has seen to it
    datamodule.prepare_data()
    datamodule.setup("fit")
    shape = model.input(0).partial_shape
    size = None if shape[2].is_dynamic else (shape[2].get_length(), shape[3].get_length())
    seen = list(_samples(datamodule, datamodule.val_dataloader().dataset, class_names, size))
    calibration = nncf.Dataset(seen, lambda sample: sample.inputs)
    kept = nncf.IgnoredScope(names=_outside_tower(model), validate=False)
    if not accuracy_control:
        return nncf.quantize(model, calibration, subset_size=len(seen), ignored_scope=kept)
    datamodule.setup("test")
    tested = list(_samples(datamodule, datamodule.test_dataloader().dataset, class_names, size))

    def accuracy(compiled: Any, samples: Any) -> float:
        quantisation.metric.reset()
        for sample in samples:
            quantisation.metric.update(_as_batch(compiled(sample.inputs), sample))
        return float(quantisation.metric.compute())

    return nncf.quantize_with_accuracy_control(
        model,
        calibration_dataset=calibration,
        validation_dataset=nncf.Dataset(tested, lambda sample: sample.inputs),
        validation_fn=accuracy,
        max_drop=quantisation.max_drop,
        subset_size=len(seen),
        ignored_scope=kept,
    )


def _outside_tower(model: Any) -> list[str]:
    """Names of the operations before the patch embedding, the one convolution, and from the comparison with texts on.

    Quantising these costs accuracy and saves next to nothing. The comparison is recognised by its result, the products
    with the two texts, or with their difference: no product inside a tower is as narrow.
    """
    operations = model.get_ordered_ops()
    convolutions = [operation for operation in operations if operation.get_type_name() == "Convolution"]
    comparisons = [
        operation
        for operation in operations
        if operation.get_type_name() == "MatMul" and _width(operation.output(0).partial_shape) <= 2
    ]
    before = _reachable([source for operation in convolutions for source in _sources(operation)], _sources)
    after = _reachable(comparisons, _targets)
    return [
        name
        for name, operation in {**before, **after}.items()
        if operation.get_type_name() not in {"Constant", "Parameter", "Result"}
    ]


def _width(shape: Any) -> float:
    return shape[-1].get_length() if shape[-1].is_static else float("inf")


def _sources(operation: Any) -> list[Any]:
    return [port.get_source_output().get_node() for port in operation.inputs()]


def _targets(operation: Any) -> list[Any]:
    return [port.get_node() for output in operation.outputs() for port in output.get_target_inputs()]


def _reachable(starts: Iterable[Any], neighbours: Callable[[Any], list[Any]]) -> dict[str, Any]:
    """Operations that can be reached, by name, the starts included."""
    found: dict[str, Any] = {}
    waiting = list(starts)
    while waiting:
        operation = waiting.pop()
        if operation.get_friendly_name() not in found:
            found[operation.get_friendly_name()] = operation
            waiting += neighbours(operation)
    return found


def _samples(
    datamodule: AnomalibDataModule, dataset: Any, class_names: Sequence[str], size: tuple[int, int] | None
) -> Iterator[Sample]:
    """Yield images of a dataset, drawn evenly: its order is that of the categories."""
    found = 0
    for index in random.Random(0).sample(range(len(dataset)), len(dataset)):
        item = dataset[index]
        inputs = {"input": torch.as_tensor(item.image)[None] if size is None else _resized(item.image, size)}
        if len(class_names) > 1:
            categories = image_categories(datamodule, [item.image_path])
            if categories is None or categories[0] not in class_names:
                continue
            inputs[CLASS_INPUT] = torch.tensor([class_names.index(categories[0])])
        yield Sample({key: value.numpy() for key, value in inputs.items()}, item.gt_label, item.gt_mask)
        found += 1
        if found == CALIBRATION_IMAGES:
            return
    if not found:
        msg = (
            f"Expected datamodule to have images of the exported classes ({', '.join(class_names)}) to quantise with, "
            f"but got none among the {len(dataset)} of {datamodule.name}. "
            "Name a datamodule that tells the category of its images."
        )
        raise ValueError(msg)


def _resized(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Image as a camera of that resolution would have taken it, (1, 3, H, W)."""
    return resize(torch.as_tensor(image), list(size), antialias=True)[None]


def _as_batch(outputs: Any, sample: Sample) -> ImageBatch:
    """Batch of one image for a metric: predictions of a graph beside the truth."""
    names = ("pred_score", "pred_label", "anomaly_map", "pred_mask")
    present = {name for output in outputs for name in output.get_names()}
    return ImageBatch(
        image=torch.from_numpy(sample.inputs["input"]),
        gt_label=torch.as_tensor(sample.label).reshape(1),
        gt_mask=None if sample.mask is None else _mask_like(sample.mask, outputs["anomaly_map"].shape),
        **{name: torch.from_numpy(outputs[name]) for name in names if name in present},
    )


def _mask_like(mask: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Mask at the resolution of the maps (1, H, W), as the engine compares them."""
    pixels = torch.as_tensor(mask).float().reshape(1, 1, *mask.shape[-2:])
    return torch.nn.functional.interpolate(pixels, size=shape[-2:], mode="nearest")[0].bool()
