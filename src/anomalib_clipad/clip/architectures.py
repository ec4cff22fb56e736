# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Architectures by name: which are supported, and models and tokenizers made of their configurations."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any, NamedTuple

import open_clip
import torch
from open_clip.timm_model import TimmModel
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from anomalib_clipad.clip import embedded, sources
from anomalib_clipad.clip.towers import SUPPORTED_TOWERS, describe_tower
from anomalib_clipad.clip.vision_tower import UnsupportedTowerError, native_size

Tokenizer = Callable[[str | list[str]], Tensor]

_QUICK_GELU_SUFFIX = "-quickgelu"
_RANDOM_SEED = 0


class BackboneInfo(NamedTuple):
    """What an image tower is: its ``family``, how it pools, width of its tokens, blocks, and sizes in pixels."""

    family: str
    class_token: bool
    width: int
    depth: int
    patch_size: tuple[int, int]
    image_size: tuple[int, int]


def list_backbones(match: str = "") -> dict[str, BackboneInfo]:
    """What :func:`load_backbone` accepts, by name, those that ship with the package first.

    Each tower is built once without weights: some seconds for all. ``match`` is part of the names wanted, in any case.

    Example:
        >>> list_backbones("plus-240")["ViT-B-16-plus-240"].width
        896
    """
    found = {name: inspect_backbone(name) for name in known_backbones(match)}
    return {name: info for name, info in found.items() if not isinstance(info, str)}


def known_backbones(match: str = "") -> tuple[str, ...]:
    """Names of all architectures, supported or not."""
    names = (*embedded.NAMES, *(name for name in open_clip.list_models() if name not in embedded.NAMES))
    return tuple(name for name in names if match.lower() in name.lower())


def find_config(name: str) -> dict[str, Any]:
    """Look up the configuration of an architecture in open_clip's format; ValueError if there is no supported one."""
    config = look_up(name)
    if config is None:
        close = difflib.get_close_matches(name, known_backbones(), n=3, cutoff=0.5)
        msg = (
            f"Expected backbone to be a known architecture, but got {name!r}. "
            f"Close to it: {', '.join(close or embedded.NAMES)}. All are listed by `anomalib-clipad backbones`."
        )
        raise ValueError(msg)
    found = _inspect(config) if sources.is_published(name) else inspect_backbone(name)
    if isinstance(found, str):
        msg = f"Expected backbone to have {SUPPORTED_TOWERS}, but got {name!r}, which has {found}."
        raise ValueError(msg)
    return config


def inspect_backbone(name: str) -> BackboneInfo | str:
    """Describe the image tower of an architecture, or say what is unsupported about it; nothing is downloaded."""
    return _inspect(look_up(name) or {})


class _NoInitialisation(TorchFunctionMode):
    """Leaves out what draws weights: without memory they have no values, and it takes three quarters of the time."""

    _FILLING = frozenset({Tensor.uniform_, Tensor.normal_, Tensor.erfinv_, Tensor.mul_, Tensor.add_, Tensor.clamp_})

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of PyTorch, or give the tensor that it would fill."""
        return args[0] if func in self._FILLING else func(*args, **(kwargs or {}))


def meta_tower(config: dict[str, Any]) -> nn.Module:
    """Build an image tower without memory for its weights, to look at its parts."""
    vision = open_clip.CLIPVisionCfg(**config["vision_cfg"])
    with _NoInitialisation(), torch.device("meta"):
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


def look_up(name: str) -> dict[str, Any] | None:
    """Configuration of an architecture in open_clip's format, supported or not; ``None`` where it is unknown."""
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


def _inspect(config: dict[str, Any]) -> BackboneInfo | str:
    if isinstance(config["vision_cfg"].get("layers"), list):
        return "a ResNet image tower"
    try:
        tower = describe_tower(meta_tower(config))
    except UnsupportedTowerError as error:
        return str(error).partition("but got ")[2].rstrip(".")
    except (RuntimeError, TypeError) as error:  # for names and options that this version does not know
        return f"an image tower that cannot be built ({error})"
    return BackboneInfo(tower.family, tower.class_token, tower.width, tower.depth, tower.patch_size, native_size(tower))
