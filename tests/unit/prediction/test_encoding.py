# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Images encoded once and scored under many words, against ``predict``, which does both anew."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_clipad import SDP
from anomalib_clipad.prediction import encoded_image
from anomalib_clipad.prediction.predictions import Prediction
from tiny import sdp, sdp_plus

STATES = {"normal_states": ["perfect {}", "{} without flaw"], "anomalous_states": ["torn {}", "{} with a burr"]}
OTHER = {**STATES, "anomalous_states": ["torn {}", "wet {}"]}


def photo(seed: int, height: int = 100, width: int = 140) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def assert_same(actual: Prediction, expected: Prediction) -> None:
    torch.testing.assert_close(actual.anomaly_map, expected.anomaly_map, atol=1e-6, rtol=0)
    assert actual.pred_score == pytest.approx(expected.pred_score, abs=1e-6)
    assert torch.equal(actual.pred_mask, expected.pred_mask)
    for name in ("class_name", "label", "threshold", "calibrated", "evidence", "original_size", "box"):
        assert getattr(actual, name) == getattr(expected, name), name
    assert [region.box for region in actual.regions] == [region.box for region in expected.regions]


def calibrated() -> SDP:
    return sdp().calibrate([photo(seed) for seed in range(20)], class_name="nut")


MODELS: dict[str, Callable[[], SDP]] = {
    "SDP": sdp,
    "SDP+": lambda: sdp_plus(heads="embedded"),
    "calibrated": calibrated,
    "references": lambda: sdp().remember([photo(1), photo(2)], class_name="nut"),
    "SDP+ with references": lambda: sdp_plus(heads="embedded").remember([photo(1)], class_name="nut"),
    "scales": lambda: sdp(scales=[48, 96]),
    "padding": lambda: sdp(resize="pad"),
    "tiles": lambda: sdp(tiles={"size": 96, "overlap": 0.25}),
    "tiles with references": lambda: sdp(tiles={"size": 96}).remember([photo(1)], class_name="nut"),
    "tiles alone, SDP+": lambda: sdp_plus(heads="embedded", tiles={"size": 96, "whole": False}),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("name", ["nut", "never heard of"])
def test_an_encoded_image_is_scored_as_by_predict(make, name):
    clipad, image = make(), photo(0, 150, 260)
    encoded = clipad.encode(image)
    known = list(clipad.class_names)

    before = encoded.predict(name)
    assert clipad.class_names == known  # predict, which follows, makes the class known

    [expected] = clipad.predict(image, class_name=name)
    assert_same(before, expected)
    assert_same(encoded.predict(name), expected)


@pytest.mark.parametrize("make", [sdp, lambda: sdp_plus(heads="embedded")])
def test_other_states_score_as_a_model_made_with_them(make):
    encoded = make().encode(photo(0))

    [expected] = type(encoded._clipad)(
        "clipad-tiny",
        prompts={"extends": "industrial", **STATES},
        **({} if make is sdp else {"heads": "embedded"}),
    ).predict(photo(0), class_name="nut")

    assert_same(encoded.predict("nut", **STATES), expected)
    assert encoded.predict("nut").pred_score != pytest.approx(expected.pred_score, abs=1e-4)


def test_references_of_a_call_score_as_those_that_a_model_remembers():
    clipad = sdp().remember([photo(5)], class_name="nut")
    encoded, good = clipad.encode(photo(0)), [clipad.encode(photo(seed)) for seed in (1, 2)]
    [remembering] = sdp().remember([photo(1), photo(2)], class_name="nut").predict(photo(0), class_name="nut")
    [by_text] = sdp().predict(photo(0), class_name="nut")

    assert_same(encoded.predict("nut", references=good), remembering)
    assert_same(encoded.predict("nut", references=[]), by_text)
    assert encoded.predict("nut").evidence == "text, references (1)"
    assert clipad.model.memory.n_images(0) == 1


def test_only_the_models_own_words_and_references_are_calibrated():
    clipad = calibrated()
    encoded = clipad.encode(photo(0))
    prompts = clipad.collaborators.text_engine.prompts

    assert encoded.predict("nut").calibrated
    assert encoded.predict("nut", anomalous_states=list(prompts.anomalous_states)).calibrated
    assert not encoded.predict("nut", **STATES).calibrated
    assert not encoded.predict("bolt").calibrated
    assert not encoded.predict("nut", references=[clipad.encode(photo(1))]).calibrated


def test_words_that_are_tried_leave_nothing_behind(tmp_path):
    clipad = sdp(text_cache_dir=str(tmp_path)).calibrate([photo(seed) for seed in range(20)], class_name="nut")
    state = {key: value.clone() for key, value in tensors(clipad).items()}
    files = sorted(tmp_path.iterdir())
    encoded = clipad.encode(photo(0))

    for name in ("nut", "bolt", "gear"):
        encoded.predict(name, **STATES, references=[encoded])

    assert clipad.class_names == ["nut"]
    assert sorted(tmp_path.iterdir()) == files
    # The host's own ranges, which nobody uses, are NaN.
    torch.testing.assert_close(tensors(clipad), state, atol=0, rtol=0, equal_nan=True)


def tensors(clipad: SDP) -> dict[str, torch.Tensor]:
    """What a model learns from images and words."""
    grown = ("model.texts", "model.memory", "post_processor")
    return {key: value for key, value in clipad.state_dict().items() if key.startswith(grown)}


@pytest.fixture
def work(monkeypatch) -> dict[str, int]:
    """How often the tower was run, and how many prompts were encoded."""
    from anomalib_clipad.clip import prompt_encoder
    from anomalib_clipad.scoring import torch_model

    done = {"tower": 0, "prompts": 0}

    def count(module, name, of, size):
        function = getattr(module, name)

        def counted(*arguments, **options):
            done[of] += size(*arguments)
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, counted)

    count(torch_model, "surgery_tokens", "tower", lambda *_: 1)
    count(prompt_encoder, "encode_tokens", "prompts", lambda _, tokens: len(tokens))
    return done


