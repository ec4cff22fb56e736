# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What SDP+ heads were made for, and the check that they are used with nothing else.

Heads fit one CLIP, one choice of layers and one kind of taps, and nothing in their numbers says which: with any other
they yield a map that only looks like one.
"""

import dataclasses
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from anomalib_clipad._version import __version__
from anomalib_clipad.clip.backbone import Backbone
from anomalib_clipad.clip.surgery import Taps
from anomalib_clipad.scoring.heads import LinearHeads

logger = logging.getLogger(__name__)

FORMAT = "anomalib_clipad.heads"
FORMAT_VERSION = "1"

# What the check relies on must have its type, whoever wrote the file.
_DECODED_TYPES = {"backbone": str, "fingerprint": str, "layers": tuple, "categories": tuple, "metrics": dict}


@dataclass(frozen=True)
class HeadsMetadata:
    """What heads were made for, which is checked, and how, which is for the reader.

    ``pretrained`` is a tag, a file or ``None`` for weights that ship with the package, ``fingerprint`` their
    backbone's, ``layers`` are 1-based and ascending, ``family`` is that of the tower; ``auxiliary`` and ``categories``
    name what the heads were trained on.

    Example:
        >>> metadata = HeadsMetadata("clipad-tiny", None, fingerprint="f00d", layers=(2, 4), taps="reference")
        >>> HeadsMetadata.decode(metadata.encode()) == metadata
        True
    """

    backbone: str
    pretrained: str | None
    fingerprint: str
    layers: tuple[int, ...]
    taps: Taps
    family: str | None = None
    auxiliary: str | None = None
    categories: tuple[str, ...] = ()
    prompts: str | None = None
    strategy: str | None = None
    seed: int | None = None
    steps: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    package_version: str = __version__

    def __post_init__(self) -> None:
        if self.taps not in get_args(Taps):
            msg = f"Expected taps to be one of {', '.join(get_args(Taps))}, but got {self.taps!r}."
            raise ValueError(msg)
        positive = all(isinstance(layer, int) and layer > 0 for layer in self.layers)
        if not positive or not self.layers or list(self.layers) != sorted(set(self.layers)):
            msg = (
                f"Expected layers to be one or more ascending, 1-based numbers, but got {self.layers}. "
                "Pass the layers of the model, which are normalised."
            )
            raise ValueError(msg)

    def encode(self) -> dict[str, str]:
        """Turn into strings, each a JSON value, as safetensors files and checkpoints can hold them."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        values["metrics"] = dict(self.metrics)
        encoded = {name: json.dumps(value) for name, value in values.items()}
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **encoded}

    @classmethod
    def decode(cls, encoded: Mapping[str, str]) -> "HeadsMetadata":
        """Undo ``encode``, else ValueError; unknown entries are ignored, and those with a default may be missing."""
        if encoded.get("format") != FORMAT:
            msg = f"its metadata are not of the format {FORMAT!r}"
            raise ValueError(msg)
        if encoded.get("format_version") != FORMAT_VERSION:
            msg = (
                f"its format has version {encoded.get('format_version')}, and anomalib-clipad {__version__} "
                f"reads version {FORMAT_VERSION}"
            )
            raise ValueError(msg)
        values: dict[str, Any] = {}
        for item in dataclasses.fields(cls):
            required = item.default is item.default_factory is dataclasses.MISSING
            if item.name not in encoded and not required:
                continue
            try:
                value = json.loads(encoded[item.name])
                value = tuple(value) if isinstance(value, list) else value
                if not isinstance(value, _DECODED_TYPES.get(item.name, object)):
                    raise TypeError(type(value))
            except (KeyError, TypeError, ValueError) as error:
                msg = f"its metadata {item.name!r} is missing or damaged"
                raise ValueError(msg) from error
            values[item.name] = value
        return cls(**values)


def describe_trained_heads(model: Any, datamodule: Any) -> HeadsMetadata:
    """Describe heads that ``SDPPlus`` has just trained on the auxiliary images of a datamodule."""
    clip = model.collaborators.backbone
    return HeadsMetadata(
        clip.name,
        clip.pretrained,
        clip.fingerprint,
        model.model.layers,
        model.model.taps,
        clip.tower.family,
        auxiliary=", ".join(getattr(datamodule, "auxiliary_names", ())) or None,
        categories=tuple(getattr(datamodule, "auxiliary_categories", ())),
        prompts=str(model.hparams.get("prompts") or "industrial"),
        strategy=model.hparams.get("strategy"),
        seed=model.seed,
        steps=model.trainer.global_step,
        metrics={name: float(value) for name, value in model.trainer.callback_metrics.items()},
    )


def check_heads(
    heads: LinearHeads,
    metadata: HeadsMetadata | None,
    backbone: Backbone,
    layers: Sequence[int],
    taps: Taps,
    source: str | os.PathLike[str],
) -> None:
    """Refuse heads that were made for something else than what they are used with; the message names all that differs.

    Without metadata, ``None``, only shapes and taps can be checked; a warning tells what is assumed.
    """
    compared: dict[str, tuple[object, object]] = {
        "width": (backbone.width, heads.width),
        "embed_dim": (backbone.embed_dim, heads.embed_dim),
    }
    if metadata is None:
        compared["number of layers"] = (len(layers), heads.num_layers)
        compared["taps"] = (taps, "reference")  # the authors' code has no other
    else:
        compared["backbone"] = (backbone.name, metadata.backbone)
        compared["layers"] = (list(layers), list(metadata.layers))
        compared["taps"] = (taps, metadata.taps)
        # With another architecture the weights differ anyway, and need not be read.
        if backbone.name == metadata.backbone and backbone.fingerprint != metadata.fingerprint:
            compared["weights"] = (
                _describe_weights(backbone.pretrained, backbone.fingerprint),
                _describe_weights(metadata.pretrained, metadata.fingerprint),
            )
    different = {name: sides for name, sides in compared.items() if sides[0] != sides[1]}
    if different:
        ours, theirs = (", ".join(f"{name} {sides[side]}" for name, sides in different.items()) for side in range(2))
        msg = (
            f"Expected heads to be made for what this model has: {ours}; but got heads made for {theirs} ({source}). "
            "Set the model up as the heads were trained, or pass heads that were trained for this model."
        )
        raise ValueError(msg)
    if metadata is None:
        logger.warning(
            "%s does not say what its heads were made for. It is taken for one of the authors' files, made for "
            "ViT-B-16-plus-240 with the weights laion400m_e31 and taps='reference', and used with %s, pretrained=%r, "
            "layers %s. Only shapes could be checked.",
            source,
            backbone.name,
            backbone.pretrained,
            list(layers),
        )


def _describe_weights(pretrained: str | None, fingerprint: str) -> str:
    name = "those of the package" if pretrained is None else repr(pretrained)
    return f"{name} (fingerprint {fingerprint[:12]})"
