# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""References: images known to be good, which a model remembers and compares others with."""

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from anomalib_clipad.base.files import atomic_write
from anomalib_clipad.base.text import list_some, printable
from anomalib_clipad.data.image_loader import BATCH_SIZE, ListedImage, engine_transform, read_ahead
from anomalib_clipad.data.references import Keeping, References, draw_shots
from anomalib_clipad.host.trainer import attached_trainer
from anomalib_clipad.post_processing.post_processor import CategoryPostProcessor
from anomalib_clipad.prediction.pool_pass import PooledRun
from anomalib_clipad.prediction.predictions import Images, in_batches
from anomalib_clipad.prediction.table import (
    PredictionRow,
    describe_evidence,
    describe_skipped,
    log_skipped,
    require_readable,
)
from anomalib_clipad.scoring.fusion import DISTANCE_GAIN
from anomalib_clipad.scoring.memory import Memory
from anomalib_clipad.scoring.pool import Pool, PoolTokens
from anomalib_clipad.scoring.torch_model import SDPModel

logger = logging.getLogger(__name__)

REFERENCES_FILE = "references.csv"
"""Names the references that a run has used, in its results folder."""

_SUSPICIOUS = 6.0
"""A reference is named in a warning if its leave-one-out score lies so many deviations above the median."""

_FEWEST_TO_SUSPECT = 4

if TYPE_CHECKING:
    from typing import Self

    from anomalib_clipad.prediction.clip_prediction import ClipPrediction as _Base
else:
    _Base = object


