# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The jobs that a grid of models, datasets, categories and seeds makes."""

import copy
import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, cast

from anomalib.data import AnomalibDataModule
from anomalib.models import AnomalibModule
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from lightning.pytorch import Trainer

from anomalib_clipad.compare.config import CompareConfig, DatasetEntry, ModelEntry

TRAINER_IS_GIVEN = (
    "accelerator",
    "devices",
    "logger",
    "default_root_dir",
    "enable_progress_bar",
    "enable_model_summary",
)
"""Arguments of the trainer that the comparison sets by itself."""


@dataclass(frozen=True)
class JobSpec:
    """One job of the grid: a model on a category. What is in here, and nothing else, decides the result."""

    model: str
    model_entry: ModelEntry
    dataset: str
    dataset_entry: DatasetEntry
    category: str
    seed: int
    reference_pro: bool

    @property
    def id(self) -> str:
        """Name of the job's folder: another definition is another job."""
        content = asdict(self)
        for option in ("trainer", "train_batch_size"):  # they came later: jobs without them stay what they were
            if not content["model_entry"][option]:
                del content["model_entry"][option]
        del content["dataset_entry"]["skip_without"]  # says where the job runs, not what it finds
        digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
        return f"{_slug(self.model)}-{_slug(self.dataset)}-{_slug(self.category)}-{self.seed}-{digest[:8]}"

    def make_model(self) -> AnomalibModule:
        """Make the model from its class path; one that takes a seed is given the job's."""
        entry = self.model_entry
        seed = {"seed": self.seed} if "seed" in _parameters(entry.class_path) else {}
        return instantiate(AnomalibModule, entry.class_path, seed | entry.init_args)

    def make_datamodule(self) -> AnomalibDataModule:
        """Make the datamodule of the category, with the model's batch sizes."""
        entry, datamodule = self.model_entry, make_datamodule(self.dataset_entry, self.category)
        if entry.batch_size is not None:
            datamodule.eval_batch_size = entry.batch_size
        if entry.train_batch_size is not None:
            datamodule.train_batch_size = entry.train_batch_size
        return datamodule


def expand(config: CompareConfig) -> list[JobSpec]:
    """Jobs of a grid, dataset by dataset and category by category, so that models can be compared early.

    Raises:
        ValueError: If there is nothing to run, or a class path or an argument is wrong; nothing has run then.
    """
    if not (config.models and config.datasets and config.seeds):
        msg = "Expected the grid to have at least one model, one dataset and one seed, but got none of one of them."
        raise ValueError(msg)
    for name, model in config.models.items():
        check(AnomalibModule, f"models.{name}", model.class_path, model.init_args)
        _check_trainer(f"models.{name}", model.trainer)
    return [
        JobSpec(name, model, dataset_name, dataset, category, seed, config.reference_pro)
        for dataset_name, dataset in config.datasets.items()
        for category in _categories(dataset_name, dataset)
        for name, model in config.models.items()
        for seed in config.seeds
    ]


def make_datamodule(dataset: DatasetEntry, category: str | None) -> AnomalibDataModule:
    """Make the datamodule of one category, or of all that it has.

    Datamodules of this package take ``categories``, the host's ``category``, and some have neither.
    """
    parameters = _parameters(dataset.class_path)
    arguments = dict(dataset.init_args)
    if "categories" in parameters:
        if category is not None or dataset.categories is not None:
            arguments["categories"] = dataset.categories if category is None else [category]
    elif "category" in parameters and category is not None:
        arguments["category"] = category
    return instantiate(AnomalibDataModule, dataset.class_path, arguments)


def find_class(class_path: str) -> type:
    """Import the class of a dotted path."""
    module, _, name = class_path.rpartition(".")
    return cast("type", getattr(importlib.import_module(module), name))


def instantiate(base: type, class_path: str, init_args: dict[str, Any]) -> Any:
    """Make an object as the command line does, nested class paths included."""
    parser = _parser(base)
    return parser.instantiate_classes(_parsed(parser, class_path, init_args)).it


def check(base: type, what: str, class_path: str, init_args: dict[str, Any]) -> None:
    """Check a class path and its arguments without making anything.

    Raises:
        ValueError: If the class or an argument does not exist, or a value has the wrong type.
    """
    try:
        _parsed(_parser(base), class_path, init_args)
    except (ArgumentError, ValueError) as error:
        msg = f"Expected {what} to name a class and its arguments, but got {class_path}: {error}"
        raise ValueError(msg) from error


def _check_trainer(what: str, arguments: dict[str, Any]) -> None:
    known = [name for name in inspect.signature(Trainer).parameters if name not in TRAINER_IS_GIVEN]
    for name in arguments:
        if name not in known:
            msg = (
                f"Expected {what}.trainer to have arguments of the trainer, but got {name}. Known: {', '.join(known)}."
            )
            raise ValueError(msg)


def _categories(name: str, dataset: DatasetEntry) -> Iterator[str]:
    check(AnomalibDataModule, f"datasets.{name}", dataset.class_path, dataset.init_args)
    if dataset.categories is not None:
        yield from dataset.categories
        return
    datamodule = make_datamodule(dataset, None)
    categories = getattr(datamodule, "categories", None) or [getattr(datamodule, "category", None) or datamodule.name]
    if len(categories) > 1 and not {"categories", "category"} & _parameters(dataset.class_path):
        msg = (
            f"Expected datasets.{name} to be one category, or a class with an argument for its categories, but got "
            f"{len(categories)} categories of {dataset.class_path}. Give each an entry of its own."
        )
        raise ValueError(msg)
    yield from categories


def _parser(base: type) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--it", type=base)
    return parser


def _parsed(parser: ArgumentParser, class_path: str, init_args: dict[str, Any]) -> Namespace:
    # A copy, for the parser puts the values of nested classes in place.
    return parser.parse_object({"it": {"class_path": class_path, "init_args": copy.deepcopy(init_args)}})


def _parameters(class_path: str) -> set[str]:
    parents = find_class(class_path).__mro__[:-1]
    return {name for parent in parents for name in inspect.signature(parent).parameters}


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower().replace("+", "_plus")).strip("_")
