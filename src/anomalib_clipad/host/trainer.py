# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Lightning's trainer, where its public interface ends. Read and tried with Lightning 2.6."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer


def attached_trainer(module: LightningModule) -> Trainer | None:
    """Trainer of a model, ``None`` for none.

    Removable when ``LightningModule.trainer``, which raises then, has a counterpart that does not.
    """
    return module._trainer


def validate_now(trainer: Any) -> None:
    """Run the validation of a fit, as Lightning does it between two batches.

    Removable when Lightning offers a validation within ``fit``.
    """
    if trainer.enable_validation:
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.run()
        trainer.training = True


def is_last_epoch(trainer: Any) -> bool:
    """Whether the epoch that has just ended is the last; ``fit_loop.done`` would count it a second time.

    Removable when ``done`` can be asked at the end of an epoch.
    """
    loop = trainer.fit_loop
    reached = ((loop.epoch_progress.current.processed, loop.max_epochs), (trainer.global_step, loop.max_steps))
    limit_reached = any(limit not in {None, -1} and done >= limit for done, limit in reached)
    return limit_reached or (trainer.should_stop and loop._can_stop_early)


def close_epoch(fit_loop: dict[str, Any]) -> None:
    """Let Lightning resume after an epoch that has ended, and not within it; ``fit_loop`` is altered in place.

    Where steps are counted instead of epochs, it would take the next batch for a further one of the same epoch.
    Removable when a checkpoint of an epoch's end says that the epoch is complete.
    """
    epochs, batches = fit_loop["epoch_progress"], fit_loop["epoch_loop.batch_progress"]
    if epochs["current"]["processed"] == epochs["current"]["started"]:
        for count in (epochs["current"], epochs["total"]):
            count["completed"] = count["processed"]
        batches.update(current=dict.fromkeys(batches["current"], 0), is_last_batch=False)
