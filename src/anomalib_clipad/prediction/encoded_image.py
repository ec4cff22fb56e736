# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""An image that the tower has seen, to be scored under one word after the other."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from anomalib.data import InferenceBatch
from torch import Tensor

from anomalib_clipad.clip.prompt_ensemble import PromptEnsemble
from anomalib_clipad.data.image_loader import ReadImage, engine_transform
from anomalib_clipad.post_processing.post_processor import CategoryPostProcessor, post_process
from anomalib_clipad.prediction.predictions import Prediction, to_predictions
from anomalib_clipad.prediction.table import describe_evidence
from anomalib_clipad.scoring.memory import Memory
from anomalib_clipad.scoring.sight import Seen, Yardstick

if TYPE_CHECKING:
    from anomalib_clipad.prediction.clip_prediction import ClipPrediction


class EncodedImage:
    """What a model makes of one image before it is told a word; ``encode`` of a model makes it.

    It holds tokens of all looks at the image, some megabytes each, on the model's device. After the model was moved, or
    its heads were changed, encode anew.

    Args:
        clipad: The model.
        image: The image as it was read.
        seen: What the tower makes of it.
    """

    def __init__(self, clipad: "ClipPrediction", image: ReadImage, seen: Seen) -> None:
        self._clipad = clipad
        self._image = image._replace(pixels=torch.empty(0))  # the tower has seen them
        self._seen = seen

    def __repr__(self) -> str:
        height, width = self.original_size
        return f"EncodedImage({self.path or 'in memory'}, {width} x {height} px)"

    @property
    def path(self) -> str:
        """Path of the file; empty for an image that came from memory."""
        return self._image.source.path

    @property
    def original_size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self._image.original_size

    @torch.no_grad()
    def predict(
        self,
        class_name: str | None = None,
        *,
        normal_states: Sequence[str] | None = None,
        anomalous_states: Sequence[str] | None = None,
        references: Sequence["EncodedImage"] | None = None,
    ) -> Prediction:
        """Score the image under some words; the tower is not run again, and only new prompts are encoded.

        With the model's own states and references the result is that of ``predict``, without a pool. What is given here
        is of this call only: the model learns no class of it, and nothing is left on disk. Nothing was calibrated under
        other states or references, which ``calibrated`` of the result says.

        Args:
            class_name: What the image shows; by default as in ``predict``.
            normal_states: States of a normal object, each with one ``{}``; ``None`` for the model's.
            anomalous_states: States of an anomalous object, each with one ``{}``; ``None`` for the model's.
            references: Encoded images known to be good that the image is compared with; ``None`` for the model's, an
                empty list for none.

        Returns:
            Score, label, map, mask and regions.

        Raises:
            ValueError: If the class name is blank, a list of states is empty, a state has not one ``{}``, a reference
                was encoded by another model, or the model knows several classes and ``class_name`` is not given.

        Example:
            >>> import torch
            >>> from anomalib_clipad import SDP
            >>> encoded = SDP("clipad-tiny").encode(torch.rand(3, 64, 64))
            >>> encoded.predict("gasket", anomalous_states=["torn {}", "{} with a burr"]).calibrated
            False
        """
        clipad, source = self._clipad, self._image.source
        name = class_name if class_name is not None else source.class_name or clipad.usual_class()
        words = self._words(normal_states, anomalous_states)
        criteria = self._criteria(name, words, references)
        processor = clipad.post_processor
        if criteria.calibrated_as is None and isinstance(processor, CategoryPostProcessor):
            processor = processor.uncalibrated()
        classes = torch.tensor([criteria.calibrated_as or 0], device=clipad.device)
        raw = clipad.model.compare(self._seen, criteria.yardstick)
        [prediction] = self._describe(name, raw, processor, classes, criteria.n_references)
        return prediction

    def _words(self, normal: Sequence[str] | None, anomalous: Sequence[str] | None) -> PromptEnsemble:
        own: PromptEnsemble = self._clipad.collaborators.text_engine.prompts
        given: dict[str, Any] = {"normal_states": normal, "anomalous_states": anomalous}
        return replace(own, **{key: states for key, states in given.items() if states is not None})

    def _criteria(self, name: str, words: PromptEnsemble, references: Sequence["EncodedImage"] | None) -> "_Criteria":
        clipad = self._clipad
        model, engine, known = clipad.model, clipad.collaborators.text_engine, list(clipad.class_names)
        index = known.index(name) if name in known else None
        own = words == engine.prompts
        if own and index is not None:
            texts = model.texts.embeddings[index]
        else:
            texts = engine.text_embeddings(name, words, tried=True).to(model.texts.embeddings)
        # A class that is not known has a number that no reference has.
        place, memory = len(known) if index is None else index, model.memory
        if references is not None:
            place, memory = 0, self._remembered(references)
        yardstick = Yardstick(
            texts,
            torch.tensor([place], device=clipad.device),
            memory if len(memory) > 0 and model.weights.references > 0 else None,
        )
        n_references = memory.n_images(place) if model.weights.references else 0
        return _Criteria(yardstick, index if own and references is None else None, n_references)

    def _remembered(self, references: Sequence["EncodedImage"]) -> Memory:
        known = self._clipad.model.memory
        memory = Memory(len(known.patches), known.patches.shape[-1]).to(known.patches)
        for reference in references:
            if reference._clipad is not self._clipad:
                msg = f"Expected references that this model has encoded, but got {reference}. Encode them with it."
                raise ValueError(msg)
            memory.add(0, reference._seen.patches())
        return memory

    def _describe(
        self, name: str, raw: InferenceBatch, processor: torch.nn.Module | None, classes: Tensor, n_references: int
    ) -> list[Prediction]:
        clipad = self._clipad
        image = self._image._replace(source=self._image.source._replace(class_name=name))
        rests_on = describe_evidence(clipad.model.weights, n_references, heads=clipad.model.heads is not None)
        return to_predictions(
            [image],
            engine_transform(clipad.pre_processor),
            post_process(processor, raw, classes),
            processor,
            classes,
            lambda _: rests_on,
            clipad.regions,
        )


class _Criteria(NamedTuple):
    """What an image is compared with, and the class whose calibration holds, if any."""

    yardstick: Yardstick
    calibrated_as: int | None
    n_references: int
