# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""For every architecture of open_clip the answer, and the towers of real sizes that are the newest."""

import re
from typing import Any

import open_clip
import pytest
import torch

from anomalib_clipad.clip.architectures import LazyTokenizer, build_model, find_config, inspect_backbone, list_backbones
from anomalib_clipad.clip.backbone import Backbone, load_backbone
from anomalib_clipad.clip.surgery import surgery_tokens
from anomalib_clipad.clip.towers import describe_tower
from towers import REFUSED, supported_architectures

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", open_clip.list_models())
def test_every_architecture_is_supported_or_refused_by_name(name: str) -> None:
    expected = next((problem for pattern, problem in REFUSED.items() if re.match(pattern, name)), None)
    found = inspect_backbone(name)
    assert (found if isinstance(found, str) else None) == expected
    if expected is not None:
        with pytest.raises(ValueError, match=f"but got '{name}', which has {expected}"):
            load_backbone(name)


def test_as_many_are_supported_as_there_are_plain_vits() -> None:
    supported = list_backbones()
    assert supported["ViT-L-14-336"] == ("open_clip", True, 1024, 24, (14, 14), (336, 336))
    known = set(open_clip.list_models())
    assert set(supported) - {"clipad-tiny"} == set(supported_architectures())
    if len(known) >= 144:  # open_clip 3.3; 2.24 knows 85
        assert len(set(supported) & known) >= 101


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP2", "PE-Core-B-16", "EVA02-B-16"])
def test_towers_of_real_size_are_walked_as_they_walk_themselves(name: str) -> None:
    if name not in open_clip.list_models():
        pytest.skip(f"this open_clip has no {name}")
    config: Any = {**find_config(name)}
    config["text_cfg"] = {**config["text_cfg"], "layers": 1, "vocab_size": 64}  # that tower is not asked
    visual = build_model(config).visual.eval().requires_grad_(False)
    height, width = (side * patch for side, patch in zip((14, 10), describe_tower(visual).patch_size, strict=True))
    image = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    result = surgery_tokens(visual, image)
    torch.testing.assert_close(result.embeddings[-1][:, 0], visual(image), atol=1e-5, rtol=0)
    other = surgery_tokens(visual, image[..., :height, :width])
    visual.trunk.set_input_size((height, width))
    torch.testing.assert_close(other.embeddings[-1][:, 0], visual(image[..., :height, :width]), atol=1e-5, rtol=0)


def test_sigmoid_models_have_a_temperature_of_their_own() -> None:
    """Of two texts, what the bias of the sigmoid adds is the same: the softmax over them has none."""
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 4, "head_width": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
    }
    settings: Any = ((0.5,) * 3, (0.5,) * 3, (32, 32))
    scales = []
    for bias in (None, -10.0):
        model = build_model({**config, "init_logit_bias": bias, "init_logit_scale": 4.7})
        scales.append(Backbone("x", None, model, LazyTokenizer("x", config), *settings).logit_scale)
    assert scales[0] == 100
    torch.testing.assert_close(scales[1], float(torch.tensor(4.7).exp()))