class ClipReferences(_Base):
    """Methods by which a model remembers references; part of ``ClipModule``."""

    model: SDPModel
    references: References | None
    pool: Pool | None
    pooled: PooledRun | None = None
    """What the images of the present run say of each other."""
    _prepared: bool = False

    @torch.no_grad()
    def remember(
        self,
        images: Images,
        class_name: str | Sequence[str] | None = None,
        *,
        turns: int = 1,
        flips: bool = False,
        max_patches: int = Keeping.max_patches,
        batch_size: int = BATCH_SIZE,
    ) -> "Self":
        """Remember images known to be good, beside those remembered before, and compare others with them from now on.

        The model keeps their patch tokens: they are part of checkpoints and exports, the images are not. A calibration
        of their classes is forgotten, since scores are others now. Files that cannot be read are logged and skipped.

        Args:
            images: As in :meth:`predict`.
            class_name: As in :meth:`predict`.
            turns: Copies of each image, turned by equal angles, itself included: 1, 2, 4 or 8.
            flips: Whether mirrored copies are added.
            max_patches: Patches kept of each class and layer; more are thinned by the host's coreset.
            batch_size: Images in a batch.

        Returns:
            The model.

        Raises:
            FileNotFoundError: If there is no such folder or CSV file.
            OSError: If none of the files can be read.
            ValueError: If an argument is not valid, or the model knows several classes and ``class_name`` is not given.

        Example:
            >>> import torch
            >>> from anomalib_clipad import SDP
            >>> clipad = SDP("clipad-tiny").remember(torch.rand(2, 3, 64, 64), class_name="nut")
            >>> clipad.evidence("nut")
            'text, references (2)'
        """
        keeping = Keeping(turns, flips, max_patches)
        self._remember([image for batch in in_batches(images, class_name, batch_size) for image in batch], keeping)
        return self

    @torch.no_grad()
    def remember_pool(
        self,
        images: Images,
        class_name: str | Sequence[str] | None = None,
        *,
        share: float = 0.9,
        max_patches: int = Keeping.max_patches,
        batch_size: int = BATCH_SIZE,
    ) -> "Self":
        """Remember unlabelled images, beside what was remembered before, but for what few of them have in common.

        They score each other as a pool. Of each class the ``share`` of patches of the lowest scores is kept, thinned to
        ``max_patches``: a memory of what most images show, which checkpoints and exports hold as they do references.
        Further arguments and errors are those of :meth:`remember`.

        Raises:
            ValueError: If ``share`` is not above 0 and at most 1, or a class has fewer images than a pool needs.
        """
        if not 0 < share <= 1:
            msg = f"Expected share to be above 0 and at most 1, but got {share}."
            raise ValueError(msg)
        self.on_predict_start()
        self.eval()
        options = self.pool or Pool()
        tokens = self._pool_images(list(self._name_images(images, class_name, batch_size)), options)
        scored, self.pooled = cast("PooledRun", self.pooled).scored, None
        if not scored.sizes:
            msg = f"Expected a pool of at least {options.minimum} images (pool.minimum) of a class, but got fewer."
            raise ValueError(msg)
        memory = self.model.memory
        for name in scored.sizes:
            index = self.class_names.index(name)
            rows, layers = tokens.of_class(index)
            scores = scored.scores.patches[rows]
            memory.add(index, [layer.to(self.device) for layer in layers], kept=scores <= _quantile(scores, share))
            memory.thin(index, max_patches)
            self._forget_calibration(index)
            kept = int((memory.class_index == index).sum())
            logger.info("Remembered %d patches of the pool of %s, of %d.", kept, name, scores.numel())
        return self

    def forget(self, class_name: str | None = None) -> "Self":
        """Forget the references of a class, or all; return the model.

        Raises:
            ValueError: If the model does not know the class.
        """
        if class_name is not None and class_name not in self.class_names:
            msg = f"Expected class_name to be one of {list_some(self.class_names, 20)}, but got {class_name!r}."
            raise ValueError(msg)
        chosen = range(len(self.class_names)) if class_name is None else [self.class_names.index(class_name)]
        for index in chosen:
            if self.model.memory.n_images(index):
                self.model.memory.forget(index)
                self._forget_calibration(index)
        return self

    def evidence(self, class_name: str) -> str:
        """Say what scores of a class rest on: text, heads, how many references, how many images of a pool."""
        known = class_name in self.class_names
        references = self.model.memory.n_images(self.class_names.index(class_name)) if known else 0
        pool = self.pooled.scored.sizes.get(class_name, 0) if self.pooled else 0
        return describe_evidence(self.model.weights, references, pool, heads=self.model.heads is not None)

    def add_to_pool(self, tokens: PoolTokens, image: Tensor, class_index: Tensor) -> None:
        """Add normalised images (B, 3, H, W) of some classes (B,) to those that are going to score each other."""
        tapped, embeddings = self.model.pool_tokens(image)
        tokens.add(tapped.layers, tapped.grid, embeddings, class_index)

    @torch.no_grad()
    def remember_given(self) -> None:
        """Remember the references of the constructor, once, on the device where the model runs."""
        given = self.references
        if given is None or self._prepared:
            return
        if given.k_shot:
            images = draw_shots(self._datamodule, given.k_shot, given.seed, self._names)
        else:
            images = given.listed()
            if self.class_name is not None and any(image.class_name for image in images):
                images = [image for image in images if image.class_name in {None, self.class_name}]
        self._prepared = True
        self._write_references(self._remember(images, given.keeping, instead=True))

    def _remember(self, images: Sequence[ListedImage], keeping: Keeping, *, instead: bool = False) -> list[ListedImage]:
        """Remember references beside those known of their classes, or ``instead``; return those that could be read.

        Nothing is forgotten before all are read. Where the same are known already, as by a checkpoint, nothing changes.
        """
        memory, found = self.model.memory, self._look_at(images, keeping)
        for index, (read, layers) in found.items():
            new = Memory(len(memory.patches), memory.patches.shape[-1]).to(memory.patches.device)
            for of_image in layers:
                new.add(0, of_image, keeping.copies)
            new.thin(0, keeping.max_patches)
            known = memory.patches[:, memory.class_index == index]
            if instead and known.shape == new.patches.shape and torch.allclose(known, new.patches, atol=1e-5):
                continue
            if instead:
                memory.forget(index)
            for of_image in layers:
                memory.add(index, of_image, keeping.copies)
            self._forget_calibration(index)
            self._warn_of_suspects(index, [printable(image.path) for image in read])
            memory.thin(index, keeping.max_patches)
        size = memory.patches.nbytes / 1e6
        logger.info("References of %d classes: %d patches, %.1f MB.", len(found), len(memory), size)
        used = [image for read, _ in found.values() for image in read]
        logger.info("References: %s", list_some([printable(image.path) for image in used], 20))
        return used

    def _look_at(
        self, images: Sequence[ListedImage], keeping: Keeping
    ) -> dict[int, tuple[list[ListedImage], list[list[Tensor]]]]:
        """Read images with their copies: those of each class, and patch tokens of each and layer; OSError if none."""
        transform = engine_transform(self.pre_processor)

        def prepare(image: Tensor) -> Any:
            return [each if transform is None else transform(each) for each in keeping.turned(image)]

        self.eval()
        named = [image if image.class_name else image._replace(class_name=self.usual_class()) for image in images]
        batches = (named[start : start + BATCH_SIZE] for start in range(0, len(named), BATCH_SIZE))
        skipped, found = list[PredictionRow](), dict[int, tuple[list[ListedImage], list[list[Tensor]]]]()
        for read, unreadable in read_ahead(batches, prepare):
            skipped += map(describe_skipped, unreadable)
            for index, image in zip(self._indices([str(one.source.class_name) for one in read]), read, strict=True):
                sources, tokens = found.setdefault(index, ([], []))
                sources.append(image.source)
                copies = [self.model.reference_patches(each[None].to(self.device)) for each in image.pixels]
                tokens.append([torch.cat(layer) for layer in zip(*copies, strict=True)])
        log_skipped(skipped)
        if not found:
            require_readable(skipped)
        return found

    def _warn_of_suspects(self, index: int, paths: Sequence[str]) -> None:
        """Name references that resemble none of the others: one that is defective makes its defect normal."""
        memory = self.model.memory
        count = memory.n_images(index)
        if count < _FEWEST_TO_SUSPECT or count > len(paths):
            return
        scores = torch.stack([self._left_out_score(index, number) for number in range(count)])
        deviation = (scores - scores.median()).abs().median().clamp_min(0.005) * 1.4826
        for path, score in zip(paths, ((scores - scores.median()) / deviation).tolist(), strict=True):
            if score > _SUSPICIOUS:
                logger.warning(
                    "Expected references to be good, but %s of %s differs from all others, %.0f deviations above their "
                    "median. If it shows a defect, leave it out: whatever a reference shows counts as normal.",
                    path or "an image",
                    self.class_names[index],
                    score,
                )

    def _left_out_score(self, index: int, number: int) -> Tensor:
        """Largest distance of a patch of a reference to the other references of its class."""
        memory = self.model.memory
        rows = (memory.class_index == index) & (memory.image_index == number)
        named = torch.tensor([index], device=rows.device)
        distances = memory(list(memory.patches[:, None, rows]), named, left_out=True)
        return (DISTANCE_GAIN * distances).amax().clamp(max=1)

    def _forget_calibration(self, index: int) -> None:
        post_processor = self.post_processor
        if isinstance(post_processor, CategoryPostProcessor) and post_processor.is_calibrated(index):
            logger.warning(
                "The calibration of %s is forgotten, since its references have changed: calibrate again.",
                self.class_names[index],
            )
            post_processor.calibrate(index, None)

    def _write_references(self, images: Sequence[ListedImage]) -> None:
        trainer = attached_trainer(self)
        if trainer is None or not trainer.is_global_zero:
            return
        table = Path(trainer.default_root_dir) / REFERENCES_FILE
        with atomic_write(table) as draft, draft.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(
                [("path", "class_name"), *((printable(image.path), image.class_name) for image in images)]
            )


def _quantile(values: Tensor, share: float) -> Tensor:
    """The value that a share of all values does not exceed; torch's own takes 16 million values at most."""
    flat = values.flatten().sort().values
    return flat[max(0, int(share * len(flat)) - 1)]
