# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The demo as people use it: the command in one process, a real browser before it, and no network."""

import io
import json
import os
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

import warm
from anomalib_clipad import SDP, demo
from anomalib_clipad.data.synthetic.render import photograph
from anomalib_clipad.prediction.predictions import Prediction
from tiny import ON_TINY

pytestmark = pytest.mark.slow

ON_TINY_DEMO = tuple(option.replace("--model.", "--") for option in ON_TINY)
COMMAND = (sys.executable, "-m", "anomalib_clipad.cli", "demo")
START_S, SCORE_MS = 180, 60_000


class Visit:
    """A page in a browser, with all that it complains of and all that it asks for."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.outside: list[str] = []
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._note(request.url, address))
        page.goto(address)
        self.summary = page.locator("#summary")
        expect(self.summary).to_contain_text("No image yet", timeout=SCORE_MS)

    def _note(self, url: str, address: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            self.outside.append(url)

    def drop(self, path: Path) -> None:
        self.page.locator("#image input[type=file]").set_input_files(path)

    def type(self, field: str, text: str) -> None:
        self.page.locator(f"#{field} :is(textarea, input)").first.fill(text)

    def expect_score(self, prediction: Prediction) -> None:
        """Wait for the score of a prediction."""
        expect(self.page.locator("#summary h2")).to_contain_text(f"{prediction.pred_score:.3f}", timeout=SCORE_MS)

    def map(self) -> np.ndarray:
        """Pixels of the picture that is shown."""
        picture = self.page.locator("#map img")
        expect(picture).to_be_visible(timeout=SCORE_MS)
        with urllib.request.urlopen(str(picture.get_attribute("src"))) as answer:
            return np.asarray(Image.open(io.BytesIO(answer.read())).convert("RGB"), dtype=float)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the command would leave text vectors."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[str]:
    """The command, running on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "ANOMALIB_CLIPAD_CACHE": str(cache),
        "GRADIO_TEMP_DIR": str(tmp_path_factory.mktemp("uploads")),
    }
    options = ("--port", str(port), "--max_upload_mb", "1", "--max_megapixels", "1")
    process = warm.Running([*COMMAND, *ON_TINY_DEMO, *options], env=environment)
    try:
        deadline = time.monotonic() + START_S
        while f"Open http://127.0.0.1:{port}/" not in process.printed():
            assert process.poll() is None, process.printed()
            assert time.monotonic() < deadline, process.printed()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/"
        assert process.poll() is None, process.printed()
        assert f'File "{Path(demo.__file__).parent}' not in process.printed()  # Gradio logs what it refuses itself
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    page = browser.new_page(viewport={"width": 1200, "height": 1000})
    yield Visit(page, address)
    page.close()


@pytest.fixture(scope="module")
def gear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "gear.png"
    Image.fromarray(photograph(np.random.default_rng(3), "gear", "crack", 320)[0]).save(path)
    return path


def test_an_image_is_scored_and_scored_again_under_other_words(visit: Visit, gear: Path, cache: Path):
    encoded, words = SDP("clipad-tiny").encode(gear), {"anomalous_states": ["torn {}", "{} with a burr"]}
    expected = [encoded.predict("gear"), encoded.predict("gear", **words), encoded.predict("washer", **words)]
    assert len({f"{each.pred_score:.3f}" for each in expected}) == 3

    visit.type("class-name", "gear")
    visit.drop(gear)
    visit.expect_score(expected[0])
    first = visit.map()
    assert np.abs(first - first.mean(axis=(0, 1))).max() > 50
    for region in expected[0].regions[:10]:
        expect(visit.page.locator("#regions")).to_contain_text(str(region.area))

    visit.type("anomalous", "torn {}, {} with a burr")
    visit.page.locator("#score").click()
    visit.expect_score(expected[1])
    assert "The tower did not run" in visit.summary.inner_text()
    assert np.abs(visit.map() - first).max() > 5

    visit.type("class-name", "washer")
    visit.page.locator("#class-name :is(textarea, input)").first.press("Enter")
    visit.expect_score(expected[2])
    assert visit.complaints == []
    assert visit.outside == []
    assert list(cache.rglob("*.safetensors")) == []


def test_a_sample_is_chosen_with_its_name_and_compared_with_a_good_image(visit: Visit, gear: Path):
    visit.page.locator("#samples button").nth(1).click()
    expect(visit.page.locator("#summary h2")).to_be_visible(timeout=SCORE_MS)
    assert visit.page.locator("#class-name :is(textarea, input)").first.input_value() == "screw"
    assert "Rests on: text." in visit.summary.inner_text()

    visit.page.locator("#few-shot button").first.click()
    visit.page.locator("#references input[type=file]").set_input_files(gear)
    expect(visit.summary).to_contain_text("Rests on: text, references (1)", timeout=SCORE_MS)
    assert visit.complaints == []
    assert visit.outside == []


@pytest.mark.parametrize("kind", ["words", "broken", "pixels", "bytes"])
def test_what_cannot_be_scored_is_said_in_a_sentence(visit: Visit, gear: Path, tmp_path: Path, kind: str):
    path, expected = gear, "Expected every entry of anomalous_states to be a string with exactly one {}, but got 'torn'"
    if kind == "words":
        visit.type("anomalous", "torn")
    elif kind == "broken":
        path, expected = tmp_path / "broken.png", "broken.png: not an image"
        path.write_bytes(b"no image")
    elif kind == "pixels":
        path, expected = tmp_path / "large.png", "at most 1 megapixels, but got large.png of 1100 x 1000 pixels"
        Image.new("RGB", (1100, 1000)).save(path)
    else:
        path, expected = tmp_path / "heavy.png", "maximum"
        noise = np.random.default_rng(0).integers(0, 255, (700, 700, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    visit.drop(path)
    expect(visit.page.locator(".toast-wrap")).to_contain_text(expected, timeout=SCORE_MS)
    assert visit.outside == []


def test_a_file_of_the_server_is_not_an_upload(address: str, gear: Path):
    """Only what was uploaded, or is a sample, is read; not what a request names."""
    with urllib.request.urlopen(f"{address}config") as answer:
        config = json.load(answer)
    [scoring] = [each for each in config["dependencies"] if len(each["outputs"]) == 3]
    file = {"path": str(gear), "meta": {"_type": "gradio.FileData"}}
    session = "abc"
    data = {
        "data": [file, "gear", "good {}", "bad {}", None, 0.5],
        "fn_index": scoring["id"],
        "session_hash": session,
    }
    request = urllib.request.Request(
        f"{address}gradio_api/queue/join", json.dumps(data).encode(), {"Content-Type": "application/json"}
    )
    try:
        urllib.request.urlopen(request).read()
        with urllib.request.urlopen(f"{address}gradio_api/queue/data?session_hash={session}", timeout=60) as stream:
            said = stream.read().decode()
    except OSError as error:
        said = str(error)
    assert "anomalous" not in said
    assert "normal" not in said
    assert '"success":true' not in said.replace(" ", "")


def test_the_command_names_its_arguments():
    process = warm.run([*COMMAND, "--port", "0", *ON_TINY_DEMO])
    assert process.returncode == 2
    assert "Expected port to be from 1 to 65535, but got 0." in process.stderr
    assert "Traceback" not in process.stderr
