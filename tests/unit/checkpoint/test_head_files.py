# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Files of heads: those that are read, and those that are refused before anything in them runs."""

import os
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from anomalib_clipad.checkpoint.head_files import load_heads, save_heads
from anomalib_clipad.checkpoint.head_metadata import HeadsMetadata
from anomalib_clipad.scoring.heads import LinearHeads

METADATA = HeadsMetadata("ViT-tiny", "tag", "f00d", (2, 4), "block", categories=("nut",), metrics={"AUPRO": 0.5})


@pytest.fixture
def heads() -> LinearHeads:
    return LinearHeads(width=6, embed_dim=5, num_layers=2)


class Hostile:
    """Creates a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def assert_equal(result: LinearHeads, expected: LinearHeads) -> None:
    assert result.state_dict().keys() == expected.state_dict().keys()
    for key, value in result.state_dict().items():
        assert torch.equal(value, expected.state_dict()[key])


def refusal(path: Path, problem: str) -> str:
    return re.escape(f"Expected heads to be a file of SDP+ heads, but got {path}: {problem}")


class TestSave:
    def test_round_trip(self, tmp_path, heads):
        path = save_heads(tmp_path / "not" / "there yet" / "heads.safetensors", heads, METADATA)
        result, metadata = load_heads(path)
        assert_equal(result, heads)
        assert metadata == METADATA

    def test_loaded_heads_can_be_trained_and_moved(self, tmp_path, heads):
        result, _ = load_heads(save_heads(tmp_path / "heads.safetensors", heads, METADATA))
        tokens = [torch.ones(1, 3, 6)] * 2
        result(tokens)[0].sum().backward()
        assert all(parameter.requires_grad for parameter in result.parameters())
        assert result.fc[0].weight.grad is not None
        torch.testing.assert_close(result(tokens)[1], heads(tokens)[1])

    def test_loading_does_not_touch_the_random_state(self, tmp_path, heads):
        path = save_heads(tmp_path / "heads.safetensors", heads, METADATA)
        before = torch.get_rng_state()
        load_heads(path)
        assert torch.equal(torch.get_rng_state(), before)

    def test_loaded_heads_outlive_the_file(self, tmp_path, heads):
        path = save_heads(tmp_path / "heads.safetensors", heads, METADATA)
        result, _ = load_heads(path)
        path.write_bytes(b"\0" * path.stat().st_size)
        assert_equal(result, heads)

    def test_header_says_what_is_in_the_file(self, tmp_path, heads):
        with safe_open(save_heads(tmp_path / "heads.safetensors", heads, METADATA), framework="pt") as file:
            assert file.metadata() == {**METADATA.encode(), "width": "6", "embed_dim": "5"}

    def test_heads_in_half_precision_are_written_in_float32(self, tmp_path, heads):
        result, _ = load_heads(save_heads(tmp_path / "heads.safetensors", heads.half(), METADATA))
        assert {value.dtype for value in result.state_dict().values()} == {torch.float32}
        assert_equal(result, heads.float())

    def test_failed_write_leaves_the_old_file_and_no_other(self, tmp_path, heads, monkeypatch):
        path = save_heads(tmp_path / "heads.safetensors", heads, METADATA)

        def full_disk(self, data):
            with self.open("wb") as file:
                file.write(data[:10])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full_disk)
        with pytest.raises(OSError, match="No space left on device"):
            save_heads(path, LinearHeads(6, 5, 2), METADATA)
        assert list(tmp_path.iterdir()) == [path]
        assert_equal(load_heads(path)[0], heads)

    def test_ending(self, tmp_path, heads):
        message = rf"Expected path to end in .safetensors, .* but got {tmp_path}/heads.pth. Pass .*/heads.safetensors"
        with pytest.raises(ValueError, match=message):
            save_heads(tmp_path / "heads.pth", heads, METADATA)
        assert not list(tmp_path.iterdir())

    def test_metadata_of_other_heads(self, tmp_path):
        message = re.escape("Expected metadata to name one layer for each of 3 heads, but got layers (2, 4). Pass the")
        with pytest.raises(ValueError, match=message):
            save_heads(tmp_path / "heads.safetensors", LinearHeads(6, 5, 3), METADATA)


def test_a_file_of_version_0_1():
    heads, metadata = load_heads(Path(__file__).parents[2] / "golden/heads_0_1.safetensors")
    assert (heads.width, heads.embed_dim, heads.num_layers) == (8, 6, 2)
    assert metadata == HeadsMetadata(
        "clipad-tiny",
        None,
        "f00d",
        layers=(2, 4),
        taps="reference",
        auxiliary="A",
        categories=("nut", "bolt"),
        prompts="industrial",
        strategy="dbscan",
        seed=42,
        steps=3,
        metrics={"train_loss": 0.5},
        package_version="0.1.0",
    )


class TestOtherFiles:
    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.parametrize("wrapped", [False, True])
    def test_authors_layout(self, tmp_path, heads, wrapped, legacy):
        path = tmp_path / "epoch_5.pth"
        state = heads.state_dict()
        content = {"linear_layers": state, "epoch": 5} if wrapped else state
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)

        result, metadata = load_heads(str(path))

        assert_equal(result, heads)
        assert metadata is None

    def test_authors_layout_in_half_precision(self, tmp_path, heads):
        path = tmp_path / "heads.pth"
        torch.save({"linear_layers": heads.half().state_dict()}, path)
        assert_equal(load_heads(path)[0], heads.float())

    def test_order_in_the_file_does_not_matter(self, tmp_path):
        path, heads = tmp_path / "heads.pth", LinearHeads(3, 2, 12)
        torch.save({"linear_layers": dict(sorted(heads.state_dict().items(), reverse=True))}, path)
        assert_equal(load_heads(path)[0], heads)

    def test_checkpoint(self, tmp_path, heads):
        path = tmp_path / "model.ckpt"
        state = {f"model.heads.{key}": value for key, value in heads.state_dict().items()}
        own = {"class_names": ["nut"], "heads": METADATA.encode()}
        torch.save(
            {"state_dict": state | {"model.text_embeddings": torch.zeros(1, 5, 2)}, "anomalib_clipad": own}, path
        )

        result, metadata = load_heads(path)

        assert_equal(result, heads)
        assert metadata == METADATA

    @pytest.mark.parametrize("own", [None, {"class_names": []}])
    def test_checkpoint_without_heads(self, tmp_path, own):
        path = tmp_path / "model.ckpt"
        torch.save({"state_dict": {"model.text_embeddings": torch.zeros(1, 5, 2)}, "anomalib_clipad": own}, path)
        with pytest.raises(ValueError, match=refusal(path, "it is a checkpoint of something else than SDPPlus, or of")):
            load_heads(path)


class TestRefusal:
    def test_missing_file(self, tmp_path):
        for path in (tmp_path / "none.safetensors", tmp_path):
            message = re.escape(f"but got {path}, where there is no file. Heads are made by `anomalib train --model")
            with pytest.raises(FileNotFoundError, match=message):
                load_heads(path)

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    @pytest.mark.parametrize("legacy", [False, True])
    def test_hostile_pickle_is_not_executed(self, tmp_path, legacy):
        target, path = tmp_path / "executed", tmp_path / "heads.pth"
        if legacy:
            path.write_bytes(pickle.dumps({"linear_layers": Hostile(target)}))
        else:
            torch.save({"linear_layers": Hostile(target)}, path)

        with pytest.raises(ValueError, match=refusal(path, "it cannot be read (") + ".*; nothing in it was executed."):
            load_heads(path)

        assert not target.exists()
        # The file would have done it.
        pickle.loads(path.read_bytes()) if legacy else torch.load(path, weights_only=False)
        assert target.exists()

    @pytest.mark.parametrize("ending", ["safetensors", "pth"])
    @pytest.mark.parametrize("kept", [0, 20, 300, -1])
    def test_truncated_file(self, tmp_path, heads, ending, kept):
        path = tmp_path / f"heads.{ending}"
        if ending == "pth":
            torch.save({"linear_layers": heads.state_dict()}, path)
        else:
            save_heads(path, heads, METADATA)
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(ValueError, match=refusal(path, "it cannot be read (")):
            load_heads(path)

    @pytest.mark.parametrize("name", ["heads.pth", "heads.safetensors"])
    def test_format_that_the_ending_does_not_tell(self, tmp_path, heads, name):
        path, other = tmp_path / name, tmp_path / "other.safetensors"
        if name == "heads.pth":
            save_heads(other, heads, METADATA).rename(path)
        else:
            torch.save(heads.state_dict(), path)
        with pytest.raises(ValueError, match=refusal(path, "it cannot be read (")):
            load_heads(path)

    @pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
    def test_safetensors_file_of_someone_else(self, tmp_path, heads, metadata):
        path = tmp_path / "heads.safetensors"
        save_file(heads.state_dict(), path, metadata)
        with pytest.raises(ValueError, match=refusal(path, "its metadata are not of the format")):
            load_heads(path)

    def test_metadata_for_another_number_of_heads(self, tmp_path):
        path = tmp_path / "heads.safetensors"
        save_file(LinearHeads(6, 5, 3).state_dict(), path, METADATA.encode())
        with pytest.raises(ValueError, match=refusal(path, "it names the layers (2, 4) for 3 heads. Pass a .safet")):
            load_heads(path)

    def test_metadata_with_invalid_layers(self, tmp_path, heads):
        path = tmp_path / "heads.safetensors"
        save_file(heads.state_dict(), path, {**METADATA.encode(), "layers": "[4, 2]"})
        with pytest.raises(ValueError, match=refusal(path, "Expected layers to be one or more ascending")):
            load_heads(path)

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            ([1, 2], "it holds a list."),
            ({}, "instead of fc.0.weight, fc.0.bias and so on it holds nothing."),
            ({"epoch": 3}, "instead of fc.0.weight, fc.0.bias and so on it holds epoch."),
            (dict.fromkeys("abcd", 0), "instead of fc.0.weight, fc.0.bias and so on it holds a, b, c and 1 more."),
            ({"linear_layers": {}}, "instead of fc.0.weight, fc.0.bias and so on it holds nothing."),
        ],
    )
    def test_file_of_something_else(self, tmp_path, content, problem):
        path = tmp_path / "heads.pth"
        torch.save(content, path)
        with pytest.raises(ValueError, match=refusal(path, problem)):
            load_heads(path)

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"fc.1.bias": None}, "instead of fc.0.weight, fc.0.bias and so on it holds fc.0.weight, fc.0.bias, fc.1"),
            ({"fc.2.weight": torch.zeros(5, 6), "fc.3.bias": torch.zeros(5)}, "instead of fc.0.weight"),
            ({"fc.0.weight": 3}, "its fc.0.weight is not a tensor of floating-point numbers."),
            ({"fc.1.bias": torch.zeros(5, dtype=torch.int64)}, "its fc.1.bias is not a tensor of floating-point"),
            ({"fc.0.weight": torch.zeros(6)}, "its fc.0.weight is (6,) instead of (C, D)."),
            ({"fc.0.weight": torch.zeros(0, 6)}, "its fc.0.weight is (0, 6) instead of (C, D)."),
            ({"fc.1.weight": torch.zeros(5, 7)}, "its fc.1.weight is (5, 7) instead of (5, 6), which would go with"),
            ({"fc.0.bias": torch.zeros(6)}, "its fc.0.bias is (6,) instead of (5,), which would go with"),
            ({"fc.1.bias": torch.full((5,), float("nan"))}, "its fc.1.bias holds numbers that are not finite."),
            ({"fc.0.weight": torch.full((5, 6), float("inf"))}, "its fc.0.weight holds numbers that are not finite."),
        ],
    )
    def test_weights_that_are_not_those_of_heads(self, tmp_path, heads, change: dict[str, Tensor | None], problem):
        path = tmp_path / "heads.pth"
        state = {key: value for key, value in {**heads.state_dict(), **change}.items() if value is not None}
        torch.save({"linear_layers": state}, path)
        with pytest.raises(ValueError, match=refusal(path, problem)):
            load_heads(path)
