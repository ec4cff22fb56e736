# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""``report.html``: everything that the page of a run shows, as data for its script."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from anomalib_clipad._version import __version__
from anomalib_clipad.base.files import atomic_write
from anomalib_clipad.base.text import printable
from anomalib_clipad.pages.house import templates
from anomalib_clipad.pages.pictures import colour_bar_uri, colour_ramp
from anomalib_clipad.prediction.page.gallery import Gallery, Shown, source
from anomalib_clipad.prediction.table import PredictionRow

PAGE_FILE = "report.html"

_MAX_REGIONS = 20
"""Regions of an image that the page names, the largest ones."""

ProCurves = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""False positive rates and per-region overlap by class."""


def write_page(
    gallery: Gallery, skipped: Iterable[PredictionRow] = (), model: str = "", pro: ProCurves | None = None
) -> Path:
    """Write the page of a run into the folder of its gallery; it appears complete or not at all.

    Args:
        gallery: The images.
        skipped: Rows of files that could not be read.
        model: Name of the model.
        pro: Curves of the per-region overlap, where there are masks.

    Returns:
        Its path.
    """
    gallery.settle()
    path = gallery.folder / PAGE_FILE
    shown = sorted(gallery.shown, key=lambda each: each.row.position)
    rows = [each.row for each in shown]
    low, high = gallery.limits()
    text = (
        templates(Path(__file__).parent)
        .get_template("run.html.jinja")
        .render(
            model=model,
            classes=Counter(str(row.class_name) for row in rows),
            evidence=list(dict.fromkeys(str(row.evidence) for row in rows)),
            calibrated=bool(rows) and all(row.calibrated for row in rows),
            labelled=any(each.anomalous is not None for each in shown),
            data=_json(_data(shown, gallery.folder, pro or {})),
            skipped=[(printable(row.path), row.error) for row in skipped],
            ramp=colour_ramp(low, high),
            colour_bar=colour_bar_uri(),
            version=__version__,
        )
    )
    with atomic_write(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    gallery.remove_unused()
    return path


def _data(shown: Sequence[Shown], folder: Path, pro: ProCurves) -> dict[str, Any]:
    paths = [os.path.abspath(each.row.path) for each in shown if each.row.path]  # noqa: PTH100 - keeps links
    base = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""  # noqa: PTH120 - of strings
    threshold = next((each.row.threshold for each in shown if each.row.threshold is not None), None)
    return {
        "base": base,
        "originals": _relative(base, folder) if base else "",
        "threshold": 0.5 if threshold is None else threshold,
        "sensitivity": threshold is not None,  # whether image_sensitivity moves it
        "images": [_entry(number, each, base) for number, each in enumerate(shown)],
        "pro": {name: [_rounded(values) for values in curve] for name, curve in pro.items()},
    }


def _entry(number: int, shown: Shown, base: str) -> dict[str, Any]:
    row = shown.row
    # Names of one letter: a page of 10,000 images repeats them 10,000 times.
    path = os.path.relpath(os.path.abspath(row.path), base) if row.path else ""  # noqa: PTH100 - keeps links
    return {
        "i": number,
        "n": printable(path) or f"image {row.position}",
        "p": printable(path),
        "u": _address(path) if shown.upright else "",
        "c": row.class_name,
        "s": None if row.score is None else round(row.score, 6),
        "t": shown.anomalous,
        "h": shown.size[0],
        "w": shown.size[1],
        "f": source(shown.photo),
        "m": source(shown.heat),
        "o": shown.outline,
        "g": shown.truth,
        "z": row.original_size,
        "r": [asdict(region) for region in (row.regions or ())[:_MAX_REGIONS]],
    }


def _json(data: Any) -> str:
    """JSON that may stand in a script of a page, whatever names hold."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _address(path: str) -> str:
    return quote(os.fsencode(path.replace(os.sep, "/")))


def _relative(base: str, folder: Path) -> str:
    try:
        return _address(os.path.relpath(base, folder))
    except ValueError:  # another drive
        return ""


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(float(value), 4) for value in values]
