# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The documentation site: built as by ``make docs``, it asks nothing of other servers, and its links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# What a browser loads by itself, and what it goes to on a click.
LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*?\ssrc=["']?([^"'\s>]+)|<link\b[^>]*?\shref=["']?([^"'\s>]+)"""
)
LINKED = re.compile(r"""<a\b[^>]*?\shref=["']?([^"'\s>]+)""")
OUTSIDE = re.compile(r"(?:[a-z]+:)?//")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a warning ends it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-3000:]
    return folder


def loaded_from_outside(html: str) -> list[str]:
    """What a page would ask another server for."""
    return [url for found in LOADED.findall(html) for url in found if OUTSIDE.match(url)]


def is_there(page: Path, url: str) -> bool:
    """Whether a link of a page leads to a file, and to a place in it; other servers are not asked."""
    address, _, anchor = unquote(url).partition("#")
    if OUTSIDE.match(address) or address.startswith("data:"):
        return True
    target = page.parent / address if address else page
    if not anchor or target.suffix != ".html":
        return target.exists()
    place = rf"""\bid=["']?{re.escape(anchor)}["'\s>]"""
    return target.exists() and bool(re.search(place, target.read_text(encoding="utf-8")))


def dead_links(page: Path, html: str) -> list[str]:
    """Links to files or places in them that are not there."""
    loaded = [url for found in LOADED.findall(html) for url in found if url]
    return [url for url in [*LINKED.findall(html), *loaded] if not is_there(page, url)]


def test_every_page_is_there(site: Path) -> None:
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    sources = {"index"} | {f"docs/{path.stem}" for path in [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/*.ipynb")]}
    assert pages >= {f"{name}.html" for name in sources | {"CHANGELOG", "CONTRIBUTING", "SECURITY"}}


def test_nothing_is_loaded_from_outside(site: Path) -> None:
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert {str(path): found for path, html in pages.items() if (found := loaded_from_outside(html))} == {}
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert [found for css in styles for found in re.findall(r"url\([\"']?((?:https?:)?//[^)]*)", css)] == []


def test_links_lead_somewhere(site: Path) -> None:
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html") if path.name != "404.html"}
    assert {path.name: found for path, html in pages.items() if (found := dead_links(path, html))} == {}


def test_docstrings_are_on_the_api_page(site: Path) -> None:
    html = (site / "docs/api.html").read_text(encoding="utf-8")
    assert "What the images show, one name for all or one for each" in html
    assert ">>>" not in re.sub(r"(?s)<pre.*?</pre>", "", html)
    assert ":class:" not in html


def test_pictures_and_outputs_of_the_tutorial_are_shown(site: Path) -> None:
    html = (site / "docs/tutorial.html").read_text(encoding="utf-8")
    assert len(re.findall(r"<img[^>]+data:image/jpeg", html)) == 2


def test_the_guards_can_fail(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<h1 id="here">')
    assert loaded_from_outside('<script async src="https://cdn.example/x.js"></script><link rel=x href=//a.b/c>') == [
        "https://cdn.example/x.js",
        "//a.b/c",
    ]
    assert dead_links(page, '<a href="page.html#here"></a><a class=x href=none.html></a><a href="#there">') == [
        "none.html",
        "#there",
    ]
