# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What heads say they were made for, and the refusal of heads made for anything else."""

import dataclasses
import json
import logging

import pytest

from anomalib_clipad._version import __version__
from anomalib_clipad.checkpoint.head_metadata import FORMAT, HeadsMetadata, check_heads
from anomalib_clipad.clip.backbone import Backbone
from anomalib_clipad.scoring.heads import LinearHeads

LAYERS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def backbone(tiny_clip) -> Backbone:
    """Tiny CLIP as a loaded backbone: depth 4, D 32, C 24."""
    half = (0.5, 0.5, 0.5)
    return Backbone("ViT-tiny", "some_tag", tiny_clip, tokenizer=None, mean=half, std=half, image_size=(32, 32))


@pytest.fixture
def heads() -> LinearHeads:
    return LinearHeads(width=32, embed_dim=24, num_layers=4)


@pytest.fixture
def metadata(backbone) -> HeadsMetadata:
    return HeadsMetadata("ViT-tiny", "other_name", backbone.fingerprint, LAYERS, "reference")


class TestEncoding:
    def test_round_trip(self):
        metadata = HeadsMetadata(
            backbone="ViT-B-16-plus-240",
            pretrained=None,
            fingerprint="f00d",
            layers=(3, 6),
            taps="block",
            auxiliary="VisA",
            categories=("candle", "café ☕"),
            prompts="industrial",
            strategy="dbscan",
            seed=42,
            steps=1_000,
            metrics={"image_AUROC": 0.5, "pixel_AUPRO": 0.25},
            package_version="9.9",
        )
        encoded = metadata.encode()
        assert all(isinstance(value, str) for value in encoded.values())
        assert HeadsMetadata.decode(encoded) == metadata

    def test_version_is_that_of_the_package(self, metadata):
        assert json.loads(metadata.encode()["package_version"]) == __version__

    def test_what_later_versions_add_is_ignored(self, metadata):
        assert HeadsMetadata.decode({**metadata.encode(), "mood": "good"}) == metadata

    def test_what_earlier_versions_did_not_write_has_its_default(self):
        encoded = HeadsMetadata("x", None, "f00d", (1,), "block", auxiliary="VisA", seed=7).encode()
        del encoded["seed"], encoded["metrics"]
        assert HeadsMetadata.decode(encoded) == HeadsMetadata("x", None, "f00d", (1,), "block", auxiliary="VisA")

    @pytest.mark.parametrize("written", [None, "pt"])
    def test_foreign_metadata(self, metadata, written):
        encoded = {**metadata.encode(), "format": written}
        with pytest.raises(ValueError, match=f"its metadata are not of the format '{FORMAT}'"):
            HeadsMetadata.decode(encoded)

    def test_later_format(self, metadata):
        encoded = {**metadata.encode(), "format_version": "2"}
        with pytest.raises(ValueError, match=r"its format has version 2, and anomalib-clipad .* reads version 1"):
            HeadsMetadata.decode(encoded)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("layers", None),
            ("steps", "{"),
            ("layers", "3"),
            ("layers", '"36"'),
            ("backbone", "null"),
            ("fingerprint", "7"),
            ("metrics", "[]"),
        ],
    )
    def test_damaged_metadata(self, metadata, name, value):
        encoded = {key: text for key, text in {**metadata.encode(), name: value}.items() if text is not None}
        with pytest.raises(ValueError, match=f"its metadata '{name}' is missing or damaged"):
            HeadsMetadata.decode(encoded)

    def test_unknown_taps(self, metadata):
        with pytest.raises(ValueError, match="Expected taps to be one of reference, block, but got 'both'"):
            dataclasses.replace(metadata, taps="both")

    @pytest.mark.parametrize("layers", [(), (0, 1), (-1,), (2, 1), (1, 1), ("1",)])
    def test_layers_that_are_not_normalised(self, metadata, layers):
        with pytest.raises(ValueError, match="Expected layers to be one or more ascending, 1-based numbers, but got"):
            dataclasses.replace(metadata, layers=layers)


class TestCheck:
    def test_heads_that_fit_pass_in_silence(self, heads, metadata, backbone, caplog):
        # The name of the weights may differ, a file for a tag: what counts is what is in them.
        check_heads(heads, metadata, backbone, list(LAYERS), "reference", "FILE")
        assert not caplog.records

    @pytest.mark.parametrize(
        ("change", "ours", "theirs"),
        [
            ({"backbone": "ViT-L-14"}, "backbone ViT-tiny", "backbone ViT-L-14"),
            ({"layers": (1, 2, 3)}, r"layers \[1, 2, 3, 4\]", r"layers \[1, 2, 3\]"),
            ({"taps": "block"}, "taps reference", "taps block"),
            (
                {"fingerprint": "0123456789abcdef"},
                r"weights 'some_tag' \(fingerprint [0-9a-f]{12}\)",
                r"weights 'other_name' \(fingerprint 0123456789ab\)",
            ),
            (
                {"fingerprint": "0123456789abcdef", "pretrained": None},
                "weights 'some_tag' .*",
                r"weights those of the package \(fingerprint 0123456789ab\)",
            ),
            ({"taps": "block", "layers": (4,)}, r"layers \[1, 2, 3, 4\], taps reference", r"layers \[4\], taps block"),
        ],
    )
    def test_every_mismatch_names_both_sides(self, heads, metadata, backbone, change, ours, theirs):
        message = (
            f"^Expected heads to be made for what this model has: {ours}; "
            rf"but got heads made for {theirs} \(FILE\). Set the model up as"
        )
        with pytest.raises(ValueError, match=message):
            check_heads(heads, dataclasses.replace(metadata, **change), backbone, LAYERS, "reference", "FILE")

    @pytest.mark.parametrize("with_metadata", [False, True])
    @pytest.mark.parametrize("name", ["width", "embed_dim"])
    def test_shapes(self, metadata, backbone, name, with_metadata):
        shape = {"width": 32, "embed_dim": 24}
        message = f"model has: {name} {shape[name]}; but got heads made for {name} 9"
        with pytest.raises(ValueError, match=message):
            check_heads(
                LinearHeads(**{**shape, name: 9}),
                metadata if with_metadata else None,
                backbone,
                LAYERS,
                "reference",
                "FILE",
            )

    def test_number_of_layers_without_metadata(self, heads, backbone):
        with pytest.raises(
            ValueError, match="model has: number of layers 3; but got heads made for number of layers 4"
        ):
            check_heads(heads, None, backbone, LAYERS[:3], "reference", "FILE")

    def test_taps_without_metadata_are_those_of_the_authors(self, heads, backbone):
        with pytest.raises(ValueError, match="model has: taps block; but got heads made for taps reference"):
            check_heads(heads, None, backbone, LAYERS, "block", "FILE")

    def test_what_is_assumed_without_metadata_is_logged(self, heads, backbone, caplog):
        with caplog.at_level(logging.WARNING):
            check_heads(heads, None, backbone, LAYERS, "reference", "FILE")
        (record,) = caplog.records
        assert record.message == (
            "FILE does not say what its heads were made for. It is taken for one of the authors' files, made for "
            "ViT-B-16-plus-240 with the weights laion400m_e31 and taps='reference', and used with ViT-tiny, "
            "pretrained='some_tag', layers [1, 2, 3, 4]. Only shapes could be checked."
        )
