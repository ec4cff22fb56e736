# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Who is told of images, of which, and what happens when that fails."""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from anomalib_clipad.prediction.table import PredictionRow
from anomalib_clipad.scale.journal import Entry
from anomalib_clipad.scale.notify import SENT_FILE, Command, Outbox, Post

VALUES = {"path": "a {b}; 'c'.png", "class_name": "nut", "score": 0.75, "label": "anomalous", "threshold": 0.5}


def python(script: str) -> str:
    return f'{sys.executable} -c "{script}"'


def test_a_path_is_one_word_of_a_command_whatever_it_holds(tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = f"import sys, pathlib; pathlib.Path('{out}').write_text('|'.join(sys.argv[1:]))"
    Command(python(script) + " {path} score={score:.2f} {{x}} {time}").send(VALUES)
    assert out.read_text() == "a {b}; 'c'.png|score=0.75|{x}|None"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "notify.sh {path}",
            "to begin with a program, but found none for 'notify.sh {path}'. It is run without a shell",
        ),
        ("", "to begin with a program"),
        ("echo {nmae}", r"to name {path}, .*, but got {nmae}. Write {{ for a brace"),
        ("echo {", "to be a command, but got 'echo {'"),
        ("echo 'a", "to be a command, but got .*No closing quotation"),
    ],
)
def test_wrong_commands_are_refused_before_anything_runs(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Command(template)


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(OSError, match="ended with 3: no bell"):
        Command(python("import sys; print('no bell', file=sys.stderr); sys.exit(3)")).send(VALUES)


def test_a_command_that_hangs_is_ended() -> None:
    with pytest.raises(OSError, match=r"took more than 0.3 seconds and was ended"):
        Command(python("import time; time.sleep(60)"), timeout=0.3).send(VALUES)


@pytest.mark.parametrize("url", ["localhost:8000", "file:///etc/passwd", "http://"])
def test_wrong_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=f"to be an address such as .*, but got '{url}'"):
        Post(url)


class Server(ThreadingHTTPServer):
    """Keeps what it is sent, and answers with the codes that it is given."""

    def __init__(self) -> None:
        self.received: list[dict] = []
        self.answers: list[int] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.received.append(json.loads(body))
                self.send_response(server.answers.pop(0) if server.answers else 200)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/alarm"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_server_gets_json_and_a_second_try(server: Server) -> None:
    values = {**VALUES, "path": "br\udcf6ken ö.png"}
    server.answers = [503]
    Post(server.url, pause=0).send(values)
    assert server.received == [values, values]
    server.answers = [503, 500]
    with pytest.raises(OSError, match="500"):
        Post(server.url, pause=0).send(values)


class Ear:
    """A target that keeps what it hears, and fails as often as it is told to."""

    name = "ear"

    def __init__(self, failures: int = 0) -> None:
        self.heard: list[int] = []
        self.failures = failures

    def send(self, values: dict) -> None:
        self.heard.append(values["position"])
        if self.failures:
            self.failures -= 1
            raise OSError("nobody there")


def entries(*names: tuple[str, ...]) -> list[Entry]:
    return [Entry(PredictionRow(f"{i}.png", position=i), notify=each) for i, each in enumerate(names)]


def told(folder: Path, *targets: Ear, due: list[Entry]) -> None:
    outbox = Outbox(folder, targets)
    outbox.put(due)
    outbox.close()
    assert outbox.failure is None


def test_who_was_told_is_not_told_again_and_what_failed_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    due = entries(("ear",), (), ("ear",), ("other",))
    first, second, third = Ear(failures=1), Ear(), Ear()
    told(tmp_path, first, due=due)
    assert first.heard == [0, 2]
    assert "Telling ear of 0.png failed: nobody there. The next start tries again." in caplog.text
    told(tmp_path, second, due=due)
    assert second.heard == [0]
    told(tmp_path, third, due=due)
    assert third.heard == []


def test_what_was_not_sent_before_the_end_is_due_at_the_next_start(tmp_path: Path) -> None:
    gate = threading.Event()

    class Slow(Ear):
        def send(self, values: dict) -> None:
            super().send(values)
            gate.wait(10)

    slow, due = Slow(), entries(("ear",), ("ear",))
    outbox = Outbox(tmp_path, [slow])
    outbox.put(due)
    outbox.close(patience=0.1)
    gate.set()
    outbox.close()
    assert slow.heard == [0]
    ear = Ear()
    told(tmp_path, ear, due=due)
    assert ear.heard == [1]


def test_a_full_disk_is_no_secret(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, [Ear()])
    (tmp_path / SENT_FILE).unlink()
    (tmp_path / SENT_FILE).mkdir()  # cannot be appended to
    outbox.put(entries(("ear",)))
    outbox.close()
    assert isinstance(outbox.failure, OSError)
