# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Loading of backbones without any download: random, local and embedded weights, and what goes wrong."""

import dataclasses
import logging
import re
import urllib.error
from types import SimpleNamespace

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from anomalib_clipad.clip import architectures
from anomalib_clipad.clip import backbone as backbone_module
from anomalib_clipad.clip.architectures import list_backbones
from anomalib_clipad.clip.backbone import load_backbone
from anomalib_clipad.clip.surgery import surgery_tokens

TINY = "clipad-tiny"
CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 4, "head_width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def shipped(make_tiny_clip) -> open_clip.CLIP:
    """A tiny CLIP that stands for the one that ships with the package."""
    return make_tiny_clip(seed=7)


@pytest.fixture(autouse=True)
def _embedded(monkeypatch, shipped):
    package = SimpleNamespace(
        NAMES=(TINY,), config=lambda _: dict(CONFIG), state_dict=lambda _: dict(shipped.state_dict())
    )
    monkeypatch.setattr(backbone_module, "embedded", package)
    monkeypatch.setattr(architectures, "embedded", package)


@pytest.fixture
def small_registered(monkeypatch):
    """Make open_clip's ViT-B-16 and its tags stand for a tiny model."""
    get_config = open_clip.get_model_config
    known = {"ViT-B-16": CONFIG, "ViT-B-16-plus-240": CONFIG, "ViT-B-16-quickgelu": CONFIG | {"quick_gelu": True}}
    monkeypatch.setattr(
        open_clip, "get_model_config", lambda name: dict(known.get(name) or get_config(name) or {}) or None
    )


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(open_clip, "download_pretrained", refuse)


def activations(model) -> set[str]:
    return {type(module).__name__ for module in model.modules() if "GELU" in type(module).__name__}


