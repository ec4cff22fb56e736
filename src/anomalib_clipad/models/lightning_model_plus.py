# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""SDP+ as an anomalib model class: wiring, no maths."""

import logging
import os
import sys
from inspect import cleandoc
from pathlib import Path
from typing import Any, Literal, cast

import torch
from anomalib import LearningType
from anomalib.data import ImageBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.cli import LightningCLI, LRSchedulerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from anomalib_clipad.base.allocation import CachePlace
from anomalib_clipad.checkpoint.head_files import CHECKPOINT_KEY, CHECKPOINT_METADATA, FILE_NAME, make_heads, save_heads
from anomalib_clipad.checkpoint.head_metadata import HeadsMetadata, check_heads, describe_trained_heads
from anomalib_clipad.clip.backbone import DEFAULT_BACKBONE
from anomalib_clipad.clip.surgery import Taps
from anomalib_clipad.data.fitting import Fit
from anomalib_clipad.data.image_loader import pre_process
from anomalib_clipad.data.labelled import require_labelled_training_data
from anomalib_clipad.data.references import References
from anomalib_clipad.host.trainer import attached_trainer
from anomalib_clipad.models.clip_module import ClipModule, Evidence
from anomalib_clipad.models.collaborators import find_collaborators
from anomalib_clipad.models.lightning_model import SDP
from anomalib_clipad.post_processing.known_good import KnownGood
from anomalib_clipad.prediction.regions import Regions
from anomalib_clipad.scoring.fusion import Weights
from anomalib_clipad.scoring.heads import LinearHeads, TappedPatches
from anomalib_clipad.scoring.looks import Tiles
from anomalib_clipad.scoring.loss import segmentation_loss
from anomalib_clipad.scoring.pool import Pool
from anomalib_clipad.training.callbacks import RESUME_FILE, CompleteModel, ResumeCheckpoint
from anomalib_clipad.training.token_cache import TokenBatch, train_on_tokens

logger = logging.getLogger(__name__)


