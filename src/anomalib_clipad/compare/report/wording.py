# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""How figures, names and circumstances are put into words, on the page and in Markdown."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from anomalib_clipad.compare.records import Record
from anomalib_clipad.compare.report.differences import Difference
from anomalib_clipad.compare.report.tables import Cell, Cost, DatasetResults

NO_VALUE = "–"

_MANY = 4  # models are counted off by name up to here

_METRIC_NAMES = {"F1Max": "F1-max", "ReferencePRO": "PRO, 200 thresholds"}


def metric_level(metric: str) -> str:
    """Return what a metric is of, ``image`` or ``pixel``; empty if its name does not say."""
    level = metric.partition("_")[0]
    return level if level in {"image", "pixel"} else ""


def metric_name(metric: str) -> str:
    """Return the name of a metric as it is written, without its level.

    Example:
        >>> metric_level("pixel_F1Max"), metric_name("pixel_F1Max")
        ('pixel', 'F1-max')
    """
    plain = metric.removeprefix(f"{metric_level(metric)}_")
    return _METRIC_NAMES.get(plain, plain)


def metric_title(metric: str) -> str:
    """Return level and name of a metric."""
    return f"{metric_level(metric)} {metric_name(metric)}".strip()


def figure(value: float) -> str:
    """Return a metric times 100."""
    return f"{100 * value:.1f}" if math.isfinite(value) else NO_VALUE


def cell_text(cell: Cell) -> str:
    """Return a figure, its deviation over seeds, and of how many runs it is the mean if some are missing.

    Example:
        >>> cell_text(Cell(0.731, 0.004, 7, 8, frozenset()))
        '73.1 ± 0.4 (7/8)'
    """
    return f"{mean_text(cell)} {count_text(cell)}".rstrip()


def mean_text(cell: Cell) -> str:
    """Return a figure and its deviation over seeds."""
    std = "" if cell.std is None else f" ± {100 * cell.std:.1f}"
    return f"{figure(cell.value)}{std}"


def count_text(cell: Cell) -> str:
    """Return of how many runs a figure is the mean, in brackets; empty if of all, or of none."""
    return "" if cell.complete or not cell.n_runs else f"({cell.n_runs}/{cell.n_expected})"


def difference_texts(difference: Difference) -> dict[str, str]:
    """Return a measured mean beside what was expected of it, one text for each column of the table."""
    expectation, points = difference.expectation, difference.points
    missing = f"not measured ({difference.n_runs}/{len(expectation.jobs)} runs)"
    return {
        "metric": metric_title(expectation.metric),
        "measured": NO_VALUE if difference.measured is None else f"{difference.measured:.1f}",
        "expected": f"{expectation.figure:.1f}",
        "difference": NO_VALUE if points is None else f"{points:+.1f}",
        f"within ±{expectation.tolerance:g}": missing if points is None else _yes_no(difference.reached) or "",
    }


def difference_line(difference: Difference) -> str:
    """Return an expected figure that was not reached in one line, for a terminal."""
    expectation, texts = difference.expectation, difference_texts(difference)
    what = f"{expectation.model} on {expectation.dataset}, {texts['metric']}"
    if difference.points is None:
        runs = f"{difference.n_runs} of {len(expectation.jobs)} runs have a value"
        return f"Not measured: {what}: expected {texts['expected']}, {runs}."
    return (
        f"Not reached: {what}: measured {texts['measured']}, expected {texts['expected']}, difference "
        f"{texts['difference']}, tolerance ±{expectation.tolerance:g}."
    )


def sources(found: Sequence[Difference]) -> str:
    """Return where expected figures are from, each source once, with its models."""
    models: dict[str, list[str]] = {}
    for each in found:
        named = models.setdefault(each.expectation.source.rstrip("."), [])
        named += [each.expectation.model] if each.expectation.model not in named else []
    return " ".join(f"Expected of {' · '.join(named)}: {source}." for source, named in models.items())


def cost_texts(cost: Cost) -> dict[str, str]:
    """Return what a model took, one text for each column of the table."""
    measures = cost.measures
    return {
        "runs": f"{cost.n_runs}/{cost.n_expected}",
        "seconds a run": _decimal(measures.wall_s),
        "of these fit": _decimal(measures.fit_s),
        "images/s, model alone": _decimal(measures.model_images_per_s),
        "images/s, end to end": _decimal(measures.end_to_end_images_per_s),
        "peak memory (MiB)": _decimal(measures.peak_memory_mb, digits=0),
        "parameters (M)": _decimal(measures.parameters, unit=1e6),
        "checkpoint (MB)": _decimal(measures.checkpoint_bytes, unit=1e6),
    }


