# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The tutorial runs from top to bottom, offline, and shows what its text says."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook
from tools.run_tutorial import TUTORIAL, execute

REPORT = """import json
print(json.dumps({
    "good": good, "scores": [item.score for item in predictions], "few_shot": [item.score for item in with_references],
    "flagged": flagged, "evidence": with_references[0].evidence, "regions": [region.area for region in worst.regions],
    "defective": "/good/" not in worst.path, "labels": [item.label for item in by_heads], "model": str(model_file),
}))"""


def auroc(scores: list[float], good: list[bool]) -> float:
    """Share of pairs of a good and a defective image of which the defective one has the higher score."""
    pairs = [
        (a, b)
        for a, is_good in zip(scores, good, strict=True)
        if is_good
        for b, other in zip(scores, good, strict=True)
        if not other
    ]
    return sum(b > a for a, b in pairs) / len(pairs)


@pytest.fixture
def notebook() -> NotebookNode:
    return nbformat.read(TUTORIAL, as_version=4)


@pytest.mark.slow
def test_it_runs_in_an_empty_folder(notebook: NotebookNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cells = len(notebook.cells)
    notebook.cells.append(new_code_cell(REPORT))

    executed = execute(notebook, tmp_path)

    told = json.loads(executed.cells[cells].outputs[0].text)
    good = told["good"]
    assert auroc(told["scores"], good) > 0.9
    assert auroc(told["few_shot"], good) > 0.9
    assert told["evidence"] == "text, references (4)"
    assert sum(flagged and not fine for flagged, fine in zip(told["flagged"], good, strict=True)) >= 12
    assert sum(flagged and fine for flagged, fine in zip(told["flagged"], good, strict=True)) <= 2
    assert told["defective"]
    assert told["regions"] == sorted(told["regions"], reverse=True)
    assert 0 < told["regions"][0] < 240 * 240 / 4
    assert set(told["labels"]) == {"normal", "anomalous"}
    assert (tmp_path / told["model"]).stat().st_size > 1e6
    assert len((tmp_path / "out/predictions.csv").read_text().splitlines()) == 1 + len(good)


def test_it_is_short_and_committed_with_small_outputs(notebook: NotebookNode) -> None:
    assert len(notebook.cells) <= 20
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count == number for number, cell in enumerate(code, start=1))
    assert sum("image/jpeg" in output.get("data", {}) for cell in code for output in cell.outputs) == 2
    assert TUTORIAL.stat().st_size < 150_000


def test_an_error_in_a_cell_is_raised(tmp_path: Path) -> None:
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(new_notebook(cells=[new_code_cell("1 / 0")]), tmp_path)
