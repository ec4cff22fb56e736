# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Weight files: those that are read, and those that are refused before anything in them runs."""

import argparse
import os
import pickle
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from anomalib_clipad.clip.weights import load_weights, read_weights


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, target) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("ending", ["safetensors", "pt", "bin"])
def test_read(tmp_path, weights, ending, wrapped):
    path = tmp_path / f"weights.{ending}"
    prefixed = {f"module.{key}": value for key, value in weights.items()}
    if ending == "safetensors":
        save_file(prefixed if wrapped else weights, path)
    else:
        torch.save({"state_dict": prefixed, "epoch": 3} if wrapped else weights, path)

    result = read_weights(path)

    assert result.keys() == weights.keys()
    assert all(torch.equal(result[key], weights[key]) for key in weights)


def test_missing_file(tmp_path):
    path = tmp_path / "none.pt"
    with pytest.raises(FileNotFoundError, match=re.escape(f"but got {path}, where there is no file")):
        read_weights(path)
    with pytest.raises(FileNotFoundError, match=re.escape(f"but got {tmp_path}, where there is no file")):
        read_weights(tmp_path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [False, True])
def test_hostile_pickle_is_refused_and_not_executed(tmp_path, legacy):
    target, path = tmp_path / "executed", tmp_path / "weights.pt"
    if legacy:
        path.write_bytes(pickle.dumps(Hostile(target)))
    else:
        torch.save({"state_dict": Hostile(target)}, path)

    with pytest.raises(ValueError, match=r"cannot be read .*Nothing in it was executed. Pass a .safetensors file"):
        read_weights(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_weights(path, allow_torchscript=True)

    assert not target.exists()
    pickle.loads(path.read_bytes()) if legacy else torch.load(path, weights_only=False)  # the file would have done it
    assert target.exists()


@pytest.mark.parametrize("extra", [np.float64(0.5), argparse.Namespace(epochs=3)])
def test_a_trainers_checkpoint_is_refused_with_the_way_to_its_weights(tmp_path, weights, extra):
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": weights, "extra": extra}, path)

    with pytest.raises(
        ValueError, match=r"is a trainer's checkpoint: it holds (numpy|argparse)\.\S+, .*save its"
    ) as error:
        read_weights(path)

    advice = re.search(r"torch\.save\(.*'weights\.pt'\)", str(error.value))[0]
    saved = tmp_path / "weights.pt"
    eval(advice.replace("'weights.pt'", "saved"), {"torch": torch, "path": path, "saved": saved})
    assert read_weights(saved).keys() == weights.keys()


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
@pytest.mark.parametrize("kept", [0, 20, 300])
def test_truncated_file(tmp_path, ending, kept):
    path = tmp_path / f"weights.{ending}"
    content = {"weight": torch.zeros(100, 100)}
    save_file(content, path) if ending == "safetensors" else torch.save(content, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=re.escape(f"but {path} cannot be read")):
        read_weights(path)


@pytest.mark.parametrize("content", [[1, 2], {"weight": 3}, {"state_dict": {"weight": "x"}}])
def test_file_of_something_else(tmp_path, content):
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match="Expected pretrained to be a file of named tensors"):
        read_weights(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_torchscript_is_read_only_where_allowed(tmp_path):
    path, linear = tmp_path / "ViT.pt", nn.Linear(3, 2)
    torch.jit.save(torch.jit.trace(linear, torch.zeros(1, 3)), path)

    assert torch.equal(read_weights(path, allow_torchscript=True)["weight"], linear.weight)
    with pytest.raises(
        ValueError, match=r"is a TorchScript archive, which is a program. Where you trust it, save torch.jit.load"
    ):
        read_weights(path)


def test_load_converts_precision_and_ignores_extra_entries(weights):
    model = nn.Linear(3, 2)
    extra = {"context_length": torch.tensor(77), "visual.attn_mask": torch.zeros(2, 2)}
    load_weights(model, {key: value.half() for key, value in weights.items()} | extra, name="Linear", source="file")
    assert model.weight.dtype == torch.float32
    assert torch.equal(model.weight, weights["weight"])


def test_load_reshapes_a_single_number():
    model = nn.Module()
    model.logit_scale = nn.Parameter(torch.zeros(()))
    load_weights(model, {"logit_scale": torch.ones(1)}, name="a", source="b")
    assert model.logit_scale.item() == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"weight": torch.zeros(2, 4)}, "weight is (2, 3) in the backbone and (2, 4) in the file"),
        ({"weight": None}, "the file is without weight"),
        ({"weight": None, "bias": None}, "the file is without weight and 1 more weights"),
        ({"scale": torch.zeros(1)}, "the backbone is without scale"),
    ],
)
def test_load_refuses_another_architecture_and_leaves_the_model_alone(weights, change, problem):
    model = nn.Linear(3, 2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    given = {key: value for key, value in (weights | change).items() if value is not None}

    expected = re.escape(f"Expected the weights in FILE to be those of a ViT, but {problem}. Pass the backbone")
    with pytest.raises(ValueError, match=expected):
        load_weights(model, given, name="ViT", source="FILE")

    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
