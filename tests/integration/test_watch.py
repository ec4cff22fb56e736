# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""`anomalib-clipad watch` as people use it, and as machines end it."""

import csv
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import layouts
from anomalib_clipad.prediction.page import PAGE_FILE
from browser import Visit
from tiny import BACKBONE
from videos import RATE, write_video
from watching import Watching

pytestmark = pytest.mark.slow
pytest.importorskip("watchdog")

MODEL = ("--model", "anomalib_clipad.SDP", "--model.backbone", BACKBONE, "--model.class_name", "gasket")
# Between the scores of the images of the tests, good and bad.
SENSITIVITY = ("--model.post_processor", "anomalib_clipad.CategoryPostProcessor")
SENSITIVITY += ("--model.post_processor.image_sensitivity", "0.2635")


@pytest.fixture
def watch(tmp_path: Path) -> Watching:
    return Watching(tmp_path)


@pytest.fixture
def alarms(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[dict]]]:
    """Address of a server, and what it has received."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    received: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/alarm", received
        server.shutdown()
        thread.join()


def lines(output: Path) -> list[dict]:
    path = output / "predictions.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def table(output: Path) -> list[dict[str, str]]:
    with (output / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def shown(output: Path) -> list[dict]:
    text = (output / PAGE_FILE).read_text(encoding="utf-8").partition('id="data">')[2].partition("</script>")[0]
    return json.loads(text)["images"]


def names(rows: list[dict], key: str = "path") -> list[str]:
    return [Path(row[key]).name for row in rows]


def test_a_folder_fills_up(
    tmp_path: Path, watch: Watching, alarms: tuple[str, list[dict]], open_page: Callable[..., Visit]
) -> None:
    url, received = alarms
    photos, output, drafts = tmp_path / "photos", tmp_path / "out", tmp_path / "drafts"
    layouts.write_images(photos, 2)
    layouts.write_images(drafts, 2, anomalous=True, seed=10, suffix=".bmp")
    script = "import sys; open('bell', 'a').write(sys.argv[1] + chr(10))"
    bell = f'{sys.executable} -c "{script}" {{path}}'
    options = ("--settle", "3", "--refresh", "0.5", "--post", url, "--command", bell)
    process = watch.start("photos", "--output", "out", *MODEL, *SENSITIVITY, *options, no_proxy="127.0.0.1")
    try:
        watch.wait_for(lambda: len(lines(output)) == 2)
        (photos / "line_2").mkdir()
        (drafts / "001.bmp").rename(photos / "line_2/moved.bmp")
        (photos / "text.txt").write_text("no image")
        watch.wait_for(lambda: len(lines(output)) == 3)
        whole = (drafts / "000.bmp").read_bytes()
        torn = photos / "torn.bmp"
        torn.write_bytes(whole[:2000])
        time.sleep(0.5)  # who writes it closes it in between: it is tried, and once more after it has settled
        with torn.open("ab") as file:
            file.write(whole[2000:])
        watch.wait_for(lambda: len(lines(output)) == 4)
        (photos / "broken.png").write_bytes(b"never an image")
        watch.wait_for(lambda: len(lines(output)) == 5)
        watch.wait_for(lambda: "broken.png" in (output / PAGE_FILE).read_text(encoding="utf-8"))
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)

    assert code == 1, watch.printed()  # one could not be read
    found = lines(output)
    assert names(found) == ["000.png", "001.png", "moved.bmp", "torn.bmp", "broken.png"]
    assert [row["label"] for row in found] == ["normal", "normal", "anomalous", "anomalous", None]
    assert found[-1]["error"] == "not an image, or of an unknown format"
    assert names(table(output)) == names(found)
    assert [row["position"] for row in received] == [2, 3]
    assert received[0] == {"position": 2, **found[2]}
    assert names([{"path": line} for line in (tmp_path / "bell").read_text().splitlines()]) == ["moved.bmp", "torn.bmp"]
    assert "5 images done, 1 of them could not be read. See out/report.html." in watch.printed()
    seen = open_page(output / PAGE_FILE)
    assert seen.page.locator(".card").count() == 4
    assert not any(seen.broken_pictures())
    assert seen.complaints == []
    assert seen.outside() == []


@pytest.mark.parametrize(
    ("fault", "done"),
    [
        ("killed before the line", 2),
        ("killed within the line", 3),
        ("killed after the line", 4),
        ("killed before it is noted who was told", None),
    ],
)
def test_killed_and_restarted_nothing_is_lost_and_nothing_done_twice(
    tmp_path: Path, watch: Watching, alarms: tuple[str, list[dict]], fault: str, done: int | None
) -> None:
    url, received = alarms
    photos, output = tmp_path / "photos", tmp_path / "out"
    layouts.write_images(photos, 6, anomalous=True)
    (photos / "broken.png").write_bytes(b"")
    arguments = ("photos", "--output", "out", "--once", "--batch_size", "2", "--settle", "0.2", "--post", url, *MODEL)

    assert watch(*arguments, fault=fault) == -signal.SIGKILL
    before = lines(output)
    assert done is None or len(before) == done
    assert watch(*arguments) == 1, watch.printed()  # broken.png
    assert watch(*arguments) == 0, watch.printed()

    after = lines(output)
    assert after[: len(before)] == before
    assert sorted(names(after)) == [f"{number:03d}.png" for number in range(6)] + ["broken.png"]
    assert sorted(names(table(output))) == sorted(names(after))
    assert sorted(names(shown(output), "n")) == sorted(names(after))[:6]
    assert all((output / image[key]).is_file() for image in shown(output) for key in ("f", "m"))
    told = [row["position"] for row in received]
    assert {*told} == {number for number, row in enumerate(after) if row["label"] == "anomalous"}
    twice = 1 if "told" in fault else 0  # at least once: nobody can know whether it came through
    assert len(told) == len({*told}) + twice
    assert [path for path in output.iterdir() if path.name.startswith(".draft-")] == []


def test_a_full_disk_keeps_what_is_done_and_says_so(tmp_path: Path, watch: Watching) -> None:
    layouts.write_images(tmp_path / "photos", 9, anomalous=True)
    arguments = ("photos", "--output", "out", "--once", "--batch_size", "2", "--settle", "0", *MODEL)
    arguments += ("--model.page", "false")

    assert watch(*arguments, fault="the disk is full") == 1, watch.printed()
    done = len(lines(tmp_path / "out"))
    assert 0 < done < 9
    assert f"File too large: {done} images are done and kept. Make room, and start the same command" in watch.printed()
    assert "Traceback" not in watch.printed()

    assert watch(*arguments) == 0, watch.printed()
    assert sorted(names(lines(tmp_path / "out"))) == [f"{number:03d}.png" for number in range(9)]


def test_other_settings_damaged_files_and_a_second_process_are_refused(tmp_path: Path, watch: Watching) -> None:
    layouts.write_images(tmp_path / "photos", 1)
    arguments = ("photos", "--output", "out", "--settle", "0")
    (tmp_path / "model.ckpt").write_bytes(b"damaged")
    assert watch(*arguments, *MODEL, "--once", "--ckpt_path", "model.ckpt") == 2
    assert "model.ckpt" in watch.printed()
    assert "Traceback" not in watch.printed()
    process = watch.start(*arguments, *MODEL)  # the damaged file is no setting of the output
    try:
        watch.wait_for(lambda: len(lines(tmp_path / "out")) == 1)
        second = Watching(tmp_path)
        assert second(*arguments, *MODEL, "--once") == 2
        assert "another process writes to out. Choose another one." in second.printed()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        code = process.wait(30)
    assert code == 0
    assert watch(*arguments, *MODEL[:-1], "nut", "--once") == 2
    assert "model.class_name is nut, was gasket. Choose another output" in watch.printed()
    assert len(lines(tmp_path / "out")) == 1


def test_a_video_is_scored_and_gone_on_with(tmp_path: Path, watch: Watching, open_page: Callable[..., Visit]) -> None:
    clip, output = write_video(tmp_path / "clip.avi", 41, anomalous=frozenset({20})), tmp_path / "out"
    arguments = ("--input", "clip.avi", "--every", "5", "--output", "out", "--batch_size", "2", *MODEL)

    assert watch(*arguments, fault="killed within the line") == -signal.SIGKILL
    assert len(lines(output)) == 3
    assert watch(*arguments) == 0, watch.printed()
    assert watch(*arguments) == 0, watch.printed()

    found = lines(output)
    numbers = range(0, 41, 5)
    assert [row["path"] for row in found] == [f"{clip}#{number:06d}" for number in numbers]
    assert [row["time"] for row in found] == [number / RATE for number in numbers]
    seen = open_page(output / PAGE_FILE)
    assert seen.page.locator(".card").count() == len(found)
    assert not any(seen.broken_pictures())
    assert seen.complaints == []
