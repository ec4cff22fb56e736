# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Backbones that open_clip's schemes name: folders, and repositories of a hub that a folder stands for."""

import json
import re
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from anomalib_clipad.clip.backbone import load_backbone


@pytest.fixture
def folder(tiny_clip_folder: Path) -> Path:
    """Folder of a CLIP, beside which older weights were left."""
    torch.save({}, tiny_clip_folder / "open_clip_pytorch_model.bin")  # what is older comes later
    return tiny_clip_folder


@pytest.fixture
def hub(monkeypatch, folder) -> list[str]:
    """What is asked of a hub that holds the folder as ``owner/name``."""
    asked = []

    def download(settings):
        asked.append(settings["hf_hub"])
        repository, file = settings["hf_hub"].rsplit("/", 1)
        if repository != "owner/name":
            raise FileNotFoundError("no such repo.")
        return str(folder / (file or "open_clip_model.safetensors"))

    monkeypatch.setattr(open_clip, "download_pretrained", download)
    return asked


def test_a_folder(folder, tiny_clip, tiny_images):
    backbone = load_backbone(f"local-dir:{folder}")

    assert (backbone.name, backbone.pretrained) == ("local-dir:clip", None)
    assert (backbone.mean, backbone.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert backbone.tokenizer("a").shape == (1, 24)
    assert torch.equal(backbone.model.encode_image(tiny_images), tiny_clip.encode_image(tiny_images))


def test_heads_fit_a_folder_that_is_moved(folder, tmp_path):
    before = load_backbone(f"local-dir:{folder}").fingerprint
    moved = folder.rename(tmp_path / "clip")
    assert load_backbone(f"local-dir:{moved}").fingerprint == before


def test_a_repository(hub, tiny_clip, tiny_images):
    backbone = load_backbone("hf-hub:owner/name")

    assert (backbone.name, backbone.mean) == ("hf-hub:owner/name", (0.1, 0.2, 0.3))
    assert set(hub) == {"owner/name/open_clip_config.json", "owner/name/"}
    assert torch.equal(backbone.model.encode_image(tiny_images), tiny_clip.encode_image(tiny_images))


def test_weights_of_the_users_own_go_with_the_architecture(folder, tmp_path, make_tiny_clip):
    path = tmp_path / "mine.safetensors"
    save_file(dict(make_tiny_clip(seed=3).state_dict()), path)
    assert load_backbone(f"local-dir:{folder}", path).pretrained == str(path)


@pytest.mark.usefixtures("hub")
def test_a_repository_out_of_reach():
    expected = (
        r"Expected to download open_clip_config\.json of hf-hub:other/name, but got FileNotFoundError: no such repo\. "
        r"Without network pass a folder with its files \(backbone='local-dir:/path', or --model.backbone\), or try"
    )
    with pytest.raises(RuntimeError, match=expected):
        load_backbone("hf-hub:other/name")


def test_a_folder_without_a_file(tmp_path, folder):
    with pytest.raises(
        FileNotFoundError, match=r"a folder with open_clip_config\.json, but got 'local-dir:\S+', where"
    ):
        load_backbone(f"local-dir:{tmp_path}")
    for path in folder.glob("open_clip_*model.*"):
        path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"a folder with open_clip_model\.safetensors or .* or model\.pth, but got"
    ):
        load_backbone(f"local-dir:{folder}")


@pytest.mark.parametrize(
    ("config", "missing"),
    [
        ({"model_cfg": {"embed_dim": 8, "vision_cfg": {}}}, r"without text_cfg\. Pass"),
        ({"architectures": []}, r"without model_cfg \(KeyError"),
        ([], r"without model_cfg \(TypeError"),
    ],
)
def test_a_folder_in_another_format(tmp_path, config, missing):
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path))}/open_clip_config.json to describe .* {missing}"):
        load_backbone(f"local-dir:{tmp_path}")


@pytest.mark.parametrize(
    ("part", "option", "problem"),
    [
        ("vision_cfg", {"timm_model_name": "vit"}, r"an image tower that cannot be built \(Unknown model \(vit\)\)"),
        ("vision_cfg", {"timm_model_name": "convnext_atto"}, "a ConvNeXt without patch_embed"),
        (
            "vision_cfg",
            {"qk_norm": True},
            "(a VisionTransformer whose block 1 has Attention with ln_q, ln_k|an image tower .*qk_norm)",
        ),
    ],
)
def test_unsupported_architectures_are_refused_by_name(folder, part, option, problem):
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"][part].update(option)
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"but got 'local-dir:.*', which has {problem}"):
        load_backbone(f"local-dir:{folder}")
