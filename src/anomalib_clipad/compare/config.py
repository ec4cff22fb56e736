# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What a comparison's YAML file says: the grid, how to run it, and what is expected of it."""

from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import Namespace


@dataclass
class ModelEntry:
    """A model of the grid.

    Attributes:
        class_path: Any anomalib model class, such as ``anomalib_clipad.SDP`` or ``anomalib.models.Patchcore``.
        init_args: Arguments of the class.
        note: What a reader of the tables should know about the model.
        batch_size: Images in a test batch, where it is not to be the dataset's.
        train_batch_size: Images in a training batch, where it is not to be the dataset's.
        trainer: Arguments of Lightning's trainer, such as ``max_epochs`` of a model that trains for epochs.
    """

    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)
    note: str | None = None
    batch_size: int | None = None
    train_batch_size: int | None = None
    trainer: dict[str, Any] = field(default_factory=dict)


@dataclass
class DatasetEntry:
    """A dataset of the grid.

    Attributes:
        class_path: Any image datamodule, of anomalib or of this package.
        init_args: Arguments of the class, without the category.
        categories: Categories to compare on. By default all that the datamodule names; one that has no categories,
            such as ``Folder``, is one category under its own name.
        skip_without: Folder without which the dataset is left out, with a word: for data that not everyone has.
    """

    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)
    categories: list[str] | None = None
    skip_without: str | None = None


Entry = TypeVar("Entry", ModelEntry, DatasetEntry)


@dataclass
class CompareConfig:
    """A grid of models × datasets × categories × seeds, and how to run it; see :func:`make_config`."""

    models: dict[str, ModelEntry]
    datasets: dict[str, DatasetEntry]
    output: str
    seeds: list[int]
    accelerator: str
    devices: int
    reference_pro: bool
    retry_failed: bool
    expected: dict[str, dict[str, Any]]
    tolerance: float
    needs: str | None


def make_config(
    models: dict[str, dict[str, Any]],
    datasets: dict[str, dict[str, Any]],
    output: str = "results/compare",
    seeds: list[int] | None = None,
    accelerator: str = "auto",
    devices: int = 1,
    reference_pro: bool = False,
    retry_failed: bool = True,
    expected: dict[str, dict[str, Any]] | None = None,
    tolerance: float = 1.0,
    needs: str | None = None,
) -> CompareConfig:
    """Make a grid of models × datasets × categories × seeds from plain data, as a YAML file has it.

    Args:
        models: Name in the tables to model: ``class_path`` of any anomalib model class, ``init_args``, and the options
            of :class:`ModelEntry`.
        datasets: Name in the tables to dataset: ``class_path`` of any image datamodule, ``init_args``, and
            ``categories`` where not all are wanted, see :class:`DatasetEntry`.
        output: Folder of records and report.
        seeds: Seeds of everything random, 42 by default; each is a job of its own.
        accelerator: Accelerator of the trainer.
        devices: Number of jobs run side by side, each on a device of its own; on a CPU, in processes of their own.
        reference_pro: Report the 200-threshold PRO of the paper's reference beside the exact one.
        retry_failed: Whether a job that failed earlier is run again.
        expected: What means over categories and seeds are held against, such as published figures: model to dataset to
            metric to figure × 100, and ``source``, where the figures are from.
        tolerance: Largest difference, in points × 100, at which an expected figure counts as reached.
        needs: Time, disk and memory that the grid needs, in words; shown before the first job.

    Raises:
        ValueError: If an entry has no class path, or an unknown option.
    """
    return CompareConfig(
        models={name: _entry(ModelEntry, f"models.{name}", given) for name, given in models.items()},
        datasets={name: _entry(DatasetEntry, f"datasets.{name}", given) for name, given in datasets.items()},
        output=output,
        seeds=[42] if seeds is None else seeds,
        accelerator=accelerator,
        devices=devices,
        reference_pro=reference_pro,
        retry_failed=retry_failed,
        expected=_plain(expected or {}),
        tolerance=tolerance,
        needs=needs,
    )


def _entry(kind: type[Entry], what: str, given: dict[str, Any]) -> Entry:
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(given) - set(known))
    if unknown or "class_path" not in given:
        problem = f"an unknown {unknown[0]}" if unknown else "no class_path"
        msg = f"Expected {what} to have a class_path and options, but got {problem}. Options: {', '.join(known)}."
        raise ValueError(msg)
    return kind(**_plain(given))


def _plain(value: Any) -> Any:
    """Value as a YAML file has it: jsonargparse has made classes and paths of what looks like them."""
    if isinstance(value, Namespace):
        value = value.as_dict()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path | Enum) else value
