# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""A real browser without a window and without network, and what a page does in it."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


def find_browser() -> str | None:
    """Path of a browser of this machine."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class Visit:
    """A page in a browser, with all that it complains of and all that it asks for."""

    def __init__(self, page: Page, path: Path) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(path.as_uri())

    def all(self, selector: str, script: str) -> list[Any]:
        """What a script says of each element."""
        return self.page.eval_on_selector_all(selector, f"elements => elements.map({script})")

    def outside(self) -> list[str]:
        """Requests for anything that is not the file itself or inside it."""
        return [url for url in self.requests if not url.startswith(("file:", "data:"))]

    def broken_pictures(self) -> list[str]:
        self.page.wait_for_function("[...document.images].every(image => image.complete)")
        return self.all("img", "i => i.naturalWidth > 0 ? null : i.alt + i.src.slice(0, 40)")

    def pixels(self) -> np.ndarray:
        """What is on the screen, (H, W, 3)."""
        return np.asarray(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"))


def is_blank(pixels: np.ndarray) -> bool:
    """Whether hardly any pixel differs from the most common brightness."""
    brightness = pixels.mean(axis=2).astype(int)
    return np.mean(brightness == np.bincount(brightness.ravel()).argmax()) > 0.995
