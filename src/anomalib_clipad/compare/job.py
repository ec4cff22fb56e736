# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""One job of a comparison, on the host's pipeline parts: a model on a category, in the host's engine."""

import contextlib
import importlib.metadata
import logging
import platform
import shutil
import tempfile
import time
import traceback
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import torch
from anomalib import LearningType
from anomalib.data import AnomalibDataModule
from anomalib.data.utils import ValSplitMode
from anomalib.engine import Engine
from anomalib.metrics import AnomalibMetric
from anomalib.models import AnomalibModule
from anomalib.pipelines.components.base import Job, JobGenerator
from lightning.pytorch import seed_everything
from tqdm import tqdm

from anomalib_clipad.compare.grid import JobSpec
from anomalib_clipad.compare.heads import heads_key, heads_path
from anomalib_clipad.compare.measures import ForwardClock, peak_memory, release_memory
from anomalib_clipad.compare.recorder import RecordingEvaluator
from anomalib_clipad.compare.records import (
    Measures,
    Provenance,
    Record,
    job_folder,
    write_curves,
    write_images,
    write_record,
)
from anomalib_clipad.host.unclamped import without_clamp
from anomalib_clipad.metrics.evaluator import default_metrics
from anomalib_clipad.metrics.reference_pro import ReferencePRO

LOG_FILE = "log.txt"
_CHATTY = ("anomalib", "lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric", "py.warnings")
"""Loggers that may have handlers of their own."""

_PACKAGES = ("anomalib", "anomalib-clipad", "open_clip_torch", "torch", "lightning")


@dataclass(frozen=True)
class Place:
    """Where jobs run and leave their results.

    Attributes:
        output: Folder of the comparison.
        accelerator: Accelerator of the trainer.
    """

    output: Path
    accelerator: str

    @property
    def on_gpu(self) -> bool:
        """Whether jobs run on a CUDA device."""
        return self.accelerator != "cpu" and torch.cuda.is_available()


class CompareJob(Job):
    """Fits the model where it learns, tests it, and leaves a record; an error is recorded, not raised.

    Args:
        spec: What to run.
        place: Where.
    """

    name = "compare"

    def __init__(self, spec: JobSpec, place: Place) -> None:
        self.spec = spec
        self.place = place

    def run(self, task_id: int | None = None) -> Record:
        """Run the job; ``task_id`` is the number of the device where several jobs run side by side."""
        folder = job_folder(self.place.output, self.spec.id)
        shutil.rmtree(folder, ignore_errors=True)  # what a kill, or a failure that is retried, has left behind
        folder.mkdir(parents=True)
        release_memory()
        spec, start = self.spec, time.perf_counter()
        record = Record(
            job=spec.id,
            status="failed",
            model=spec.model,
            class_path=spec.model_entry.class_path,
            init_args=spec.model_entry.init_args,
            dataset=spec.dataset,
            category=spec.category,
            seed=spec.seed,
        )
        with quiet(folder / LOG_FILE), tempfile.TemporaryDirectory(dir=folder) as scratch:
            try:
                with peak_memory(on_gpu=self.place.on_gpu) as peak:
                    record = self._run(record, Path(scratch), task_id)
                measures = replace(record.measures, wall_s=time.perf_counter() - start, peak_memory_mb=peak[0])
                record = replace(record, status="done", measures=measures)
            except Exception as error:  # noqa: BLE001, the grid goes on without this job
                record = replace(
                    record, error=f"{type(error).__name__}: {error}", traceback=traceback.format_exc(limit=20)
                )
        write_record(self.place.output, record)
        return record

    @staticmethod
    def collect(results: list[Record]) -> list[Record]:
        """Return the records of the jobs."""
        return results

    @staticmethod
    def save(results: list[Record]) -> None:
        """Nothing: each job has written its own record."""

    def _run(self, record: Record, scratch: Path, task_id: int | None) -> Record:
        seed_everything(self.spec.seed, workers=True, verbose=False)
        spec = self._with_heads()
        datamodule, model = spec.make_datamodule(), spec.make_model()
        evaluator = RecordingEvaluator(test_metrics=make_metrics(reference_pro=spec.reference_pro))
        model.evaluator, model.visualizer = evaluator, None
        if hasattr(model, "page"):
            model.page = False  # the comparison has its own
        without_clamp(model)
        # Where the host draws a split at random, all models get the same one, whatever they have drawn before.
        datamodule.seed = spec.seed if datamodule.seed is None else datamodule.seed
        seed_everything(spec.seed, workers=True, verbose=False)
        engine = make_engine(scratch, self.place, task_id, **spec.model_entry.trainer)
        zero_shot = model.learning_type == LearningType.ZERO_SHOT
        start = time.perf_counter()
        if not zero_shot:
            engine.fit(model, datamodule=datamodule)
        fitted = time.perf_counter()
        clock = ForwardClock()
        with clock.on(model.model):
            engine.test(model, datamodule=datamodule, verbose=False)
        tested = time.perf_counter()
        images, curves = evaluator.recorded()
        write_images(self.place.output, self.spec.id, images)
        write_curves(self.place.output, self.spec.id, curves)
        [values] = evaluator.report.categories.values()
        measures = Measures(
            fit_s=0.0 if zero_shot else fitted - start,
            test_s=tested - fitted,
            images=len(images.pred_score),
            model_images_per_s=clock.images_per_s,
            end_to_end_images_per_s=len(images.pred_score) / evaluator.seconds,
            parameters=sum(parameter.numel() for parameter in model.model.parameters()),
            checkpoint_bytes=_checkpoint_size(engine, scratch),
        )
        provenance = self._provenance(model, datamodule, evaluator, zero_shot=zero_shot)
        return replace(record, metrics=dict(values), measures=measures, provenance=provenance)

    def _with_heads(self) -> JobSpec:
        """Return the definition with the heads that the first stage has trained, where the model needs any.

        Raises:
            RuntimeError: If the first stage left none.
        """
        key = heads_key(self.spec)
        if key is None:
            return self.spec
        path = heads_path(self.place.output, key)
        if not path.exists():
            log = self.place.output / LOG_FILE
            msg = f"Expected heads trained on {key.auxiliary}, but got none at {path}. {log} says why."
            raise RuntimeError(msg)
        entry = self.spec.model_entry
        return replace(self.spec, model_entry=replace(entry, init_args={**entry.init_args, "heads": str(path)}))

    def _provenance(
        self, model: AnomalibModule, datamodule: AnomalibDataModule, evaluator: RecordingEvaluator, *, zero_shot: bool
    ) -> Provenance:
        backbone, weights = describe_weights(model)
        return Provenance(
            input_size=list(evaluator.input_size),
            backbone=backbone,
            weights=weights,
            metrics=(
                f"exact, by category, as anomalib {importlib.metadata.version('anomalib')} but without its clamp of "
                "scores; AUPRO to FPR 0.3"
            ),
            calibrated_on_test=datamodule.val_split_mode == ValSplitMode.SAME_AS_TEST,
            zero_shot=zero_shot and getattr(datamodule, "is_zero_shot", True),
            evidence=model.evidence(self.spec.category) if hasattr(model, "evidence") else None,
            note=self.spec.model_entry.note,
            versions={name: importlib.metadata.version(name) for name in _PACKAGES},
            device=torch.cuda.get_device_name() if self.place.on_gpu else platform.processor() or "CPU",
        )


