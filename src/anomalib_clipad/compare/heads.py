# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Heads of SDP+ for a comparison: trained once for each auxiliary dataset and used on every category."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomalib_clipad.base.files import atomic_write
from anomalib_clipad.compare.grid import JobSpec, find_class, make_datamodule
from anomalib_clipad.compare.records import HEADS_FOLDER


@dataclass(frozen=True)
class HeadsKey:
    """What decides how heads come out.

    Attributes:
        auxiliary: Names of the auxiliary datasets.
        digest: Hash of model, trainer, seed and auxiliary datasets.
    """

    auxiliary: str
    digest: str


def heads_key(spec: JobSpec) -> HeadsKey | None:
    """Tell which heads a job needs; None for a model that has them or needs none."""
    entry = spec.model_entry
    if not getattr(find_class(entry.class_path), "trains_on_auxiliary", False) or entry.init_args.get("heads"):
        return None
    auxiliaries = getattr(make_datamodule(spec.dataset_entry, None), "auxiliaries", [])
    described = [_describe(datamodule) for datamodule in auxiliaries]
    what = [entry.class_path, entry.init_args, spec.seed, described, *([entry.trainer] if entry.trainer else [])]
    content = json.dumps(what, sort_keys=True, default=str)
    return HeadsKey(", ".join(each["name"] for each in described), hashlib.sha256(content.encode()).hexdigest()[:8])


def heads_path(output: Path, key: HeadsKey) -> Path:
    """Where heads are kept."""
    return output / HEADS_FOLDER / f"{key.digest}.safetensors"


def keep(trained: Path, output: Path, key: HeadsKey) -> None:
    """Move a file of trained heads to where they are kept, in one step."""
    with atomic_write(heads_path(output, key)) as draft:
        shutil.copyfile(trained, draft)


def _describe(datamodule: Any) -> dict[str, Any]:
    """What tells one auxiliary dataset from another."""
    return {
        "class": type(datamodule).__name__,
        "name": datamodule.name,
        "root": str(getattr(datamodule, "root", "")),
        "categories": list(getattr(datamodule, "categories", ())) or datamodule.category,
        "defects": getattr(datamodule, "defects", None),
    }
