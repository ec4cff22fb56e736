# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What training SDP+ needs beside its steps: recovery from a kill, and a complete model at the end."""

from pathlib import Path
from typing import Any

import torch
from anomalib.callbacks import ModelCheckpoint
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from anomalib_clipad.checkpoint.reader import CheckedReader
from anomalib_clipad.host.trainer import close_epoch, is_last_epoch, validate_now

RESUME_FILE = Path("checkpoints", "resume.ckpt")
"""Where a training can be resumed from, below the results folder."""

_HOSTS_MODEL = "model"
"""Name that the host's engine gives to the checkpoint of the model, without ``.ckpt``."""


class ResumeCheckpoint(Checkpoint):
    """Keeps ``checkpoints/resume.ckpt``, from which a training that was killed goes on to the same heads.

    It is saved after each epoch; after the last one only when everything is done, so that a run that is killed while
    it validates trains its last epoch anew instead of ending without calibration. It holds the optimiser's state: a
    finished training can be given more epochs.

    Not a ``ModelCheckpoint``: Lightning lets a model's callback replace those of its class that the user has given.
    """

    def __init__(self) -> None:
        self._stopped_early = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, unless this was the last epoch."""
        del pl_module
        if not is_last_epoch(trainer):
            save_atomically(trainer, Path(trainer.default_root_dir) / RESUME_FILE)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what training has come to."""
        del pl_module
        self._stopped_early = trainer.should_stop and trainer.early_stopping_callback is not None
        save_atomically(trainer, Path(trainer.default_root_dir) / RESUME_FILE)

    def state_dict(self) -> dict[str, Any]:
        """Whether early stopping has ended the training; Lightning does not remember it."""
        return {"stopped_early": self._stopped_early}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add no epoch to a training that was stopped early, as long as there is early stopping; begin epochs whole."""
        del pl_module
        if trainer.state.fn != TrainerFn.FITTING:
            return
        state = checkpoint["callbacks"].get(self.state_key, {})
        trainer.should_stop = state.get("stopped_early", False) and trainer.early_stopping_callback is not None
        if trainer.max_steps != -1:
            close_epoch(checkpoint["loops"]["fit_loop"])


class CompleteModel(Callback):
    """Calibrates the heads that training has ended with and writes the model with them.

    However training ends, by epochs, steps, time or early stopping, and whatever other callbacks then do to the heads,
    as the averaging of weights does: validation runs once more unless it has seen just these heads. The host's
    ``weights/lightning/model.ckpt`` is then written anew, calibrated and without the optimiser's state. A checkpoint
    callback that the user has given instead of the host's is left alone.
    """

    def __init__(self) -> None:
        self._validated: list[Tensor] = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to calibrate on maps of heads that are not finite."""
        del trainer
        trained = ((name, weights) for name, weights in pl_module.named_parameters() if weights.requires_grad)
        spoilt = [name for name, weights in trained if not weights.isfinite().all()]
        if spoilt:
            msg = (
                f"Expected the trained weights to be finite, but got others in {', '.join(spoilt)}. The training has "
                "diverged: train anew with a lower learning_rate, or resume from an earlier checkpoint."
            )
            raise RuntimeError(msg)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember what was validated."""
        if not trainer.sanity_checking:
            self._validated = [parameter.detach().clone() for parameter in _trained(pl_module)]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate if needed."""
        if not self._validated or not all(map(torch.equal, self._validated, _trained(pl_module))):
            validate_now(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the model, also where a checkpoint was resumed from that needed no more training."""
        del pl_module
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.monitor is None and callback.filename == _HOSTS_MODEL:
                path = callback.format_checkpoint_name({})
                save_atomically(trainer, Path(path), weights_only=True)
                callback.best_model_path = path  # the callback itself has written none where nothing was validated


def save_atomically(trainer: Any, path: Path, *, weights_only: bool = False) -> None:
    """Save a checkpoint so that a kill at any moment leaves the previous file or the new one; nothing in a trial run.

    Lightning writes to the system's temporary folder and moves the file; where that is another file system, moving is
    copying over the previous file. To be called in all processes.
    """
    if trainer.fast_dev_run or trainer.barebones:
        return
    writer = trainer.strategy.checkpoint_io
    writer = writer.inner if isinstance(writer, CheckedReader) else writer
    if not isinstance(writer, TorchCheckpointIO):  # of the user's own: it may write later
        trainer.save_checkpoint(path, weights_only=weights_only)
        return
    temporary = path.with_name(f".{path.name}.tmp")  # what a kill has left here is overwritten
    trainer.save_checkpoint(temporary, weights_only=weights_only)
    if trainer.is_global_zero:
        temporary.replace(path)


def _trained(pl_module: LightningModule) -> list[Tensor]:
    """The parameters that training changes; equal in all processes."""
    return [parameter for parameter in pl_module.parameters() if parameter.requires_grad]