def circumstances(results: DatasetResults) -> list[tuple[str, str]]:
    """Return what the figures of a dataset have to be read with, and its value, by model where models differ.

    Failed jobs know only a part of it and are left out.
    """
    return [
        ("Input size", _by_model(results, lambda record: _size(record.provenance.input_size))),
        ("Backbone", _by_model(results, lambda record: record.provenance.backbone)),
        ("Weights", _by_model(results, lambda record: record.provenance.weights)),
        ("Metrics", _by_model(results, lambda record: record.provenance.metrics)),
        (
            "Image scores calibrated on the test set",
            _by_model(results, lambda record: _yes_no(record.provenance.calibrated_on_test)),
        ),
        ("Zero-shot", _by_model(results, lambda record: _yes_no(record.provenance.zero_shot))),
        ("Evidence", _by_model(results, lambda record: record.provenance.evidence)),
        ("Device", _by_model(results, lambda record: record.provenance.device)),
        ("Versions", _by_model(results, lambda record: _versions(record.provenance.versions))),
    ]


FINE_PRINT = (
    "Input size",
    "Backbone",
    "Weights",
    "Metrics",
    "Image scores calibrated on the test set",
    "Zero-shot",
    "Evidence",
)
"""What every table says, of :func:`circumstances`."""


def fine_print(results: DatasetResults) -> str:
    """Return the circumstances that every table states, in one line, and the notes of the config."""
    facts = dict(circumstances(results))
    said = [f"{name}: {facts[name]}." for name in FINE_PRINT]
    return " ".join(said + [f"{model}: {note.rstrip('.')}." for model, note in notes(results)])


def notes(results: DatasetResults) -> list[tuple[str, str]]:
    """Return the notes of the config, each once, with the model that it is about."""
    pairs = [(record.model, record.provenance.note) for record in results.records if record.provenance.note]
    return [(model, str(note)) for model, note in dict.fromkeys(pairs)]


def mean_tables(results: DatasetResults) -> list[list[str]]:
    """Return the sets of categories to average over: all; where runs are missing, also those that all finished."""
    common = results.common_categories()
    return [results.categories, common] if results.missing() and common else [results.categories]


def mean_title(results: DatasetResults, categories: Sequence[str]) -> str:
    """Say what the means of a table are over."""
    over_seeds = f", ± over {len(results.seeds)} seeds" if len(results.seeds) > 1 else ""
    finished = "" if len(categories) == len(results.categories) else " that every model finished"
    if len(categories) == 1:
        return f"Category {categories[0]}{', the only one' if finished else ''}{finished}{over_seeds}"
    return f"Mean over {len(categories)} categories{finished}{over_seeds}"


def incomplete_note(results: DatasetResults, categories: Sequence[str]) -> str | None:
    """Explain the counts in brackets of means over categories and say what is missing; ``None`` if nothing is."""
    cells = [cell for row in results.rows(categories) for cell in row.cells.values()]
    partial = any(cell.n_runs and not cell.complete for cell in cells)
    missing = "; ".join(f"{model}: {', '.join(runs)}" for model, runs in results.missing(categories))
    if not partial and not missing:
        return None
    parts = []
    if partial:
        what = "categories" if len(results.seeds) == 1 else "runs (categories × seeds)"
        parts.append(
            f"(n/m): mean over only n of m {what}; it is not to be compared with means over others, "
            "and is not marked best against them."
        )
    parts.append(f"Missing: {missing}." if missing else "Missing are runs in which the metric is undefined.")
    return " ".join(parts)


def model_arguments(results: DatasetResults) -> list[tuple[str, str, str]]:
    """Return name, class path and arguments of each model; more than one line for arguments that differ by category."""
    lines = dict.fromkeys(
        (record.model, record.class_path, json.dumps(record.init_args, ensure_ascii=False))
        for record in results.records
    )
    return list(lines)


def _by_model(results: DatasetResults, read: Callable[[Record], str | None]) -> str:
    """Name a value once if all models share it, else each with its models."""
    values: dict[str, list[str]] = {}
    for record in results.done():
        models = values.setdefault(read(record) or "not recorded", [])
        if record.model not in models:
            models.append(record.model)
    if not values:
        return "not recorded"
    if len(values) == 1:
        return next(iter(values))
    most = max(values, key=lambda value: len(values[value]))
    if len(values[most]) > _MANY:  # an ablation: name the exceptions
        values[most] = ["all others"]
    return "; ".join(f"{value} ({' · '.join(models)})" for value, models in values.items())


def _size(size: Sequence[int] | None) -> str | None:
    return None if size is None else "×".join(str(side) for side in size)


def _yes_no(value: bool | None) -> str | None:
    return None if value is None else ("yes" if value else "no")


def _versions(versions: dict[str, Any]) -> str | None:
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or None


def _decimal(value: float | None, *, unit: float = 1.0, digits: int = 1) -> str:
    if value is None:
        return NO_VALUE
    scaled = value / unit
    return f"{scaled:.{digits}f}" if scaled >= 0.1 or not scaled else f"{scaled:.2g}"
