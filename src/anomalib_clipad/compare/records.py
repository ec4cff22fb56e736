# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What a comparison leaves on disk, and nothing about how it was made: the report reads no more than this.

::

    <output>/compare.yaml               the resolved config
    <output>/grid.json                  ids of the jobs of that config, in its order
    <output>/expected.json              figures that its means are held against, see ``expected.py``
    <output>/heads/...                  heads that were trained for the grid
    <output>/jobs/<job id>/record.json  written last: where it is, the job has finished
    <output>/jobs/<job id>/images.npz   score and map of each test image
    <output>/jobs/<job id>/curves.json  ROC and PRO curves
    <output>/results.csv  results.md  index.html
"""

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from anomalib_clipad.base.files import atomic_write

logger = logging.getLogger(__name__)

T = TypeVar("T")

CONFIG_FILE = "compare.yaml"
GRID_FILE = "grid.json"
HEADS_FOLDER = "heads"
JOBS_FOLDER = "jobs"
RECORD_FILE = "record.json"
IMAGES_FILE = "images.npz"
CURVES_FILE = "curves.json"

MAX_MAP_SIDE = 128
"""Maps are kept for looking at; the metrics were computed before at the model's size."""

MAX_CURVE_POINTS = 200

Curves = dict[str, dict[str, list[float]]]
"""``image_roc`` and ``pixel_roc`` with ``fpr`` and ``tpr``, ``pro`` with ``fpr`` and ``pro``; if defined."""


@dataclass(frozen=True)
class Measures:
    """What a job cost. ``None`` where it was not measured, as in a job that failed before.

    Attributes:
        wall_s: Seconds of the whole job: building model and data, fit, validation, test, writing its files.
        fit_s: Seconds of the fit alone; 0 for models that are not fitted.
        test_s: Seconds of the test alone, metrics included.
        images: Number of test images.
        model_images_per_s: Test images a second in the model's forward pass alone, the first batch left out.
        end_to_end_images_per_s: Test images a second with reading, transforms and post-processing, without metrics.
        peak_memory_mb: Largest memory in use, in MiB: resident memory of the process, and what its dataloader workers
            do not share with it, on a CPU; memory allocated by torch on a GPU.
        parameters: Number of parameters of the model, frozen ones included.
        checkpoint_bytes: Size of the checkpoint that the model saves.
    """

    wall_s: float | None = None
    fit_s: float | None = None
    test_s: float | None = None
    images: int | None = None
    model_images_per_s: float | None = None
    end_to_end_images_per_s: float | None = None
    peak_memory_mb: float | None = None
    parameters: int | None = None
    checkpoint_bytes: int | None = None


@dataclass(frozen=True)
class Provenance:
    """What a figure has to be read with.

    Attributes:
        input_size: Height and width in pixels at which model and pixel metrics work.
        backbone: Architecture.
        weights: Where the weights come from.
        metrics: Which implementation the metrics are.
        calibrated_on_test: Whether validation, which sets the ranges and thresholds, saw images of the test set.
        zero_shot: Whether the model was not trained on images of the category.
        evidence: What the scores rest on, by models that tell it: text, heads, references, pool.
        note: What the config says about the model; ``None`` if nothing.
        versions: Package name to version.
        device: Name of the device.
    """

    input_size: list[int] | None = None
    backbone: str | None = None
    weights: str | None = None
    metrics: str | None = None
    calibrated_on_test: bool | None = None
    zero_shot: bool | None = None
    evidence: str | None = None
    note: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    device: str | None = None


@dataclass(frozen=True)
class Record:
    """One job of a comparison: a model on a category of a dataset.

    Attributes:
        job: Id of the job and name of its folder; a hash of what defines the job is part of it.
        status: ``"done"`` or ``"failed"``.
        error: Type and message of the error that ended it.
        traceback: The error's traceback.
        model: Name of the model in the tables.
        class_path: Class of the model.
        init_args: Arguments of the model as in the config.
        dataset: Name of the dataset in the tables.
        category: Category of the dataset.
        seed: Seed of everything random.
        metrics: Metric to value; NaN where undefined, as where all images of the category are normal.
        measures: What the job cost.
        provenance: What the figures have to be read with.
    """

    job: str
    status: Literal["done", "failed"]
    model: str
    class_path: str
    init_args: dict[str, Any]
    dataset: str
    category: str
    seed: int
    error: str | None = None
    traceback: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    measures: Measures = field(default_factory=Measures)
    provenance: Provenance = field(default_factory=Provenance)


