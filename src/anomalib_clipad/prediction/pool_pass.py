# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The pass over all images of a run by which they score each other, before the run itself."""

import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from anomalib.data import ImageBatch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.trainer.states import RunningStage

from anomalib_clipad.data.image_loader import pre_process
from anomalib_clipad.scoring.fusion import PoolScores
from anomalib_clipad.scoring.pool import PoolTokens, ScoredPool

logger = logging.getLogger(__name__)


class PooledRun(NamedTuple):
    """What the images of a run say of each other, and which of them are those of each loader and batch."""

    scored: ScoredPool
    rows: dict[tuple[int, int], slice]

    def of(self, loader: int, batch: int, device: torch.device) -> PoolScores:
        """Scores of a batch."""
        return self.scored.of(self.rows[loader, batch], device)


class PoolPass(Callback):
    """Lets the images of a validation, test or prediction score each other, where the model has a ``pool``."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Run the tower over all images once, beforehand."""
        self._start(trainer, pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """The same as in validation."""
        self._start(trainer, pl_module)

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """The same as in validation."""
        self._start(trainer, pl_module)

    def _start(self, trainer: Trainer, module: Any) -> None:
        module.pooled = None
        if module.pool is None or trainer.sanity_checking:
            return
        if trainer.world_size > 1:
            logger.warning("Each of %d processes pools the images that it scores itself.", trainer.world_size)
        sizes = [len(loader.dataset) for loader in _loaders(trainer)[0]]
        tokens = PoolTokens(module.pool, sum(sizes), Path(trainer.default_root_dir))
        rows, seen = dict[tuple[int, int], slice](), 0
        for loader, number, batch in run_batches(trainer, module):
            with trainer.precision_plugin.val_step_context():
                module.add_to_pool(tokens, batch.image, module.class_index(batch))
            rows[loader, number] = slice(seen, seen + batch.batch_size)
            seen += batch.batch_size
        module.pooled = PooledRun(tokens.scores(module.class_names, module.device), rows)


def run_batches(trainer: Trainer, module: Any) -> Iterator[tuple[int, int, ImageBatch]]:
    """Read all batches of the loop that is about to run: number of the loader, number of the batch, and the batch."""
    loaders, limits = _loaders(trainer)
    for index, (limit, loader) in enumerate(zip(limits, loaders, strict=True)):
        for number, read in enumerate(islice(loader, None if limit == float("inf") else int(limit))):
            batch = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(read))
            batch.image = pre_process(module.pre_processor, batch.image)
            yield index, number, batch


def _loaders(trainer: Trainer) -> tuple[list[Any], list[int | float]]:
    """Loaders of the loop that is about to run, and how many batches it takes of each."""
    stages: Any = {
        RunningStage.PREDICTING: (trainer.predict_dataloaders, trainer.num_predict_batches),
        RunningStage.TESTING: (trainer.test_dataloaders, trainer.num_test_batches),
        RunningStage.VALIDATING: (trainer.val_dataloaders, trainer.num_val_batches),
    }
    loaders, limits = stages[trainer.state.stage]
    return list(loaders) if isinstance(loaders, list | tuple) else [loaders], limits