def test_the_embedded_model(shipped):
    backbone = load_backbone(TINY)

    assert (backbone.name, backbone.pretrained, backbone.image_size) == (TINY, None, (32, 32))
    assert (backbone.patch_size, backbone.width, backbone.embed_dim, backbone.depth) == ((8, 8), 32, 24, 4)
    assert (backbone.mean, backbone.std) == (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    assert not backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    for key, value in shipped.state_dict().items():
        assert torch.equal(backbone.model.state_dict()[key], value)
    with pytest.raises(dataclasses.FrozenInstanceError):
        backbone.name = "other"


def test_tokenizer_has_the_context_length_of_the_model():
    backbone = load_backbone(TINY)
    tokens = backbone.tokenizer(["a photo of a bottle.", "a"])
    assert tokens.shape == (2, 24)
    assert backbone.model.encode_text(tokens).shape == (2, 24)


def test_random_weights_are_announced_and_the_same_at_every_call(caplog):
    state = torch.get_rng_state()
    with caplog.at_level(logging.WARNING, logger="anomalib_clipad"):
        first, second = load_backbone(TINY, "random"), load_backbone(TINY, "random")
    assert "Backbone clipad-tiny has random weights" in caplog.text
    assert first.fingerprint == second.fingerprint != load_backbone(TINY).fingerprint
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("key", ["logit_scale", "visual.conv1.weight", "token_embedding.weight"])
def test_fingerprint_tells_any_weight_apart(key):
    expected, changed = load_backbone(TINY).fingerprint, load_backbone(TINY)
    changed.model.state_dict()[key].view(-1)[-1] += 1e-3
    assert re.fullmatch("[0-9a-f]{64}", expected)
    assert load_backbone(TINY).fingerprint == expected
    assert changed.fingerprint != expected


@pytest.mark.usefixtures("small_registered")
def test_fingerprint_tells_names_and_activations_apart(tmp_path, tiny_clip):
    path = tmp_path / "weights.safetensors"
    save_file(dict(tiny_clip.state_dict()), path)
    plain, other = load_backbone("ViT-B-16", path), load_backbone("ViT-B-16-plus-240", path)
    quick = dataclasses.replace(plain, model=open_clip.CLIP(**CONFIG, quick_gelu=True))
    quick.model.load_state_dict(plain.model.state_dict())
    assert len({plain.fingerprint, other.fingerprint, quick.fingerprint}) == 3


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.usefixtures("no_network")
def test_local_file(tmp_path, make_tiny_clip, tiny_images, ending, as_text):
    model, path = make_tiny_clip(seed=5), tmp_path / f"weights.{ending}"
    weights = {key: value.half() for key, value in model.state_dict().items()}
    save_file(weights, path) if ending == "safetensors" else torch.save(weights, path)

    backbone = load_backbone(TINY, str(path) if as_text else path)

    assert backbone.pretrained == str(path)
    torch.testing.assert_close(
        backbone.model.encode_image(tiny_images), model.encode_image(tiny_images), atol=1e-2, rtol=0
    )


@pytest.mark.parametrize("pretrained", ["/nowhere/weights.pt", "weights.safetensors", "~/nowhere-at-all/weights"])
def test_missing_local_file(pretrained):
    with pytest.raises(FileNotFoundError, match=r"Expected pretrained to be a file of weights, but got \S*(weights)"):
        load_backbone(TINY, pretrained)


def test_file_of_another_architecture(tmp_path, make_tiny_clip):
    path = tmp_path / "wide.safetensors"
    save_file(dict(make_tiny_clip(width=48).state_dict()), path)
    expected = (
        f"Expected the weights in {path} to be those of a clipad-tiny, but visual.class_embedding is "
        "(32,) in the backbone and (48,) in the file."
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        load_backbone(TINY, path)


def test_deeper_file_is_another_architecture(tmp_path, make_tiny_clip):
    path = tmp_path / "deep.safetensors"
    save_file(dict(make_tiny_clip(layers=5).state_dict()), path)
    with pytest.raises(ValueError, match=r"the backbone is without visual.transformer.resblocks.4\..* and 11 more"):
        load_backbone(TINY, path)


@pytest.mark.parametrize(("name", "close"), [("clipad-tinny", TINY), ("ViT-B-16-plus", "ViT-B-16-plus-240")])
def test_unknown_backbone(name, close):
    name += "-x"
    with pytest.raises(ValueError, match=f"but got {name!r}. Close to it: .*{close}.*anomalib-clipad backbones"):
        load_backbone(name)


def test_unknown_backbone_that_resembles_nothing():
    with pytest.raises(ValueError, match=r"but got 'qqqq'. Close to it: clipad-tiny. All are listed by"):
        load_backbone("qqqq")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("RN50", "a ResNet image tower"),
        ("convnext_base", "a ConvNeXt without patch_embed, blocks"),
        ("swin_base_patch4_window7_224", "a SwinTransformer without blocks"),
        ("ViTamin-B", "a VisionTransformer with MbConvStages before its blocks: a hybrid"),
        ("MobileCLIP-S1", "a FastVit without patch_embed, blocks"),
    ],
)
@pytest.mark.usefixtures("no_network")
def test_unsupported_backbone_is_refused_before_it_is_downloaded(name, problem):
    if name not in open_clip.list_models():
        pytest.skip(f"this open_clip has no {name}")
    with pytest.raises(
        ValueError, match=f"a ViT of open_clip or timm.*ViT-B-16.* but got {name!r}, which has {problem}"
    ):
        load_backbone(name)
    assert name not in list_backbones(name)


def test_list_of_backbones():
    assert next(iter(list_backbones("tiny"))) == TINY
    assert {"ViT-L-14", "ViT-L-14-336", "ViT-L-14-quickgelu"} < set(list_backbones("vit-l-14"))
    assert list_backbones("ViT-B-16-plus-240")["ViT-B-16-plus-240"].image_size == (240, 240)


