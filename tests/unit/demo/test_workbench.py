# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What the page of the demo does, without a browser."""

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from anomalib_clipad.demo import workbench as module
from anomalib_clipad.demo.command import make_model, serve
from anomalib_clipad.demo.page import describe, readable
from anomalib_clipad.demo.pictures import overlay, thumbnail
from anomalib_clipad.demo.samples import draw_samples, list_samples
from anomalib_clipad.demo.workbench import Workbench, split_states
from anomalib_clipad.prediction.regions import Region
from tiny import make_engine, sdp, sdp_plus

STATES = ("perfect {}\n\n {} without flaw ", "torn {}, {} with a burr")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for number in range(4):
        pixels = generator.integers(0, 255, (60, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return [str(path) for path in sorted(folder.iterdir())]


@pytest.fixture
def bench():
    return Workbench(sdp(), max_megapixels=1)


def test_scores_are_those_of_a_model_with_these_words(bench, photos):
    scored = bench.score(photos[0], "gasket", *STATES)

    states = {"normal_states": ["perfect {}", "{} without flaw"], "anomalous_states": ["torn {}", "{} with a burr"]}
    [expected] = sdp(prompts={"extends": "industrial", **states}).predict(photos[0], class_name="gasket")
    assert scored.prediction.pred_score == pytest.approx(expected.pred_score, abs=1e-6)
    torch.testing.assert_close(scored.prediction.anomaly_map, expected.anomaly_map, atol=1e-6, rtol=0)


def test_good_images_are_compared_with(bench, photos):
    [expected] = (
        sdp(prompts={"extends": "industrial", "normal_states": ["good {}"], "anomalous_states": ["bad {}"]})
        .remember(photos[1:3], class_name="nut")
        .predict(photos[0], class_name="nut")
    )
    scored = bench.score(photos[0], "nut", "good {}", "bad {}", photos[1:3])
    assert scored.prediction.pred_score == pytest.approx(expected.pred_score, abs=1e-6)
    assert scored.prediction.evidence == "text, references (2)"
    assert len(bench.clipad.model.memory) == 0


def test_an_image_is_seen_once_until_many_others_were(bench, photos, monkeypatch):
    monkeypatch.setattr(module, "KEPT_IMAGES", 2)
    small = Workbench(bench.clipad, 1)

    def seen(path, name="nut"):
        return small.score(path, name, *STATES).seeing > 0

    assert seen(photos[0])
    assert not seen(photos[0], "bolt")
    assert [seen(path) for path in photos[1:3]] == [True, True]
    assert seen(photos[0])


def test_what_cannot_be_scored_is_said(bench, photos, tmp_path):
    large = tmp_path / "large.png"
    Image.new("RGB", (1100, 1000)).save(large)
    with pytest.raises(ValueError, match=r"at most 1 megapixels, but got large\.png of 1100 x 1000 pixels"):
        bench.score(str(large), "nut", *STATES)
    with pytest.raises(ValueError, match="Expected at most 8 references, but got 9"):
        bench.score(photos[0], "nut", *STATES, [photos[1]] * 9)
    with pytest.raises(ValueError, match="Expected class_name to be a string that is not blank"):
        bench.score(photos[0], " ", *STATES)
    with pytest.raises(ValueError, match="Expected anomalous_states to be a list with at least one"):
        bench.score(photos[0], "nut", "perfect {}", " \n")
    with pytest.raises(ValueError, match="above 0, but got 0"):
        Workbench(bench.clipad, 0)


def test_errors_are_shown_without_folders_and_markup():
    error = ValueError("Expected <b> in /tmp/secret/a.png & /tmp/secret/b.png")
    assert readable(error, ["/tmp/secret/a.png", "/tmp/secret/b.png"]) == "Expected &lt;b&gt; in a.png &amp; b.png"


def test_the_summary_says_what_the_score_rests_on(bench, photos):
    assert describe(None) == "### No image yet"
    first, again = (describe(bench.score(photos[0], "nut", *STATES)) for _ in range(2))
    assert "**Not calibrated**" in first
    assert "Rests on: text." in first
    assert "The tower saw the image in" in first
    assert "The tower did not run" in again
    own = ("\n".join(states) for states in bench.states)
    bench.clipad.calibrate([np.random.default_rng(n).random((3, 60, 90)) for n in range(20)], class_name="nut")
    assert "Calibrated for this class." in describe(bench.score(photos[0], "nut", *own))


@pytest.mark.parametrize("side", [90, 2000])
def test_the_map_lies_over_the_photograph(bench, tmp_path, side):
    pixels = np.random.default_rng(0).integers(0, 255, (side * 2 // 3, side, 3), dtype=np.uint8)
    path = str(tmp_path / "photo.png")
    Image.fromarray(pixels).save(path)
    prediction = Workbench(bench.clipad, 10).score(path, "nut", *STATES).prediction

    width, height = {90: (640, 427), 2000: (1024, 682)}[side]
    plain = np.asarray(overlay(path, prediction, 0.0))
    assert plain.shape == (height, width, 3)
    np.testing.assert_array_equal(plain, np.asarray(Image.open(path).resize((width, height))))

    # Where the map is highest, nothing but its colour is left; where it is lowest, the photograph.
    over = np.asarray(overlay(path, prediction, 1.0))
    plane = np.asarray(
        Image.fromarray(prediction.anomaly_map.numpy()).resize((width, height), Image.Resampling.BILINEAR)
    )
    highest, lowest = (np.unravel_index(place, plane.shape) for place in (plane.argmax(), plane.argmin()))
    np.testing.assert_allclose(over[highest], np.array(colormaps["turbo"](1.0))[:3] * 255, atol=12)
    np.testing.assert_allclose(over[lowest], plain[lowest], atol=6)

    region = Region((side // 2, 10, side // 4, 20), 1, 0.9, 0.9)
    boxed = np.asarray(overlay(path, prediction, 0.0, [region]))
    for edge in (side // 2, side // 2 + side // 4):
        x = round(edge * width / side)
        assert (boxed[round(20 * width / side), x - 2 : x + 3] == 255).all(axis=1).any()
    assert (boxed != plain).any(axis=2).mean() < 0.05


def test_samples_are_drawn_or_listed(tmp_path, photos):
    drawn = draw_samples(tmp_path)
    assert len(drawn) == len({sample.path for sample in drawn}) == 8
    assert {"gear", "brushed metal"} < {sample.class_name for sample in drawn}
    assert thumbnail(drawn[0].path).size == (160, 160)

    (tmp_path / "broken.png").write_bytes(b"no image")
    listed = list_samples(tmp_path)
    assert {sample.path for sample in listed} == {sample.path for sample in drawn}
    table = tmp_path / "images.csv"
    table.write_text(f"path,class_name\n{photos[0]},nut\n")
    assert list_samples(table) == [(photos[0], "nut")]
    (tmp_path / "none").mkdir()
    (tmp_path / "none/broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="Expected samples that can be read"):
        list_samples(tmp_path / "none")


def test_states_are_read_line_by_line_and_at_commas():
    assert split_states(STATES[0]) == ["perfect {}", "{} without flaw"]
    assert split_states(STATES[1]) == ["torn {}", "{} with a burr"]


@pytest.mark.parametrize("make", [sdp, lambda **options: sdp_plus(heads="embedded", **options)])
def test_a_checkpoint_says_which_model_it_is_of(make, photos, tmp_path):
    model = make(class_name="nut", visualizer=False)
    engine = make_engine(tmp_path)
    engine.predict(model, data_path=photos[0])
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = make_model(None, None, None, str(tmp_path / "model.ckpt"), None)
    assert type(loaded) is type(model)
    [expected], [actual] = (each.predict(photos[0]) for each in (model, loaded))
    assert actual.pred_score == pytest.approx(expected.pred_score, abs=1e-6)


def test_heads_make_sdp_plus():
    assert make_model("clipad-tiny", None, "embedded", None, None).model.heads is not None
    assert make_model("clipad-tiny", None, None, None, None).model.heads is None
    with pytest.raises(FileNotFoundError, match="Expected checkpoint to be a file, but found none"):
        make_model(None, None, None, "missing.ckpt", None)


def test_arguments_of_the_server_are_checked(monkeypatch):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RuntimeError, match=f"Expected to listen on 127.0.0.1:{port}, but got: .*in use"):
            serve("clipad-tiny", port=port)
    with pytest.raises(ValueError, match="port to be from 1 to 65535, but got 0"):
        serve("clipad-tiny", port=0)
    with pytest.raises(ValueError, match="max_upload_mb to be at least 1, but got 0"):
        serve("clipad-tiny", max_upload_mb=0)