def test_only_what_is_new_is_encoded(work):
    encoded = sdp(text_cache_dir=False).encode(photo(0))
    templates = 22
    seen = {}
    for step, (name, states) in {
        "first": ("nut", STATES),
        "again": ("nut", STATES),
        "one state": ("nut", OTHER),
        "back": ("nut", STATES),
        "another class": ("bolt", STATES),
    }.items():
        before = dict(work)
        encoded.predict(name, **states)
        seen[step] = (work["tower"] - before["tower"], (work["prompts"] - before["prompts"]) // templates)

    assert seen == {"first": (0, 4), "again": (0, 0), "one state": (0, 1), "back": (0, 0), "another class": (0, 4)}
    assert work["tower"] == 1


def test_files_and_pillow_images_are_encoded(tmp_path: Path):
    Image.fromarray(photo(0)).save(tmp_path / "a.png")
    clipad = sdp(class_name="nut")
    [expected] = clipad.predict(photo(0))

    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.open(tmp_path / "a.png"), [photo(0)]):
        assert_same(clipad.encode(image).predict(), expected)
    assert clipad.encode(tmp_path / "a.png").predict().path == str(tmp_path / "a.png")
    assert repr(clipad.encode(photo(0))) == "EncodedImage(in memory, 140 x 100 px)"


def test_what_cannot_be_encoded_is_refused(tmp_path: Path):
    clipad = sdp()
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(OSError, match=r"got none\. .*broken\.png: not an image"):
        clipad.encode(tmp_path / "broken.png")
    with pytest.raises(ValueError, match="Expected one image, but got several"):
        clipad.encode([photo(0), photo(1)])
    with pytest.raises(ValueError, match="Expected one image, but got none"):
        clipad.encode([])
    with pytest.raises(TypeError, match="Expected images to be an image or several, but got int"):
        clipad.encode(3)
    with pytest.raises(RuntimeError, match="heads"):
        sdp_plus().encode(photo(0))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"class_name": " "}, "Expected class_name to be a string that is not blank"),
        ({"anomalous_states": ["torn"]}, r"exactly one \{\}, but got 'torn'"),
        ({"normal_states": []}, "Expected normal_states to be a list with at least one string"),
        ({"references": [None]}, "Expected references that this model has encoded"),
    ],
)
def test_words_that_cannot_be_used_are_refused(words, message):
    clipad = sdp()
    encoded = clipad.encode(photo(0))
    if "references" in words:
        words = {"references": [sdp().encode(photo(1))]}
    with pytest.raises(ValueError, match=message):
        encoded.predict(**{"class_name": "nut", **words})


def test_the_pixels_are_not_kept():
    encoded = sdp().encode(photo(0, 600, 800))
    assert isinstance(encoded, encoded_image.EncodedImage)
    assert encoded._image.pixels.numel() == 0
