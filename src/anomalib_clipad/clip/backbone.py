# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Loading of frozen CLIP models."""

import hashlib
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from torch import Tensor

from anomalib_clipad.clip import embedded, sources
from anomalib_clipad.clip.architectures import LazyTokenizer, Tokenizer, build_model, find_config
from anomalib_clipad.clip.towers import describe_tower
from anomalib_clipad.clip.vision_tower import VisionTower, native_size
from anomalib_clipad.clip.weights import is_openai_format, load_weights, read_weights

logger = logging.getLogger(__name__)

DEFAULT_BACKBONE = "ViT-B-16-plus-240"
"""The paper's; with the first of its tags, ``laion400m_e31``."""
RANDOM = "random"
_CLIP_LOGIT_SCALE = 100.0


@dataclass(frozen=True)
class Backbone:
    """A frozen CLIP model in evaluation mode and what goes with it.

    ``pretrained`` is a tag, a file, ``"random"`` or ``None`` for weights that come with the architecture. ``tokenizer``
    turns texts into token ids (K, T). ``mean`` and ``std`` normalise images; ``image_size`` is the height and width in
    pixels that the model was trained with.
    """

    name: str
    pretrained: str | None
    model: open_clip.CLIP | open_clip.CustomTextCLIP
    tokenizer: Tokenizer
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: tuple[int, int]

    @cached_property
    def tower(self) -> VisionTower:
        """What the surgery walks."""
        return describe_tower(self.model.visual)

    @property
    def logit_scale(self) -> float:
        """By what cosines are multiplied before a softmax over two texts.

        CLIP models are trained towards 100, which the paper takes. Those trained by a sigmoid of each pair (SigLIP)
        have learnt a scale of their own; their bias is the same for both texts and has no part in a softmax.
        """
        if getattr(self.model, "logit_bias", None) is None:
            return _CLIP_LOGIT_SCALE
        return self.map_scale

    @property
    def map_scale(self) -> float:
        """The scale that the model itself holds, by which the text's map becomes a probability where it is fused."""
        return float(self.model.logit_scale.exp())

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return self.tower.patch_size

    @property
    def width(self) -> int:
        """Width D of the vision tower's tokens."""
        return self.tower.width

    @property
    def embed_dim(self) -> int:
        """Dimension C of the joint embedding space."""
        return self.tower.embed_dim

    @property
    def depth(self) -> int:
        """Number of transformer blocks of the vision tower."""
        return self.tower.depth

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the name and of every weight; computed at first use, about a second per gigabyte."""
        digest = hashlib.sha256(self.name.encode())
        # The same weights mean another model with another activation, which only the module types tell.
        digest.update(" ".join(sorted({type(module).__name__ for module in self.model.modules()})).encode())
        for key, weight in sorted(self.model.state_dict().items()):
            digest.update(f"{key} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def load_backbone(
    name: str = DEFAULT_BACKBONE,
    pretrained: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> Backbone:
    """Load a CLIP model and freeze it.

    Args:
        name: Architecture, one of :func:`list_backbones`; or ``local-dir:/path`` or ``hf-hub:owner/name``, a folder or
            repository in open_clip's format. A name that ends in ``-quickgelu`` has the activation of OpenAI's models,
            as has any with the tag ``openai`` or a local file in OpenAI's format.
        pretrained: One of open_clip's tags for the architecture, which is downloaded at first use; a local file
            (``.safetensors``, or a state dict written by ``torch.save``), which needs no network and is taken to
            expect the image normalisation of the architecture's first tag; ``"random"`` for untrained weights, always
            the same ones, to learn the chance level of a metric; or ``None`` for the weights that ship with the package
            or are in the folder or repository, for any other architecture ``openai`` or else the first tag that
            open_clip lists.
        device: Where to put the model.

    Returns:
        The model with its tokenizer and image normalisation.

    Raises:
        FileNotFoundError: If a local file does not exist.
        RuntimeError: If something cannot be downloaded.
        ValueError: If the architecture or the tag is unknown or unsupported, or a file is unreadable or made for
            another architecture.

    Example:
        >>> backbone = load_backbone("ViT-S-32-alt", pretrained="random")
        >>> backbone.patch_size, backbone.depth
        ((32, 32), 12)
    """
    if not sources.is_published(name):
        name = name.replace("/", "-")  # OpenAI writes ViT-B/16
    config = find_config(name)
    weights = _find_weights(name, pretrained)
    # open_clip 3 only warns when a tag was trained with another activation than the architecture's.
    config["quick_gelu"] = config.get("quick_gelu", False) or weights.settings.get("quick_gelu", False)
    if weights.state is not None and is_openai_format(weights.state) and not config["quick_gelu"]:
        logger.warning("%s is in OpenAI's format: %s runs with QuickGELU, as %s-quickgelu.", weights.source, name, name)
        config["quick_gelu"] = True

    model = build_model(config)
    if weights.state is None:
        logger.warning("Backbone %s has random weights: its scores are at chance level.", name)
    else:
        load_weights(model, weights.state, name=name, source=weights.source)
    return Backbone(
        name=sources.short_name(name),
        pretrained=weights.pretrained,
        model=model.requires_grad_(False).eval().to(device),
        tokenizer=LazyTokenizer(name, config),
        mean=tuple(weights.settings.get("mean", open_clip.OPENAI_DATASET_MEAN)),
        std=tuple(weights.settings.get("std", open_clip.OPENAI_DATASET_STD)),
        image_size=native_size(describe_tower(model.visual)),
    )


class _Weights(NamedTuple):
    """Weights to load: ``state`` is ``None`` for random ones, ``settings`` are open_clip's notes on a tag."""

    pretrained: str | None
    state: dict[str, Tensor] | None
    source: str
    settings: dict[str, Any]