class CompareJobs(JobGenerator):
    """Makes the jobs that have no record yet, and names each in a progress bar.

    Args:
        specs: Jobs to run.
        total: Number of jobs of the grid, of which the others have finished.
        place: Where.
        terminal: Where the progress bar is drawn.
    """

    def __init__(self, specs: list[JobSpec], total: int, place: Place, terminal: TextIO) -> None:
        self.specs = specs
        self.total = total
        self.place = place
        self.terminal = terminal

    @property
    def job_class(self) -> type[CompareJob]:
        """The class of the jobs."""
        return CompareJob

    def generate_jobs(self, args: dict | None = None, prev_stage_result: Any = None) -> Generator[Job, None, None]:
        """Yield the jobs, in the order of the grid."""
        del args, prev_stage_result
        finished = self.total - len(self.specs)
        with tqdm(total=self.total, initial=finished, unit="job", dynamic_ncols=True, file=self.terminal) as progress:
            for spec in self.specs:
                progress.set_description(f"{spec.model} on {spec.dataset} {spec.category}")
                yield CompareJob(spec, self.place)
                progress.update()


def make_engine(folder: Path, place: Place, task_id: int | None, **arguments: Any) -> Engine:
    """Make an engine for one job, on a device of its own where several run side by side."""
    return Engine(
        accelerator=place.accelerator,
        devices=[task_id] if task_id is not None and place.on_gpu else 1,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )


def make_metrics(*, reference_pro: bool) -> list[AnomalibMetric]:
    """Make the metrics of every job, with or without the PRO of the paper's reference."""
    reference = ReferencePRO(fields=["anomaly_map", "gt_mask"], prefix="pixel_", strict=False)
    return [*default_metrics(), *([reference] if reference_pro else [])]


def describe_weights(model: AnomalibModule) -> tuple[str, str]:
    """Name backbone and weights of a model, as far as it tells."""
    collaborators = getattr(model, "collaborators", None)
    if collaborators is not None:
        clip = collaborators.backbone
        return clip.name, clip.pretrained or "in the package"
    inner, settings = model.model, model.hparams
    backbone = str(getattr(inner, "backbone_name", None) or settings.get("backbone") or getattr(inner, "backbone", ""))
    pretrained = getattr(inner, "pretrained", None)
    if pretrained is None:
        pretrained = {True: "ImageNet", False: "untrained"}.get(settings.get("pre_trained"), "the model's own")
    return backbone if len(backbone) < 60 else type(inner).__name__, str(pretrained)


def _checkpoint_size(engine: Engine, folder: Path) -> int:
    path = folder / "checkpoint.ckpt"
    engine.trainer.save_checkpoint(path)
    return path.stat().st_size


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[None]:
    """Send what a job prints and logs to a file: the terminal shows the grid."""
    loggers = [logging.getLogger(name) for name in (None, *_CHATTY)]
    with (
        log.open("a", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        others = [logger.handlers for logger in loggers]
        for logger in loggers:
            logger.handlers = [logging.StreamHandler(file)] if logger.parent is None else []
        try:
            yield
        finally:
            for logger, handlers in zip(loggers, others, strict=True):
                logger.handlers = handlers
