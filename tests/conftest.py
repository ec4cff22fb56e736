# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Small CLIP models that every test may use; all are random and none needs a download."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

GOLDEN_DIR = Path(__file__).parent / "golden"
TINY_VISION = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 4, "head_width": 16}
TINY_TEXT = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
TINY_EMBED_DIM = 24


class Golden(NamedTuple):
    """Outputs of the reference implementation and the small model they were obtained from."""

    tensors: dict[str, Tensor]
    layers: list[int]
    model: open_clip.CLIP


def build_tiny_clip(*, quick_gelu: bool = False, seed: int = 0, **vision: Any) -> open_clip.CLIP:
    """Build a random CLIP of 4 blocks and width 32 whose vision config is updated by keyword."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(TINY_EMBED_DIM, {**TINY_VISION, **vision}, dict(TINY_TEXT), quick_gelu=quick_gelu)
    return model.requires_grad_(False).eval()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="every backbone, and ten kills of each command; an hour")


@pytest.fixture(scope="session", autouse=True)
def _text_cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Text vectors are not read from, nor left in, the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANOMALIB_CLIPAD_CACHE", str(tmp_path_factory.mktemp("text-vectors")))
        yield


@pytest.fixture(autouse=True)
def _no_seed_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning keeps the last seed in the environment: each test begins with the same, and leaves none to others."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


@pytest.fixture(scope="session")
def make_tiny_clip() -> Callable[..., open_clip.CLIP]:
    """Builder of tiny CLIP models, see :func:`build_tiny_clip`."""
    return build_tiny_clip


@pytest.fixture(scope="session")
def tiny_clip() -> open_clip.CLIP:
    """Tiny CLIP: 32x32 pixels, 4x4 patches, 4 blocks, width 32, C 24. Shared: do not alter it."""
    return build_tiny_clip()


@pytest.fixture
def tiny_clip_folder(tmp_path: Path, tiny_clip: open_clip.CLIP) -> Path:
    """Folder ``my/clip`` that holds :func:`tiny_clip` as open_clip's training writes it for the hub."""
    folder = tmp_path / "my" / "clip"
    folder.mkdir(parents=True)
    model = {"embed_dim": TINY_EMBED_DIM, "vision_cfg": TINY_VISION, "text_cfg": TINY_TEXT}
    images = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": images}))
    save_file(dict(tiny_clip.state_dict()), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="session")
def tiny_images() -> Tensor:
    """Two images that fit :func:`tiny_clip`, ``(2, 3, 32, 32)``."""
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def golden() -> Golden:
    """Golden tensors and their model; tests/golden/README.md says what they are."""
    with np.load(GOLDEN_DIR / "reference_small.npz") as file:
        tensors = {key: torch.from_numpy(file[key]) for key in file.files}
    config = json.loads(bytes(tensors.pop("config_json").tolist()))
    model = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], dict(TINY_TEXT), quick_gelu=config["quick_gelu"])
    visual = {
        key.removeprefix("weights/visual."): value for key, value in tensors.items() if key.startswith("weights/")
    }
    model.visual.load_state_dict(visual)
    return Golden(tensors, config["layers"], model.requires_grad_(False).eval())
