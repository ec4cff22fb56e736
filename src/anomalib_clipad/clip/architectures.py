# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Architectures by name: which are supported, and models and tokenizers made of their configurations."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from typing import Any

import open_clip
import torch
from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from anomalib_clipad.clip import embedded, sources
from anomalib_clipad.clip.towers import SUPPORTED_TOWERS, describe_tower
from anomalib_clipad.clip.vision_tower import UnsupportedTowerError

Tokenizer = Callable[[str | list[str]], Tensor]

_QUICK_GELU_SUFFIX = "-quickgelu"
_RANDOM_SEED = 0


def list_backbones() -> tuple[str, ...]:
    """Names that :func:`load_backbone` accepts, those that ship with the package first."""
    known = (name for name in open_clip.list_models() if name not in embedded.NAMES)
    return (*embedded.NAMES, *(name for name in known if find_problem(name) is None))


def find_config(name: str) -> dict[str, Any]:
    """Look up the configuration of an architecture in open_clip's format; ValueError if there is no supported one."""
    config = _lookup(name)
    if config is None:
        close = difflib.get_close_matches(name, (*embedded.NAMES, *open_clip.list_models()), n=3, cutoff=0.5)
        msg = (
            f"Expected backbone to be a known architecture, but got {name!r}. "
            f"Close to it: {', '.join(close or embedded.NAMES)}. All are listed by `anomalib-clipad backbones`."
        )
        raise ValueError(msg)
    problem = _find_problem(config) if sources.is_published(name) else find_problem(name)
    if problem is not None:
        msg = f"Expected backbone to have {SUPPORTED_TOWERS}, but got {name!r}, which has {problem}."
        raise ValueError(msg)
    return config


@cache
def find_problem(name: str) -> str | None:
    """Say what is unsupported about an architecture of open_clip, or return ``None``; nothing is downloaded."""
    return _find_problem(_lookup(name) or {})


def meta_tower(config: dict[str, Any]) -> nn.Module:
    """Build an image tower without memory for its weights, to look at its parts."""
    vision = open_clip.CLIPVisionCfg(**config["vision_cfg"])
    with torch.device("meta"):
        if vision.timm_model_name:
            return TimmModel(
                vision.timm_model_name,
                embed_dim=config["embed_dim"],
                image_size=vision.image_size,
                pool=vision.timm_pool,
                proj=vision.timm_proj,
                proj_bias=vision.timm_proj_bias,
            )
        # The smallest text tower there is.
        text = {"context_length": 1, "vocab_size": 1, "width": 64, "heads": 1, "layers": 1}
        visual: nn.Module = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], text).visual
        return visual


def build_model(config: dict[str, Any]) -> open_clip.CLIP | open_clip.CustomTextCLIP:
    """Build a model with random weights, the same at every call, without touching the global random state.

    It is a CLIP or a model whose text tower is one of its own. Of a CoCa, the decoder that writes captions is left out.
    """
    vision = {**config["vision_cfg"], "output_tokens": False, "timm_model_pretrained": False}
    text = {**config["text_cfg"], "output_tokens": False, "hf_model_pretrained": False}
    others = {
        key: value
        for key, value in config.items()
        if key not in {"custom_text", "multimodal_cfg", "vision_cfg", "text_cfg"}
    }
    own_text = config.get("custom_text") or "hf_model_name" in text
    if "hf_model_name" in text:
        _check_transformers(f"a text tower of {text['hf_model_name']}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_RANDOM_SEED)
        kind = open_clip.CustomTextCLIP if own_text else open_clip.CLIP
        model = kind(vision_cfg=vision, text_cfg=text, **others)
    describe_tower(model.visual)
    return model


@dataclass
class LazyTokenizer:
    """Tokenizer of an architecture, made at its first use: one of Hugging Face's is downloaded, and may not be needed.

    Raises:
        ImportError: When it is set up, if the package transformers is needed and missing.
        RuntimeError: When it is used, if it cannot be downloaded.
    """

    name: str
    config: dict[str, Any]

    def __post_init__(self) -> None:
        """Say at once what can be installed at once."""
        if self._hub_name:
            _check_transformers(f"the tokenizer {self._hub_name}")

    @property
    def _hub_name(self) -> str | None:
        return self.config["text_cfg"].get("hf_tokenizer_name")

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        text = self.config["text_cfg"]
        known = self.name not in embedded.NAMES and self.name in open_clip.list_models()
        if not known and not self._hub_name:
            options = text.get("tokenizer_kwargs", {})
            return open_clip.SimpleTokenizer(context_length=text.get("context_length", 77), **options)
        try:
            return open_clip.get_tokenizer(self.name)
        except Exception as error:  # the hub's library has errors of its own
            msg = (
                f"Expected to load the tokenizer {self._hub_name} of {self.name}, but got {type(error).__name__}: "
                f"{str(error).rstrip('.')}. Without network pass a folder with its files and the model's "
                "(backbone='local-dir:/path', or --model.backbone)."
            )
            raise RuntimeError(msg) from error

    def __call__(self, texts: str | list[str]) -> Tensor:
        """Token ids (K, T)."""
        return self._tokenizer(texts)


def _check_transformers(purpose: str) -> None:
    if find_spec("transformers") is None:
        msg = (
            f"Expected the package transformers for {purpose}, but it is not installed. "
            "Run: pip install 'anomalib-clipad[transformers]'"
        )
        raise ImportError(msg)


def _lookup(name: str) -> dict[str, Any] | None:
    if name in embedded.NAMES:
        return dict(embedded.config(name))
    if sources.is_published(name):
        return sources.published_config(name)["model_cfg"]
    config = open_clip.get_model_config(name)
    if config is None and name.endswith(_QUICK_GELU_SUFFIX):
        # Not every version of open_clip lists every architecture under this name too.
        config = open_clip.get_model_config(name.removesuffix(_QUICK_GELU_SUFFIX))
        config = config and {**config, "quick_gelu": True}
    return config


def _find_problem(config: dict[str, Any]) -> str | None:
    """Build the image tower without weights, and describe it."""
    if isinstance(config["vision_cfg"].get("layers"), list):
        return "a ResNet image tower"
    try:
        describe_tower(meta_tower(config))
    except UnsupportedTowerError as error:
        return str(error).partition("but got ")[2].rstrip(".")
    except (RuntimeError, TypeError) as error:  # for names and options that this version does not know
        return f"an image tower that cannot be built ({error})"
    return None
