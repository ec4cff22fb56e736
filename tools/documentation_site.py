# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Hooks of MkDocs and mkdocstrings, see mkdocs.yml: the site is the repository's own pages, each at its path there.

So a relative link leads to the same page on the site as where the repository is read, and MkDocs, in its strict mode,
checks all of them. Nothing is copied or rewritten, but for what would ask a server for something.
"""

import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Pages and pictures, and what pages link to.
SHOWN = (
    "*.md",
    "CITATION.cff",
    "LICENSE",
    "docs/*",
    "docs/images/*",
    "configs/*.yaml",
    "src/anomalib_clipad/**/*.py",
    "src/anomalib_clipad/clip/embedded/README.md",
    "tests/unit/**/*.py",
    "tests/integration/*.py",
)


def on_config(config: MkDocsConfig) -> None:
    """Take this project's own shim for search in a page opened as a file, not the one that the theme downloads."""
    config.extra["polyfills"] = ["docs/iframe_worker.js"]


@event_priority(100)  # before plugins look at the pages
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put the repository's files in place of those of one folder."""
    found = sorted({path for pattern in SHOWN for path in ROOT.glob(pattern) if path.is_file()})
    shown = [
        File(path.relative_to(ROOT).as_posix(), str(ROOT), config.site_dir, config.use_directory_urls) for path in found
    ]
    return Files([*(file for file in files if file.src_dir != config.docs_dir), *shown])


def on_page_content(html: str, page: Page, **_: Any) -> str:
    """Mend notebooks: they ask a server for MathJax, and their links lead to sources."""
    if page.file.src_uri.endswith(".ipynb"):
        html = re.sub(r'<script[^>]+src="https?:.*?</script>', "", html, flags=re.DOTALL)
        html = re.sub(r'(<a href="[\w./]+)\.md"', r'\1.html"', html)
    return html


class Docstrings(griffe.Extension):
    """Words of docstrings that the parser does not know."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Name the section of examples as the parser does, and leave out the roles of Sphinx."""
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r":(?:class|func|meth|mod):`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text)
