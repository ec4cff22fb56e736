# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""A comparison from its config to its report: what is missing is run, what is there is kept."""

import logging
import sys
import tempfile
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import TextIO

import yaml
from anomalib.pipelines.components.runners import ParallelRunner, SerialRunner
from anomalib.pipelines.components.runners.parallel import ParallelExecutionError
from anomalib.pipelines.components.runners.serial import SerialExecutionError
from lightning.pytorch import seed_everything
from packaging.version import Version
from tqdm import tqdm

from anomalib_clipad.base.files import atomic_write
from anomalib_clipad.compare.config import CompareConfig
from anomalib_clipad.compare.expected import Expectation, expectations, write_expected
from anomalib_clipad.compare.grid import JobSpec, expand, find_class, make_datamodule
from anomalib_clipad.compare.heads import HeadsKey, heads_key, heads_path, keep
from anomalib_clipad.compare.job import LOG_FILE, CompareJobs, Place, make_engine, make_metrics, quiet
from anomalib_clipad.compare.records import CONFIG_FILE, HEADS_FOLDER, Record, read_record, write_grid
from anomalib_clipad.compare.report import write_report

logger = logging.getLogger(__name__)

WINCLIP_NEEDS = Version("2.26.1")
"""From this open_clip on the host's WinCLIP gives wrong window embeddings without a word."""


def compare(config: CompareConfig) -> list[Record]:
    """Run what is missing of a grid, and write the report of all that is there.

    Jobs that fail are recorded and the grid goes on. Started again, also after a kill, it runs the jobs without a
    record, and those that failed unless ``retry_failed`` says otherwise.

    Args:
        config: The grid.

    Returns:
        The records of all jobs, in the order of the grid.

    Raises:
        ImportError: If WinCLIP is asked for and would be wrong.
        ValueError: If the config is wrong; nothing has run then.
    """
    config = _without_missing_data(config)
    specs = expand(config)
    expected = expected_of(config, specs)
    for name, model in config.models.items():
        check_winclip(name, model.class_path)
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    with atomic_write(output / CONFIG_FILE) as draft:
        draft.write_text(yaml.safe_dump(asdict(config), sort_keys=False), encoding="utf-8")
    write_grid(output, [spec.id for spec in specs])
    write_expected(output, expected)
    pending = [spec for spec in specs if not _is_finished(output, spec, retry_failed=config.retry_failed)]
    place, terminal = Place(output, config.accelerator), sys.stderr
    if pending and config.needs:
        terminal.write(f"Needs: {config.needs.strip()}\n")
    with quiet(output / LOG_FILE):  # the host's runners have a bar of their own, which names no job
        _train_heads(pending, place, terminal)
        if pending:
            _run(CompareJobs(pending, len(specs), place, terminal), config.devices)
    records = [record for spec in specs if (record := read_record(output, spec.id)) is not None]
    write_report(output)
    return records


def check_winclip(name: str, class_path: str) -> None:
    """Refuse the host's WinCLIP under an open_clip where its figures are wrong.

    Raises:
        ImportError: With the line that installs an older open_clip.
    """
    installed = Version(metadata.version("open_clip_torch"))
    is_winclip = any(parent.__name__ == "WinClip" for parent in find_class(class_path).__mro__)
    if is_winclip and installed >= WINCLIP_NEEDS:
        msg = (
            f"Expected open_clip older than {WINCLIP_NEEDS} for {name}, but got {installed}, under which anomalib's "
            f"WinCLIP is silently wrong. Run `pip install 'open_clip_torch<{WINCLIP_NEEDS}'`, or leave {name} out."
        )
        raise ImportError(msg)


def expected_of(config: CompareConfig, specs: list[JobSpec]) -> list[Expectation]:
    """Bring what a config expects together with its jobs.

    Raises:
        ValueError: If it expects what its grid does not measure.
    """
    jobs: dict[str, dict[str, list[str]]] = {}
    for spec in specs:
        jobs.setdefault(spec.model, {}).setdefault(spec.dataset, []).append(spec.id)
    metrics = [metric.name for metric in make_metrics(reference_pro=config.reference_pro)]
    return expectations(config.expected, config.tolerance, jobs, metrics)


def _without_missing_data(config: CompareConfig) -> CompareConfig:
    """Leave out, with a word, the datasets whose folder is optional and not there."""
    folders = {name: dataset.skip_without for name, dataset in config.datasets.items()}
    missing = {name: folder for name, folder in folders.items() if folder is not None and not Path(folder).is_dir()}
    for name, folder in missing.items():
        sys.stderr.write(f"Skipped: {name}: no folder at {folder}.\n")
    return replace(config, datasets={name: each for name, each in config.datasets.items() if name not in missing})


def _train_heads(specs: list[JobSpec], place: Place, terminal: TextIO) -> None:
    """Train what heads are missing, each kind once; the jobs that need some that failed say so in their records."""
    keys = {key: spec for spec in reversed(specs) if (key := heads_key(spec)) is not None}
    wanted = {key: spec for key, spec in keys.items() if not heads_path(place.output, key).exists()}
    with tqdm(wanted.items(), unit="job", dynamic_ncols=True, file=terminal, disable=not wanted) as progress:
        for key, spec in progress:
            progress.set_description(f"{spec.model}: heads on {key.auxiliary}")
            try:
                _train(spec, key, place)
            except Exception:
                logger.exception("Heads could not be trained on %s.", key.auxiliary)


def _train(spec: JobSpec, key: HeadsKey, place: Place) -> None:
    folder = place.output / HEADS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{key.digest}.{LOG_FILE}"
    with quiet(log), tempfile.TemporaryDirectory(dir=folder, prefix="training-") as scratch:
        seed_everything(spec.seed, workers=True, verbose=False)
        model = spec.make_model()
        model.visualizer = None
        # The heads alone are wanted: each job calibrates on its own category.
        engine = make_engine(Path(scratch), place, None, **{**spec.model_entry.trainer, "limit_val_batches": 0})
        engine.fit(model, datamodule=make_datamodule(spec.dataset_entry, None))
        keep(Path(engine.trainer.default_root_dir) / "heads.safetensors", place.output, key)


def _run(generator: CompareJobs, devices: int) -> None:
    runner = SerialRunner(generator) if devices == 1 else ParallelRunner(generator, n_jobs=devices)
    try:
        runner.run({})
    except (SerialExecutionError, ParallelExecutionError) as error:  # jobs that fail leave a record, and raise nothing
        msg = (
            f"Expected each job to leave a record in {generator.place.output}, but some could not write it; see "
            f"{LOG_FILE} there. Most often the disk is full: make room, and run the same again."
        )
        raise OSError(msg) from error


def _is_finished(output: Path, spec: JobSpec, *, retry_failed: bool) -> bool:
    record = read_record(output, spec.id)
    return record is not None and (record.status == "done" or not retry_failed)