class SDPPlus(ClipModule, AnomalibModule):
    """SDP+ of CLIP-AD (https://arxiv.org/abs/2311.00453): SDP with linear heads trained on an auxiliary dataset.

    The heads are trained once on the labelled images of one dataset (all its categories, normal and anomalous) and
    used on others, zero-shot. Only they are trained and saved; CLIP stays frozen. The datamodule tells both datasets
    apart: ``MVTec``, ``VisA``, ``SyntheticDefects`` and ``Transfer`` of this package train on an auxiliary one.

    With heads, from a file or a checkpoint, the model is zero-shot; without, it trains. Heads work only with the
    backbone, layers and taps that they were trained with. Further arguments are those of ``SDP``.

    Args:
        heads: File of trained heads: a ``.safetensors`` file of this package, a checkpoint, or an authors' file;
            ``"embedded"`` for those that ship with ``clipad-tiny``.
        head_weight: Weight of the heads' maps where SDP's have weight 1; the paper's is 1.
        learning_rate: Learning rate of Adam; the paper's is 1e-4.
        lr_scheduler: Makes a scheduler of the optimiser, which steps after each epoch: on the command line its class,
            ``--model.lr_scheduler CosineAnnealingLR --model.lr_scheduler.T_max 5``; ``None`` for a constant rate.
        epochs: Epochs of training unless the trainer is given ``max_epochs`` or ``max_steps``; the paper's are 5.
        seed: Seed of heads and order of images; ``None`` for that of ``seed_everything``, else the paper's 42.
        token_cache: Keep the tokens of the training images in ``"memory"`` or on ``"disk"``, so that the tower runs
            over each only once; ``None`` for no cache.
        validate_every_epoch: Validate after each epoch, for early stopping, and not only at the end. The trainer's own
            ``check_val_every_n_epoch`` is followed where it is not 1, Lightning's default.

    Raises:
        ValueError: If heads do not fit the model; other errors are those of ``SDP``.

    Example:
        >>> from anomalib_clipad import SDPPlus
        >>> SDPPlus("clipad-tiny").learning_type.value  # it has no heads yet
        'one_class'
    """

    trains_on_auxiliary = True
    """Asks this package's datamodules for labelled training images."""

    def __init__(
        self,
        backbone: str = DEFAULT_BACKBONE,
        pretrained: str | None = None,
        heads: str | None = None,
        class_name: str | None = None,
        prompts: str | dict[str, Any] | None = None,
        strategy: str = "dbscan",
        strategy_params: dict[str, Any] | None = None,
        layers: list[int] | None = None,
        taps: Taps = "reference",
        sigma: float | None = None,
        head_weight: float = 1.0,
        image_size: int | tuple[int, int] | None = None,
        resize: Fit | None = None,
        scales: list[int | tuple[int, int]] | None = None,
        tiles: Tiles | bool = False,
        calibrate_unlabelled: bool | float = False,
        references: References | dict[str, str] | str | None = None,
        pool: Pool | bool = False,
        known_good: KnownGood | str | None = None,
        labels: str | None = None,
        weights: Weights | dict[str, float] | None = None,
        regions: Regions | bool = True,
        page: bool = True,
        learning_rate: float = 1e-4,
        lr_scheduler: LRSchedulerCallable | None = None,
        epochs: int = 5,
        seed: int | None = None,
        token_cache: CachePlace | None = None,
        validate_every_epoch: bool = False,
        text_cache_dir: str | Literal[False] | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        geometry = (image_size, resize, scales, tiles)
        parts = find_collaborators(
            backbone, pretrained, class_name, prompts, strategy, strategy_params, geometry, text_cache_dir
        )
        super().__init__(parts.pre_processor(pre_processor), post_processor, evaluator, visualizer)
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", "42")) if seed is None else seed
        linear_heads, self.heads_metadata = make_heads(parts.backbone, layers, taps, heads, self.seed)
        settings = {"heads": linear_heads, "layers": layers, "taps": taps, "head_weight": head_weight}
        evidence = Evidence.of(references, pool, known_good, labels, weights, parts.weights("SDP+"))
        self._build(parts, class_name, calibrate_unlabelled, sigma, evidence, regions, page, **settings)
        self.has_heads = heads is not None
        self.learning_rate, self.lr_scheduler, self.epochs = learning_rate, lr_scheduler, epochs
        self.token_cache, self.validate_every_epoch = token_cache, validate_every_epoch
        self._resumed_from: Any = None

    @property
    def trainer(self) -> Trainer:
        """The trainer; where it was given no limit of its own, it trains for the model's ``epochs``."""
        return super().trainer

    @trainer.setter
    def trainer(self, trainer: Any) -> None:
        AnomalibModule.trainer.fset(self, trainer)
        # Before Lightning fills in its own 1000 epochs, which could not be told from the user's then.
        if trainer is not None and trainer.state.fn == TrainerFn.FITTING and trainer.max_epochs is None:
            self.borrowed.give_back()  # what a run has left that failed before it began
            if trainer.max_steps == -1 and not any(isinstance(callback, Timer) for callback in trainer.callbacks):
                self.borrowed.replace(trainer.fit_loop, "max_epochs", self.epochs)
                logger.info("Training for %d epochs.", self.epochs)

    @property
    def learning_type(self) -> LearningType:
        """Zero- or few-shot with heads; without, the host has to fit the model, as it does one-class models."""
        if not self.has_heads:
            return LearningType.ONE_CLASS
        return LearningType.FEW_SHOT if self.few_shot else LearningType.ZERO_SHOT

    def configure_optimizers(self) -> Any:
        """Adam on the heads, as in the paper, and the user's schedule."""
        optimizer = torch.optim.Adam(self._heads.parameters(), lr=self.learning_rate)
        scheduler = None if self.lr_scheduler is None else self.lr_scheduler(optimizer)
        return LightningCLI.configure_optimizers(self, optimizer, scheduler)

    def configure_callbacks(self) -> list[Callback]:
        """Return the host's components and, where heads are to be trained, what their training needs."""
        callbacks = super().configure_callbacks()
        return callbacks if self.has_heads else [*callbacks, CompleteModel(), ResumeCheckpoint()]

    def train(self, mode: bool = True) -> "SDPPlus":
        """Set the mode of all but the frozen tower, which Lightning would put in training mode too."""
        super().train(mode)
        self.model.visual.eval()
        return self

    def setup(self, stage: str) -> None:
        """Apply the seed, validate at the end only where the user has not asked for more, check the training data.

        Raises:
            FileNotFoundError: If a mask is missing.
            ValueError: If there are no labelled training images, or masks are not as they must be.
        """
        super().setup(stage)
        if stage != TrainerFn.FITTING:
            return
        self.borrowed.seed(self.seed)
        trainer = self.trainer
        as_by_default = trainer.check_val_every_n_epoch == 1 and trainer.val_check_interval == 1.0
        if as_by_default and not self.validate_every_epoch:
            # There is a validation at the end, however it comes.
            self.borrowed.replace(trainer, "check_val_every_n_epoch", sys.maxsize)
        require_labelled_training_data(self._datamodule)
        if self.class_name is None:  # all now: processes meet them in orders of their own
            self._indices(getattr(self._datamodule, "auxiliary_categories", ()))

    def on_fit_start(self) -> None:
        """Run the tower over the training images, where their tokens are to be cached."""
        if self.token_cache is not None:
            train_on_tokens(self.trainer, self.borrowed, self.token_cache, self._tap)

    def training_step(self, batch: ImageBatch | TokenBatch, batch_idx: int) -> Tensor:
        """Loss of a batch: focal and Dice of each head's map.

        Raises:
            RuntimeError: If the loss is not finite; the message names the images.
        """
        patches = batch.patches if isinstance(batch, TokenBatch) else self.model.tapped_patches(batch.image)
        mask = batch.gt_mask
        maps = self.model.logit_maps(patches, (mask.shape[-2], mask.shape[-1]), self.class_index(batch))
        loss = segmentation_loss(maps, mask)
        total = loss.total
        if not self.all_gather(total.detach()).isfinite().all():  # else other processes would wait for this one
            here = f"got {total.item()} for the images {list(batch.image_path)}"
            msg = (
                f"Expected the loss to be finite, but {'one of another process is not' if total.isfinite() else here}. "
                "Look at these files and their masks, or lower learning_rate."
            )
            raise RuntimeError(msg)
        parts = {"train_focal": loss.focal.sum(), "train_dice": loss.dice.sum()}
        self.log("train_loss", total, prog_bar=True, on_step=True, on_epoch=True, batch_size=batch.batch_size)
        self.log_dict(parts, on_step=False, on_epoch=True, batch_size=batch.batch_size)
        return total

    def on_fit_end(self) -> None:
        """Keep the heads, and write them beside the results."""
        self.has_heads, self._resumed_from = True, self.trainer.ckpt_path
        self.heads_metadata = self._describe_heads()
        if self.trainer.is_global_zero:
            path = save_heads(Path(self.trainer.default_root_dir) / FILE_NAME, self._heads, self.heads_metadata)
            logger.info("Heads: %s", path)

    def on_test_start(self) -> None:
        """Refuse, by RuntimeError, to test what was not trained."""
        self._require_heads()
        super().on_test_start()

    def on_predict_start(self) -> None:
        """The same as for a test."""
        self._require_heads()
        super().on_predict_start()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the heads and what they were made for."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[CHECKPOINT_KEY][CHECKPOINT_METADATA] = self._describe_heads().encode()
        checkpoint["hyper_parameters"].update(heads=None, lr_scheduler=None)  # in the state; code, not to be held

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint's heads fit the model.

        Raises:
            ValueError: If they do not, or the checkpoint is of another model.
        """
        trainer = attached_trainer(self)
        function = None if trainer is None else trainer.state.fn
        if function == TrainerFn.TESTING and self._resumed_from and self.trainer.ckpt_path == self._resumed_from:
            # The host's train tests with the checkpoint that it resumed from: what was trained since is newer.
            self._resumed_from = None
            checkpoint["state_dict"], checkpoint["callbacks"] = self.state_dict(), {}
            return
        super().on_load_checkpoint(checkpoint)
        if function == TrainerFn.FITTING and "optimizer_states" not in checkpoint:
            msg = (
                f"Expected ckpt_path to be a checkpoint that training can go on from, but got {self.trainer.ckpt_path} "
                f"without the optimiser's state. Pass {RESUME_FILE} of the same results, or test this one."
            )
            raise ValueError(msg)
        metadata = HeadsMetadata.decode(checkpoint[CHECKPOINT_KEY][CHECKPOINT_METADATA])
        clip = self.collaborators.backbone
        check_heads(self._heads, metadata, clip, self.model.layers, self.model.taps, "the checkpoint")
        if function != TrainerFn.FITTING:  # heads that are trained further are described anew
            self.heads_metadata, self.has_heads = metadata, True

    @property
    def _heads(self) -> LinearHeads:
        return cast("LinearHeads", self.model.heads)

    def _tap(self, batch: ImageBatch) -> TappedPatches:
        """Patches of a batch that comes straight from the dataset."""
        image = batch.image.to(self.device)
        return self.model.tapped_patches(pre_process(self.pre_processor, image))

    def _require_heads(self) -> None:
        if not self.has_heads:
            msg = (
                "Expected SDPPlus to have trained heads, but got none. Give a file (--model.heads FILE), a checkpoint "
                "(--ckpt_path FILE), or train them: `anomalib train --model anomalib_clipad.SDPPlus --data MVTec`."
            )
            raise RuntimeError(msg)

    def _describe_heads(self) -> HeadsMetadata:
        """What the heads were made for; of heads that were loaded, what their file says."""
        return self.heads_metadata or describe_trained_heads(self, self._datamodule)


if SDP.__doc__ and SDPPlus.__doc__:  # `--help` takes the words for an argument from the class's own docstring alone
    _shared = cleandoc(SDP.__doc__).partition("Args:\n")[2].partition("    staged:")[0]  # and after it, the ablations
    SDPPlus.__doc__ = cleandoc(SDPPlus.__doc__).replace("Args:\n", f"Args:\n{_shared}")