def _find_weights(name: str, pretrained: str | Path | None) -> _Weights:
    """Read the weights that ``pretrained`` stands for."""
    if pretrained is None and name in embedded.NAMES:
        return _Weights(None, embedded.state_dict(name), f"the package for {name}", {})
    if pretrained is None and sources.is_published(name):
        file = sources.published_weights(name)
        return _Weights(None, read_weights(file), str(file), sources.published_config(name).get("preprocess_cfg", {}))
    if pretrained == RANDOM:
        return _Weights(RANDOM, None, RANDOM, _normalisation(name))
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None and tags:
        pretrained = "openai" if "openai" in tags else tags[0]
    if isinstance(pretrained, str) and open_clip.is_pretrained_cfg(name, pretrained):
        return _download_weights(name, pretrained)
    path = None if pretrained is None else Path(pretrained).expanduser()
    # Tags are plain words, so that anything with a folder or an ending is meant to be a file.
    if path is None or not (isinstance(pretrained, Path) or path.exists() or len(path.parts) > 1 or path.suffix):
        msg = (
            f"Expected pretrained to be a tag of {name}, a local file or {RANDOM!r}, but got {pretrained!r}. "
            f"Tags of {name}: {', '.join(tags) or 'none'}."
        )
        raise ValueError(msg)
    return _Weights(str(pretrained), read_weights(path), str(path), _normalisation(name))


def _normalisation(name: str) -> dict[str, Any]:
    """Mean and standard deviation that images of an architecture are normalised with: those of its first tag."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    settings = open_clip.get_pretrained_cfg(name, tags[0]) if tags else {}
    return {key: settings[key] for key in ("mean", "std") if key in settings}


def _download_weights(name: str, tag: str) -> _Weights:
    """Get the weights of one of open_clip's tags."""
    settings = open_clip.get_pretrained_cfg(name, tag)
    local = "a local file (pretrained=/path/to/weights, or --model.pretrained)"
    path = sources.download(settings, f"the weights {tag!r} of {name}", local)
    # OpenAI's own files are TorchScript, whose checksum open_clip has verified, and versions of open_clip that load
    # them do not note the activation of these models.
    openai = tag.lower() == "openai"
    return _Weights(tag, read_weights(path, allow_torchscript=openai), str(path), {"quick_gelu": openai, **settings})