@dataclass(frozen=True, eq=False)
class Images:
    """The M test images of a job, in the order of the test set.

    Attributes:
        image_path: (M,) paths.
        mask_path: (M,) paths of the ground truth; empty where an image has none.
        gt_label: (M,) whether an image is anomalous.
        pred_score: (M,) emitted image scores.
        maps: (M, h, w) emitted anomaly maps, 0 to 1 as 0 to 255, reduced so that h and w are at most
            :data:`MAX_MAP_SIDE`.
    """

    image_path: NDArray[np.str_]
    mask_path: NDArray[np.str_]
    gt_label: NDArray[np.bool_]
    pred_score: NDArray[np.float32]
    maps: NDArray[np.uint8]


def job_folder(output: Path, job: str) -> Path:
    """Return the folder of a job."""
    return output / JOBS_FOLDER / job


def write_record(output: Path, record: Record) -> Path:
    """Write the record of a job in one step; the job's other files have to be there already."""
    content = asdict(record)
    content["metrics"] = {name: None if math.isnan(value) else value for name, value in record.metrics.items()}
    return _write_json(job_folder(output, record.job) / RECORD_FILE, content)


def read_record(output: Path, job: str) -> Record | None:
    """Read the record of a job, or return ``None`` where the job has none yet.

    Raises:
        ValueError: If the file is not a record of this version.
    """
    path = job_folder(output, job) / RECORD_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["metrics"] = {
            name: math.nan if value is None else float(value) for name, value in content["metrics"].items()
        }
        content["measures"] = Measures(**content["measures"])
        content["provenance"] = Provenance(**content["provenance"])
        return Record(**content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        msg = f"Expected {path} to be a record of a comparison, but got {error!r}. Remove it to run the job again."
        raise ValueError(msg) from error


def read_records(output: Path) -> list[Record]:
    """Read the records of the latest grid that was started in a folder, in the order of its config.

    Jobs that have not finished are left out. Records of jobs that the config no longer names stay on disk, unread.

    Raises:
        FileNotFoundError: If no comparison was started in the folder.
        ValueError: If a file is damaged.
    """
    records = [read_record(output, job) for job in read_grid(output)]
    return [record for record in records if record is not None]


def read_grid(output: Path) -> list[str]:
    """Read the ids of the jobs of the latest grid that was started in a folder, in the order of its config.

    Raises:
        FileNotFoundError: If no comparison was started in the folder.
    """
    path = output / GRID_FILE
    if not path.is_file():
        msg = f"Expected output to be the folder of a comparison, but got {output}, where there is no {GRID_FILE}."
        raise FileNotFoundError(msg)
    return json.loads(path.read_text(encoding="utf-8"))


def write_grid(output: Path, jobs: Sequence[str]) -> Path:
    """Write which jobs belong to the comparison, in the order of its config."""
    return _write_json(output / GRID_FILE, list(jobs))


def write_images(output: Path, job: str, images: Images) -> Path:
    """Write the scores and maps of a job."""
    path = job_folder(output, job) / IMAGES_FILE
    with atomic_write(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, **vars(images))
    return path


def read_images(output: Path, job: str) -> Images:
    """Read the scores and maps of a job that is done.

    Raises:
        FileNotFoundError: If the job left none.
    """
    with np.load(_existing(job_folder(output, job) / IMAGES_FILE), allow_pickle=False) as file:
        return Images(**{name: file[name] for name in Images.__dataclass_fields__})


def write_curves(output: Path, job: str, curves: Curves) -> Path:
    """Write the curves of a job."""
    return _write_json(job_folder(output, job) / CURVES_FILE, curves)


def read_curves(output: Path, job: str) -> Curves:
    """Read the curves of a job that is done.

    Raises:
        FileNotFoundError: If the job left none.
    """
    return json.loads(_existing(job_folder(output, job) / CURVES_FILE).read_text(encoding="utf-8"))


def if_there(read: Callable[[Path, str], T], output: Path, job: str) -> T | None:
    """Read a file of a job that is done, or warn that it is gone and return ``None``."""
    try:
        return read(output, job)
    except FileNotFoundError as error:
        logger.warning("Left out of the report: %s", error)
        return None


def _existing(path: Path) -> Path:
    if not path.is_file():
        msg = f"Expected a job that is done to have {path.name}, but got no file at {path}. Run the job again."
        raise FileNotFoundError(msg)
    return path


def _write_json(path: Path, content: Any) -> Path:
    with atomic_write(path) as draft:
        draft.write_text(json.dumps(content, indent=2, allow_nan=False), encoding="utf-8")
    return path
