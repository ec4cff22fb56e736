# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of commands share."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from browser import BROWSERS, OPTIONS, Visit, find_browser
from terminal import SameProcess, Terminal


@pytest.fixture
def anomalib(tmp_path: Path) -> Terminal:
    """A terminal in an empty folder."""
    return Terminal(tmp_path)


@pytest.fixture
def same_process(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> SameProcess:
    """The same, but in this process: for commands that other tests type in a terminal."""
    return SameProcess(tmp_path, monkeypatch, capfd, caplog)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for each file of tests: what other tests fork meanwhile would hold the pipe by which it is ended."""
    executable = find_browser()
    if executable is None:
        refuse = pytest.fail if os.environ.get("CI") else pytest.skip
        refuse(f"Expected a browser to look at pages with, but got none of {', '.join(BROWSERS)} on the PATH.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Opens a page from a file; options are those of a browser context."""
    contexts = []

    def open_file(path: Path, **options: Any) -> Visit:
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}))
        return Visit(contexts[-1].new_page(), path)

    yield open_file
    for context in contexts:
        context.close()
