# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Loading of frozen CLIP models."""

import difflib
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from torch import Tensor

from anomalib_clipad.clip import embedded, sources
from anomalib_clipad.clip.vision_tower import SUPPORTED_TOWERS, check_tower
from anomalib_clipad.clip.weights import is_openai_format, load_weights, read_weights

logger = logging.getLogger(__name__)

DEFAULT_BACKBONE = "ViT-B-16-plus-240"
"""The paper's; with the first of its tags, ``laion400m_e31``."""
RANDOM = "random"
_QUICK_GELU_SUFFIX = "-quickgelu"
_RANDOM_SEED = 0
_ATTENTION_OPTIONS = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn")

Tokenizer = Callable[[str | list[str]], Tensor]


@dataclass(frozen=True)
class Backbone:
    """A frozen CLIP model in evaluation mode and what goes with it.

    ``pretrained`` is a tag, a file, ``"random"`` or ``None`` for weights that come with the architecture. ``tokenizer``
    turns texts into token ids (K, T). ``mean`` and ``std`` normalise images; ``image_size`` is the height and width in
    pixels that the model was trained with.
    """

    name: str
    pretrained: str | None
    model: open_clip.CLIP
    tokenizer: Tokenizer
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: tuple[int, int]

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        height, width = self.model.visual.conv1.kernel_size
        return height, width

    @property
    def width(self) -> int:
        """Width D of the vision tower's tokens."""
        return self.model.visual.conv1.out_channels

    @property
    def embed_dim(self) -> int:
        """Dimension C of the joint embedding space."""
        return self.model.visual.proj.shape[1]

    @property
    def depth(self) -> int:
        """Number of transformer blocks of the vision tower."""
        return len(self.model.visual.transformer.resblocks)

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
            expect CLIP's usual image normalisation; ``"random"`` for untrained weights, always the same ones, to
            learn the chance level of a metric; or ``None`` for the weights that ship with the package or are in the
            folder or repository, for any other architecture ``openai`` or else the first tag that open_clip lists.
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
    config = _find_config(name)
    weights = _find_weights(name, pretrained)
    # open_clip 3 only warns when a tag was trained with another activation than the architecture's.
    config["quick_gelu"] = config.get("quick_gelu", False) or weights.settings.get("quick_gelu", False)
    if weights.state is not None and is_openai_format(weights.state) and not config["quick_gelu"]:
        logger.warning("%s is in OpenAI's format: %s runs with QuickGELU, as %s-quickgelu.", weights.source, name, name)
        config["quick_gelu"] = True

    model = _build_model(config)
    if weights.state is None:
        logger.warning("Backbone %s has random weights: its scores are at chance level.", name)
    else:
        load_weights(model, weights.state, name=name, source=weights.source)
    return Backbone(
        name=sources.short_name(name),
        pretrained=weights.pretrained,
        model=model.requires_grad_(False).eval().to(device),
        tokenizer=_build_tokenizer(name, config),
        mean=tuple(weights.settings.get("mean", open_clip.OPENAI_DATASET_MEAN)),
        std=tuple(weights.settings.get("std", open_clip.OPENAI_DATASET_STD)),
        image_size=tuple(model.visual.image_size),
    )


def list_backbones() -> tuple[str, ...]:
    """Names that :func:`load_backbone` accepts, those that ship with the package first."""
    known = (name for name in open_clip.list_models() if name not in embedded.NAMES)
    return (*embedded.NAMES, *(name for name in known if _find_problem(open_clip.get_model_config(name)) is None))


class _Weights(NamedTuple):
    """Weights to load: ``state`` is ``None`` for random ones, ``settings`` are open_clip's notes on a tag."""

    pretrained: str | None
    state: dict[str, Tensor] | None
    source: str
    settings: dict[str, Any]


def _find_config(name: str) -> dict[str, Any]:
    """Look up the configuration of an architecture in open_clip's format; ValueError if there is no supported one."""
    if name in embedded.NAMES:
        return dict(embedded.config(name))
    published = sources.is_published(name)
    config = sources.published_config(name)["model_cfg"] if published else open_clip.get_model_config(name)
    if config is None and name.endswith(_QUICK_GELU_SUFFIX):
        # Not every version of open_clip lists every architecture under this name too.
        config = open_clip.get_model_config(name.removesuffix(_QUICK_GELU_SUFFIX))
        config = config and {**config, "quick_gelu": True}
    if config is None:
        close = difflib.get_close_matches(name, list_backbones(), n=3, cutoff=0.5) or list(embedded.NAMES)
        msg = (
            f"Expected backbone to be a known architecture, but got {name!r}. Close to it: {', '.join(close)}. "
            "All are listed by anomalib_clipad.list_backbones()."
        )
        raise ValueError(msg)
    problem = _find_problem(config, published=published)
    if problem is not None:
        msg = f"Expected backbone to have {SUPPORTED_TOWERS}, but got {name!r}, which has {problem}."
        raise ValueError(msg)
    return config


def _find_problem(config: dict[str, Any], *, published: bool = False) -> str | None:
    """Say what is unsupported about an architecture before it is built or downloaded, or return ``None``."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    problems = {
        "an image tower of timm": "timm_model_name" in vision,
        "a ResNet image tower": isinstance(vision.get("layers"), list),
        "attentional pooling": bool(vision.get("attentional_pool")),
        "attention with norms or scales of its own": any(vision.get(option) for option in _ATTENTION_OPTIONS),
        "no class-token pooling": vision.get("pool_type", "tok") != "tok",
        "a text tower of its own kind": bool(config.get("custom_text")) or "hf_model_name" in text,
        "a tokenizer of its own": published and "hf_tokenizer_name" in text,
    }
    return next((problem for problem, found in problems.items() if found), None)


def _find_weights(name: str, pretrained: str | Path | None) -> _Weights:
    """Read the weights that ``pretrained`` stands for."""
    if pretrained is None and name in embedded.NAMES:
        return _Weights(None, embedded.state_dict(name), f"the package for {name}", {})
    if pretrained is None and sources.is_published(name):
        file = sources.published_weights(name)
        return _Weights(None, read_weights(file), str(file), sources.published_config(name).get("preprocess_cfg", {}))
    if pretrained == RANDOM:
        return _Weights(RANDOM, None, RANDOM, {})
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
    return _Weights(str(pretrained), read_weights(path), str(path), {})


def _download_weights(name: str, tag: str) -> _Weights:
    """Get the weights of one of open_clip's tags."""
    settings = open_clip.get_pretrained_cfg(name, tag)
    local = "a local file (pretrained=/path/to/weights, or --model.pretrained)"
    path = sources.download(settings, f"the weights {tag!r} of {name}", local)
    # OpenAI's own files are TorchScript, whose checksum open_clip has verified, and versions of open_clip that load
    # them do not note the activation of these models.
    openai = tag.lower() == "openai"
    return _Weights(tag, read_weights(path, allow_torchscript=openai), str(path), {"quick_gelu": openai, **settings})


def _build_model(config: dict[str, Any]) -> open_clip.CLIP:
    """Build a CLIP with random weights, the same at every call, without touching the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_RANDOM_SEED)
        model = open_clip.CLIP(**{key: value for key, value in config.items() if key != "custom_text"})
    check_tower(model.visual)
    return model


def _build_tokenizer(name: str, config: dict[str, Any]) -> Tokenizer:
    if name in open_clip.list_models():
        return open_clip.get_tokenizer(name)
    text = config["text_cfg"]
    return open_clip.SimpleTokenizer(context_length=text.get("context_length", 77), **text.get("tokenizer_kwargs", {}))
