# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""anomalib model classes: wiring, no maths."""

import logging
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from anomalib import LearningType
from anomalib.data import ImageBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from anomalib_clipad.clip import embedded
from anomalib_clipad.clip.backbone import DEFAULT_BACKBONE, Backbone, load_backbone
from anomalib_clipad.clip.prompt_ensemble import resolve_prompts
from anomalib_clipad.clip.surgery import SurgeryTokens, Taps, normalise_layers
from anomalib_clipad.clip.text_engine import TextEngine
from anomalib_clipad.clip_module import (
    ClipModule,
    Collaborators,
    make_pre_processor,
    resolve_sigma,
    resolve_size,
    warn_of_stand_in,
)
from anomalib_clipad.data.labelled import require_labelled_training_data
from anomalib_clipad.head_files import CHECKPOINT_KEY, CHECKPOINT_METADATA, load_heads, save_heads
from anomalib_clipad.head_metadata import HeadsMetadata, check_heads
from anomalib_clipad.heads import LinearHeads
from anomalib_clipad.loss import segmentation_loss
from anomalib_clipad.token_cache import CachePlace, TokenBatch, cache_tokens
from anomalib_clipad.torch_model import SDPModel, SDPPlusModel

logger = logging.getLogger(__name__)

EMBEDDED_HEADS = "embedded"
"""Stands for the heads that ship with an embedded backbone."""

HEADS_FILE = "heads.safetensors"
"""Name of the file of trained heads in the results folder."""

_LIGHTNINGS_EPOCHS = 1000
"""What Lightning takes where the user gives no number of epochs."""

_NO_HEADS = (
    "Expected SDPPlus to have trained heads, but got none. Give a file (--model.heads heads.safetensors) or a "
    "checkpoint (--ckpt_path), or train them: `anomalib train --model anomalib_clipad.SDPPlus --data MVTec`."
)