def test_unknown_tag_lists_the_tags_of_the_backbone():
    expected = (
        "Expected pretrained to be a tag of ViT-B-16-plus-240, a local file or 'random', but got 'openai'. "
        "Tags of ViT-B-16-plus-240: laion400m_e31, laion400m_e32."
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        load_backbone("ViT-B-16-plus-240", "openai")
    with pytest.raises(ValueError, match=re.escape("but got 'openai'. Tags of clipad-tiny: none.")):
        load_backbone(TINY, "openai")
    with pytest.raises(ValueError, match=re.escape("but got None. Tags of ViT-S-32-alt: none.")):
        load_backbone("ViT-S-32-alt")


@pytest.mark.parametrize("name", ["ViT-B-16-plus-240", "ViT-B/16"])
@pytest.mark.usefixtures("no_network")
def test_no_network(name):
    tag = {"ViT-B-16-plus-240": "laion400m_e31", "ViT-B/16": "openai"}[name]
    expected = (
        rf"Expected to download the weights '{tag}' of {name.replace('/', '-')}, but got URLError: .*not known.* "
        r"pass a local file \(pretrained=/path.*\(backbone='clipad-tiny', or --model.backbone clipad-tiny\)\."
    )
    with pytest.raises(RuntimeError, match=expected):
        load_backbone(name)


@pytest.mark.parametrize(("tag", "activation"), [("openai", "QuickGELU"), ("laion400m_e31", "GELU")])
@pytest.mark.usefixtures("small_registered")
def test_tag_brings_its_activation_and_normalisation(tmp_path, monkeypatch, tiny_clip, tag, activation):
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": dict(tiny_clip.state_dict())}, path)
    monkeypatch.setattr(open_clip, "download_pretrained", lambda _: str(path))
    settings = open_clip.get_pretrained_cfg("ViT-B-16", tag) | {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: settings)

    backbone = load_backbone("ViT-B-16", tag)

    assert backbone.pretrained == tag
    assert activations(backbone.model) == {activation}
    assert (backbone.mean, backbone.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize(("name", "said"), [("ViT-B-16", True), ("ViT-B-16-quickgelu", False)])
@pytest.mark.usefixtures("small_registered")
def test_a_file_in_openais_format_brings_its_activation(tmp_path, tiny_clip, caplog, name, said):
    path = tmp_path / "ViT-B-16.safetensors"
    notes = {"input_resolution": 32, "context_length": 24, "vocab_size": 49408}
    save_file(dict(tiny_clip.state_dict()) | {key: torch.tensor(value) for key, value in notes.items()}, path)

    backbone = load_backbone(name, path)

    assert activations(backbone.model) == {"QuickGELU"}
    assert (
        f"{path} is in OpenAI's format: ViT-B-16 runs with QuickGELU, as ViT-B-16-quickgelu." in caplog.text
    ) is said


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.usefixtures("small_registered")
def test_openai_file_in_torchscript(tmp_path, monkeypatch, tiny_clip, tiny_images):
    path = tmp_path / "ViT-B-16.pt"
    traced = torch.jit.trace(tiny_clip, (tiny_images, torch.zeros(2, 24, dtype=torch.long)), check_trace=False)
    torch.jit.save(traced, path)
    monkeypatch.setattr(open_clip, "download_pretrained", lambda _: str(path))

    assert load_backbone("ViT-B-16", "openai").fingerprint
    with pytest.raises(ValueError, match="TorchScript archive"):
        load_backbone("ViT-B-16", "laion400m_e31")


@pytest.mark.usefixtures("small_registered")
def test_quickgelu_name_is_known_where_open_clip_lists_none(tmp_path, tiny_clip):
    name = "ViT-B-16-plus-240-quickgelu"
    path = tmp_path / "weights.safetensors"
    save_file(dict(tiny_clip.state_dict()), path)
    assert name not in open_clip.list_models()
    backbone = load_backbone(name, path)
    assert activations(backbone.model) == {"QuickGELU"}
    assert backbone.tokenizer("a").shape == (1, 24)


def test_real_architecture_with_random_weights():
    backbone = load_backbone("ViT-S-32-alt", "random")
    assert (backbone.patch_size, backbone.width, backbone.depth, backbone.image_size) == ((32, 32), 384, 12, (224, 224))
    assert backbone.tokenizer("a bottle").shape == (1, 77)
    result = surgery_tokens(backbone.model.visual, torch.zeros(1, 3, 64, 96))
    assert result.layers == (3, 6, 9, 12)
    assert result.embeddings[0].shape == (1, 7, backbone.embed_dim)


@pytest.mark.usefixtures("small_registered")
def test_default_is_the_papers(tmp_path, monkeypatch, tiny_clip):
    path = tmp_path / "weights.pt"
    torch.save(dict(tiny_clip.state_dict()), path)
    monkeypatch.setattr(open_clip, "download_pretrained", lambda _: str(path))

    backbone = load_backbone()

    assert (backbone.name, backbone.pretrained) == ("ViT-B-16-plus-240", "laion400m_e31")
