# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What SDP and SDP+ save and load, by the host's hooks."""

from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from torch import nn

from anomalib_clipad.checkpoint.head_files import CHECKPOINT_KEY
from anomalib_clipad.checkpoint.reader import open_checkpoint
from anomalib_clipad.checkpoint.settings import check_model, check_settings, describe_model, describe_settings
from anomalib_clipad.checkpoint.transform import describe_input, reconcile_input
from anomalib_clipad.host.trainer import attached_trainer
from anomalib_clipad.post_processing.post_processor import CategoryPostProcessor
from anomalib_clipad.scoring.torch_model import SDPModel

_NOT_SAVED = ("model.visual.", "evaluator.")
"""Frozen CLIP is loaded from where it came from; another evaluator must be able to load the checkpoint."""

_CLASSES = "_extra_state"
"""What torch calls, in a ``state_dict``, the state of :meth:`ClipCheckpoint.get_extra_state`."""

if TYPE_CHECKING:
    from typing import Self

    from anomalib.models.components import AnomalibModule as _Base
else:
    _Base = object


class ClipCheckpoint(_Base):
    """Checkpoints without the frozen CLIP, checked before they are used; part of ``ClipModule``."""

    model: SDPModel
    collaborators: Any

    def _set_up_loading(self) -> None:
        self.strict_loading = False  # a user's components may have changed since
        self.register_load_state_dict_post_hook(_miss_nothing_left_out)

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path | IO[bytes],
        map_location: Any = "cpu",
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool = True,
        **options: Any,
    ) -> "Self":
        """Load a model as the host does, but refuse other files with a word on what is wrong with them.

        Args:
            checkpoint_path: Path, or a file that is open for reading bytes.
            map_location: Where the model goes, whatever device the checkpoint was saved on.
            hparams_file: As in the host.
            strict: As in the host.
            weights_only: Not used: nothing in a checkpoint is ever executed.
            options: Arguments of the class that differ from when the checkpoint was saved.

        Raises:
            FileNotFoundError: If there is no such file.
            TypeError: If the class has no such argument.
            ValueError: If the file is damaged or hostile, or does not fit the model.
        """
        del weights_only
        file = open_checkpoint(checkpoint_path, cls, options)
        try:
            return super().load_from_checkpoint(file, map_location, hparams_file, strict, **options)
        except Exception as error:  # of many kinds, where values are not what they seem
            if isinstance(error, OSError) or str(error).startswith("Expected "):  # of ours, or of the disk
                raise
            msg = (
                f"Expected checkpoint to be one of {cls.__name__}, but got {checkpoint_path}: it is damaged, "
                f"{type(error).__name__}: {error}"
            )
            raise ValueError(msg) from error

    @classmethod
    def load(cls, checkpoint: str | Path, **options: Any) -> "Self":
        """Open a checkpoint for use from Python, as :meth:`load_from_checkpoint` does, in evaluation mode."""
        return cls.load_from_checkpoint(checkpoint, **options).eval()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save text vectors, calibration and settings, but not the frozen CLIP."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["state_dict"] = {
            key: value for key, value in checkpoint["state_dict"].items() if not key.startswith(_NOT_SAVED)
        }
        # The components are callbacks besides: Lightning has saved them a second time, and would load them strictly.
        components = {type(self.evaluator), type(self.post_processor), type(self.pre_processor), type(self.visualizer)}
        checkpoint["callbacks"] = {
            key: value
            for key, value in checkpoint.get("callbacks", {}).items()
            if key not in {component.__qualname__ for component in components}
        }
        # References are in the state; weights are plain data, which a checkpoint may hold.
        checkpoint["hyper_parameters"].update(
            references=None,
            pool=self.pool is not None and vars(self.pool).copy(),
            known_good=None,
            labels=None,
            weights=vars(self.model.weights).copy(),
            regions=self.regions is not None and vars(self.regions).copy(),
            tiles=self.model.looks.tiles is not None and vars(self.model.looks.tiles).copy(),
        )
        collaborators = self.collaborators
        checkpoint[CHECKPOINT_KEY] = {
            **describe_model(self.model, collaborators.backbone, collaborators.text_engine),
            **self._describe_post_processor(),
            "input": describe_input(self.pre_processor, collaborators.image_size),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make room for the checkpoint's classes, if it was made with this model's backbone, input and settings."""
        collaborators = self.collaborators
        saved = check_model(checkpoint, self.model, collaborators.backbone)
        actual, default = (
            describe_input(pre_processor, collaborators.image_size)
            for pre_processor in (self.pre_processor, collaborators.pre_processor())
        )
        reconcile_input(checkpoint, saved["input"], actual, default, attached=attached_trainer(self) is not None)
        check_settings(saved["settings"], describe_settings(self.model, collaborators.text_engine))
        if "post_processor" in saved and self.post_processor is not None:
            check_settings({"post_processor": saved["post_processor"]}, self._describe_post_processor())
        super().on_load_checkpoint(checkpoint)
        # A checkpoint of version 0.1 names its classes only here.
        checkpoint["state_dict"].setdefault(_CLASSES, {"class_names": saved["class_names"]})
        self.loaded_classes = tuple(saved["class_names"])

    def get_extra_state(self) -> dict[str, Any]:
        """The names of the classes, without which their text vectors say nothing; part of ``state_dict``."""
        return {"class_names": list(self.model.texts.names)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Make room for the classes of a ``state_dict``, whose vectors and calibration are loaded next."""
        names = state["class_names"]
        texts = self.model.texts
        texts.replace(names, texts.embeddings.new_zeros(len(names), *texts.embeddings.shape[1:]))
        if isinstance(self.post_processor, CategoryPostProcessor):
            self.post_processor.resize(max(1, len(names)))

    def _describe_post_processor(self) -> dict[str, str]:
        """Whose calibration a checkpoint holds: another post-processor would start without any."""
        return {} if self.post_processor is None else {"post_processor": type(self.post_processor).__name__}


def _miss_nothing_left_out(module: nn.Module, found: Any) -> None:
    """Let a ``state_dict`` load strictly without what is never saved."""
    del module
    found.missing_keys[:] = [key for key in found.missing_keys if not key.startswith(_NOT_SAVED)]