class SDP(ClipModule, AnomalibModule):
    """SDP of CLIP-AD (https://arxiv.org/abs/2311.00453): zero-shot anomaly detection and segmentation.

    A frozen CLIP compares the patches of an image with text vectors of the object's name, "flawless" against
    "damaged". Nothing is trained. Validation, where there is data for it, only calibrates scores and thresholds.

    Args:
        backbone: open_clip architecture with a ViT and a class token. The default is a small stand-in that ships with
            the package and **is not meant for real products**; the paper uses ``ViT-B-16-plus-240``.
        pretrained: open_clip tag, local weights file or ``"random"``; ``None`` for the backbone's default weights.
        class_name: What the images show. By default the datamodule's category, in a test set over several categories
            each image's own, else "object".
        prompts: Name of a ready prompt set, YAML file or mapping of states, templates and class names, see
            :func:`~anomalib_clipad.clip.prompt_ensemble.resolve_prompts`. ``None`` for the paper's.
        strategy: How representative text vectors are selected: mean, pca, kde, dbscan or mean_shift.
        strategy_params: Parameters of the strategy that differ from the paper's, such as ``{"eps": 1.5}``.
        layers: Tapped layers, 1-based; ``None`` for the ends of the four stages.
        taps: ``"reference"`` or ``"block"``, see :func:`~anomalib_clipad.clip.surgery.surgery_tokens`.
        sigma: Gaussian blur in pixels of the input; ``None`` for the paper's 8 pixels at 240, scaled to the input.
        image_size: Height and width of the input in pixels, or one number for both; ``None`` for the backbone's own.
        cache_dir: Folder where text vectors are kept; ``None`` for the user's cache folder, ``False`` for none.
        pre_processor: Pre-processor, or whether to use the default one.
        post_processor: Post-processor, or whether to use the default,
            :class:`~anomalib_clipad.post_processor.CategoryPostProcessor`. Without one ``pred_score`` is the class
            token's probability alone.
        evaluator: Evaluator, or whether to use :class:`~anomalib_clipad.evaluator.CategoryEvaluator`.
        visualizer: Visualizer, or whether to use :class:`~anomalib_clipad.visualizer.CategoryVisualizer`.

    Raises:
        FileNotFoundError: If a weights or prompts file does not exist.
        RuntimeError: If weights cannot be downloaded.
        TypeError: If the vision tower is not supported.
        ValueError: If any other argument is invalid; the message names the valid values.

    Example:
        >>> from anomalib_clipad import SDP
        >>> model = SDP(class_name="nut")
        >>> model.learning_type.value
        'zero_shot'
    """

    def __init__(
        self,
        backbone: str = DEFAULT_BACKBONE,
        pretrained: str | None = None,
        class_name: str | None = None,
        prompts: str | dict[str, Any] | None = None,
        strategy: str = "dbscan",
        strategy_params: dict[str, Any] | None = None,
        layers: list[int] | None = None,
        taps: Taps = "reference",
        sigma: float | None = None,
        image_size: int | tuple[int, int] | None = None,
        cache_dir: str | Literal[False] | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        clip = load_backbone(backbone, pretrained)
        size = resolve_size(image_size, clip)
        super().__init__(
            pre_processor=make_pre_processor(size, clip.mean, clip.std) if pre_processor is True else pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        text_engine = TextEngine(clip, resolve_prompts(prompts), strategy, strategy_params, cache_dir)
        self.collaborators = Collaborators(clip, text_engine)
        self.class_name = class_name
        self.model = SDPModel(clip.model.visual, layers, taps, resolve_sigma(sigma, size))
        self.strict_loading = False  # a checkpoint lacks the frozen CLIP
        warn_of_stand_in(clip)

    @property
    def learning_type(self) -> LearningType:
        """Zero-shot: the host never fits the model."""
        return LearningType.ZERO_SHOT

    def configure_optimizers(self) -> None:
        """Nothing is trained."""


class SDPPlus(ClipModule, AnomalibModule):
    """SDP+ of CLIP-AD (https://arxiv.org/abs/2311.00453): SDP with linear heads trained on an auxiliary dataset.

    The heads are trained once on the labelled images of one dataset (all its categories, normal and anomalous) and
    used on others, zero-shot. Only they are trained and saved; CLIP stays frozen. The datamodule tells both datasets
    apart: ``MVTec``, ``VisA``, ``SyntheticDefects`` and ``Transfer`` of this package train on an auxiliary one.

    With heads, from a file or a checkpoint, the model is zero-shot. Without, it trains:
    ``anomalib train --model anomalib_clipad.SDPPlus --data MVTec``.

    Args:
        backbone: As in :class:`SDP`.
        pretrained: As in :class:`SDP`.
        heads: File of trained heads: a ``.safetensors`` file of this package, a checkpoint, or an authors' file;
            ``"embedded"`` for those that ship with ``clipad-tiny``.
        class_name: As in :class:`SDP`.
        prompts: As in :class:`SDP`.
        strategy: As in :class:`SDP`.
        strategy_params: As in :class:`SDP`.
        layers: As in :class:`SDP`.
        taps: As in :class:`SDP`; heads work only with the taps that they were trained on.
        sigma: As in :class:`SDP`.
        head_weight: Weight of the heads' maps where SDP's have weight 1; the paper's is 1.
        image_size: As in :class:`SDP`.
        learning_rate: Learning rate of Adam; the paper's is 1e-4.
        epochs: Epochs of training unless the trainer is given ``max_epochs`` or ``max_steps``; the paper's are 5.
        seed: Seed of the heads and of the order of the images.
        cache: Keep the tokens of the training images in ``"memory"`` or on ``"disk"``, so that the tower runs over
            each only once; ``None`` for no cache.
        validate_every_epoch: Validate after each epoch, for early stopping, and not only after the last.
        cache_dir: As in :class:`SDP`.
        pre_processor: As in :class:`SDP`.
        post_processor: As in :class:`SDP`.
        evaluator: As in :class:`SDP`.
        visualizer: As in :class:`SDP`.

    Raises:
        FileNotFoundError: If a file does not exist.
        RuntimeError: If weights cannot be downloaded.
        TypeError: If the vision tower is not supported.
        ValueError: If heads do not fit the model, or any other argument is invalid.

    Example:
        >>> from anomalib_clipad import SDPPlus
        >>> SDPPlus().learning_type.value  # it has no heads yet
        'one_class'
    """

    model: SDPPlusModel

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
        learning_rate: float = 1e-4,
        epochs: int = 5,
        seed: int = 42,
        cache: CachePlace | None = None,
        validate_every_epoch: bool = False,
        cache_dir: str | Literal[False] | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        clip = load_backbone(backbone, pretrained)
        size = resolve_size(image_size, clip)
        super().__init__(
            pre_processor=make_pre_processor(size, clip.mean, clip.std) if pre_processor is True else pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        text_engine = TextEngine(clip, resolve_prompts(prompts), strategy, strategy_params, cache_dir)
        self.collaborators = Collaborators(clip, text_engine)
        self.class_name = class_name
        tapped = normalise_layers(layers, clip.depth)
        linear_heads, self.heads_metadata = _make_heads(clip, tapped, taps, heads, seed)
        self.model = SDPPlusModel(
            clip.model.visual, linear_heads, tapped, taps, resolve_sigma(sigma, size), head_weight
        )
        self.has_heads = heads is not None
        self.learning_rate, self.epochs, self.seed = learning_rate, epochs, seed
        self.cache, self.validate_every_epoch = cache, validate_every_epoch
        self._uncached: Any = None
        self._resumed_from: Any = None
        self.strict_loading = False  # a checkpoint lacks the frozen CLIP
        warn_of_stand_in(clip)

    @property
    def learning_type(self) -> LearningType:
        """Zero-shot with heads; without, the host has to fit the model, which it does for one-class models."""
        return LearningType.ZERO_SHOT if self.has_heads else LearningType.ONE_CLASS

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam on the heads, as in the paper."""
        return torch.optim.Adam(self.model.heads.parameters(), lr=self.learning_rate)

    def configure_callbacks(self) -> list[Callback]:
        """Return the host's components, and a checkpoint to resume from after each epoch."""
        resume = ModelCheckpoint(filename="resume", save_on_train_epoch_end=True, enable_version_counter=False)
        return [*super().configure_callbacks(), *([] if self.has_heads else [resume, _DropCache()])]

    def train(self, mode: bool = True) -> "SDPPlus":
        """Set the mode of all but the frozen tower, which Lightning would put in training mode too."""
        super().train(mode)
        self.model.visual.eval()
        return self

    def setup(self, stage: str) -> None:
        """Apply the seed, and the paper's schedule where the trainer was given none."""
        super().setup(stage)
        if stage != TrainerFn.FITTING:
            return
        seed_everything(self.seed, workers=True, verbose=False)
        trainer = self.trainer
        if trainer.max_epochs == _LIGHTNINGS_EPOCHS and trainer.max_steps == -1:
            trainer.fit_loop.max_epochs = self.epochs
        if not self.validate_every_epoch and trainer.check_val_every_n_epoch == 1 and trainer.max_epochs:
            trainer.check_val_every_n_epoch = trainer.max_epochs

    def on_fit_start(self) -> None:
        """Check the training data, then run the tower over it once where its tokens are cached.

        Raises:
            FileNotFoundError: If a mask is missing.
            RuntimeError: If the cached tokens do not fit.
            ValueError: If there are no labelled training images, or masks are not as they must be.
        """
        datamodule = self._datamodule
        self._resumed_from = self.trainer.ckpt_path
        require_labelled_training_data(datamodule)
        if self.cache is not None:
            self._uncached = datamodule.train_data
            loader = DataLoader(
                self._uncached,
                batch_size=datamodule.eval_batch_size,
                num_workers=datamodule.num_workers,
                collate_fn=self._uncached.collate_fn,
            )
            datamodule.train_data = cache_tokens(loader, self._tap, self.cache, self._cache_folder)

    def training_step(self, batch: ImageBatch | TokenBatch, batch_idx: int) -> Tensor:
        """Loss of a batch: focal and Dice of each head's map.

        Raises:
            RuntimeError: If the loss is not finite; the message names the images.
        """
        del batch_idx
        if isinstance(batch, TokenBatch):
            original, grid = batch.tokens.unbind(dim=1), batch.grid
        else:
            tapped = self.model.tapped_tokens(batch.image)
            original, grid = tuple(tapped.original), tapped.grid
        mask = batch.gt_mask
        maps = self.model.logit_maps(original, grid, (mask.shape[-2], mask.shape[-1]), self.class_index(batch))
        loss = segmentation_loss(maps, mask)
        total = loss.total
        if not torch.isfinite(total):
            msg = (
                f"Expected the loss to be finite, but got {total.item()} for the images {list(batch.image_path)}. "
                "Look at these files and their masks, or lower learning_rate."
            )
            raise RuntimeError(msg)
        parts = {"train_focal": loss.focal.sum(), "train_dice": loss.dice.sum()}
        size = batch.batch_size
        self.log("train_loss", total, prog_bar=True, on_step=True, on_epoch=True, batch_size=size)
        self.log_dict(parts, on_step=False, on_epoch=True, batch_size=size)
        return total

    def on_fit_end(self) -> None:
        """Keep the heads: write them beside the results, and give the images back to the datamodule."""
        self._drop_cache()
        self.has_heads = True
        self.heads_metadata = self._describe_heads()
        if self.trainer.is_global_zero:
            path = save_heads(Path(self.trainer.default_root_dir) / HEADS_FILE, self.model.heads, self.heads_metadata)
            logger.info("Heads: %s", path)

    def on_test_start(self) -> None:
        """Refuse to test what was not trained.

        Raises:
            RuntimeError: If the model has no heads.
        """
        if not self.has_heads:
            raise RuntimeError(_NO_HEADS)

    on_predict_start = on_test_start

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the heads and what they were made for; once training is complete, no state of the optimiser."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[CHECKPOINT_KEY]["has_heads"] = True
        checkpoint[CHECKPOINT_KEY][CHECKPOINT_METADATA] = self._describe_heads().encode()
        checkpoint["hyper_parameters"]["heads"] = None  # they are in the checkpoint
        trainer = self.trainer
        last_epoch = trainer.max_epochs is not None and trainer.current_epoch + 1 >= trainer.max_epochs
        if last_epoch and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            checkpoint["optimizer_states"] = []

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint's heads fit the model.

        Raises:
            ValueError: If they do not, or the checkpoint is of another model.
        """
        function = None if self._trainer is None else self.trainer.state.fn
        if function == TrainerFn.TESTING and self._resumed_from and self.trainer.ckpt_path == self._resumed_from:
            # The host's train tests with the checkpoint that it resumed from: what was trained since is newer.
            self._resumed_from = None
            checkpoint["state_dict"] = self.state_dict()
            return
        super().on_load_checkpoint(checkpoint)
        encoded = checkpoint[CHECKPOINT_KEY].get(CHECKPOINT_METADATA)
        if encoded is None:
            msg = "Expected a checkpoint of SDPPlus, but got one without heads, as of SDP."
            raise ValueError(msg)
        metadata = HeadsMetadata.decode(encoded)
        clip = self.collaborators.backbone
        check_heads(self.model.heads, metadata, clip, self.model.layers, self.model.taps, "the checkpoint")
        if function != TrainerFn.FITTING:  # heads that are trained further are described anew
            self.heads_metadata, self.has_heads = metadata, True

    def _tap(self, batch: ImageBatch) -> SurgeryTokens:
        """Tokens of a batch that comes straight from the dataset."""
        image = batch.image.to(self.device)
        with self.trainer.precision_plugin.train_step_context():
            return self.model.tapped_tokens(self.pre_processor.transform(image) if self.pre_processor else image)

    @property
    def _cache_folder(self) -> Path:
        return Path(self.trainer.default_root_dir) / f"token_cache_{self.global_rank}"

    def _drop_cache(self) -> None:
        if self._uncached is not None:
            self._datamodule.train_data, self._uncached = self._uncached, None
            shutil.rmtree(self._cache_folder, ignore_errors=True)

    def _describe_heads(self) -> HeadsMetadata:
        """What the heads were made for; of heads that were loaded, what their file says."""
        if self.heads_metadata is not None:
            return self.heads_metadata
        clip, datamodule, hyper_parameters = self.collaborators.backbone, self._datamodule, self.hparams
        return HeadsMetadata(
            backbone=clip.name,
            pretrained=clip.pretrained,
            fingerprint=clip.fingerprint,
            layers=self.model.layers,
            taps=self.model.taps,
            auxiliary=", ".join(getattr(datamodule, "auxiliary_names", ())) or None,
            categories=tuple(getattr(datamodule, "auxiliary_categories", ())),
            prompts=str(hyper_parameters.get("prompts") or "industrial"),
            strategy=hyper_parameters.get("strategy"),
            seed=self.seed,
            steps=self.trainer.global_step,
            metrics={name: float(value) for name, value in self.trainer.callback_metrics.items()},
        )


class _DropCache(Callback):
    """Gives the images back to the datamodule after an exception, of which Lightning tells callbacks only."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Drop the cache of SDP+."""
        del trainer, exception
        if isinstance(pl_module, SDPPlus):
            pl_module._drop_cache()


def _make_heads(
    backbone: Backbone, layers: tuple[int, ...], taps: Taps, path: str | None, seed: int
) -> tuple[LinearHeads, HeadsMetadata | None]:
    """Read heads from a file and check them, or make new ones from the seed."""
    if path is not None:
        file = embedded.heads_file(backbone.name) if path == EMBEDDED_HEADS else Path(path)
        heads, metadata = load_heads(file)
        check_heads(heads, metadata, backbone, layers, taps, file)
        return heads, metadata
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LinearHeads(backbone.width, backbone.embed_dim, len(layers)), None
