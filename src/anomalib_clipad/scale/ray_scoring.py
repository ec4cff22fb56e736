# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Blocks of images scored by a pool of Ray actors.

``map_batches`` of Ray Data hands out blocks, and hands out again what a killed worker had.
"""

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anomalib_clipad.data.image_loader import ListedImage
from anomalib_clipad.host.ray import keep_to_this_machine
from anomalib_clipad.scale.blocks import Block, Part, read_part, score_block
from anomalib_clipad.scale.scorer import Scorer, ScorerSpec

_LIVES = 3
"""Times that a block is tried again whose worker has died."""

_STORE_BYTES = 256 * 2**20
"""Memory for what Ray hands about, which is lists of paths; more of them go to the disk."""


def score_by_ray(
    blocks: Sequence[Block], spec: ScorerSpec, folder: Path, workers: int, address: str | None = None
) -> Iterator[Part]:
    """Score blocks in worker processes; give what they have written as it comes.

    Args:
        blocks: What is to be scored.
        spec: How a worker makes its scorer.
        folder: Where workers write.
        workers: Number of worker processes.
        address: A running cluster, ``host:port`` or ``auto``; ``None`` to start Ray on this machine alone.

    Raises:
        RuntimeError: If a block fails, or its workers die again and again; with the reason.
    """
    with _ray(address, workers * (spec.threads or 1)) as ray:
        threads: dict[str, Any] = {} if spec.threads is None else {"num_cpus": spec.threads}
        dataset = ray.data.from_items([_pack(block) for block in blocks], override_num_blocks=len(blocks))
        with warnings.catch_warnings():
            # Ray overwrites other arguments that say so; this one ends with Ray 2.64, which the extra excludes.
            warnings.filterwarnings("ignore", message="`ray_remote_args_fn` is deprecated")
            results = dataset.map_batches(
                ScoreBlocks,
                fn_constructor_args=(spec, str(folder.absolute())),
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(
                    size=min(workers, len(blocks)),
                    max_tasks_in_flight_per_actor=2,  # more would wait behind a busy worker while others have none
                ),
                ray_remote_args_fn=_retries,
                num_gpus=1 if spec.device == "cuda" else 0,
                **threads,
            )
        try:
            for row in results.iter_rows():
                if row["problem"]:
                    raise RuntimeError(row["problem"])
                yield Part(int(row["number"]), int(row["images"]), int(row["unreadable"]))
        except ray.exceptions.RayError as error:
            msg = (
                f"Expected workers to live until they are done, but got {_first_line(error)} "
                "Often memory does not suffice: take fewer workers, or a smaller batch_size."
            )
            raise RuntimeError(msg) from error


def _retries() -> dict[str, int]:
    return {"max_task_retries": _LIVES}  # by default a block that kills its workers is tried for ever


class ScoreBlocks:
    """A worker: makes its scorer once, and writes the files of the blocks that it is handed."""

    def __init__(self, spec: ScorerSpec, folder: str) -> None:
        self._spec = spec
        self._folder = Path(folder)
        self._scorer: Scorer | None = None

    def __call__(self, batch: Any) -> dict[str, list[Any]]:
        """Score one block, a table of one row; give its numbers, and what went wrong as text.

        An exception would be wrapped by Ray several times, and a constructor's would be tried again.
        """
        [packed] = batch.to_pylist()
        block = _unpack(packed)
        part, problem = Part(block.number, 0, 0), ""
        try:
            part = read_part(self._folder, block) or self._score(block)  # whoever had it before may have finished it
        except Exception as error:  # noqa: BLE001, whatever it is, the user is told
            kind = "" if isinstance(error, OSError | ValueError | RuntimeError) else f"{type(error).__name__}: "
            problem = f"Block {block.number} failed: {kind}{error}"
        return {**{name: [value] for name, value in part._asdict().items()}, "problem": [problem]}

    def _score(self, block: Block) -> Part:
        if self._scorer is None:
            self._scorer = self._spec.make()
        return score_block(self._scorer, block, self._folder)


def _pack(block: Block) -> dict[str, Any]:
    """A block as plain columns; paths as bytes, since those of a file system need not be text."""
    return {
        "number": block.number,
        "first": block.images[0].position,
        "paths": [os.fsencode(image.path) for image in block.images],
        "class_names": [image.class_name or "" for image in block.images],
    }


def _unpack(packed: dict[str, Any]) -> Block:
    pairs = zip(packed["paths"], packed["class_names"], strict=True)
    return Block(
        packed["number"],
        [
            ListedImage(os.fsdecode(path), name or None, position=packed["first"] + index)
            for index, (path, name) in enumerate(pairs)
        ],
    )


@contextmanager
def _ray(address: str | None, cpus: int) -> Iterator[Any]:
    """Ray, quiet and without telemetry; one that this process has already is used and left running."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read by Ray when it starts
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it warns of a change to come
    import ray
    import ray.data

    started = not ray.is_initialized()
    if started:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            keep_to_this_machine()
            ray.init("local", num_cpus=cpus, include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet)
        else:
            ray.init(address, **quiet)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it raises is told in a sentence
    try:
        yield ray
    finally:
        if started:
            ray.shutdown()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
