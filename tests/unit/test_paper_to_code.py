# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""docs/paper_to_code.md names symbols and tests that exist, both in each row."""

import ast
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/paper_to_code.md"
LINK = re.compile(r"\[`([\w.]+)`\]\(([\w./]+\.py)\)")


def defined_names(path: Path) -> set[str]:
    """Functions, classes and constants of a module, and ``Class.method`` too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.FunctionDef(name=name) | ast.Assign(targets=[ast.Name(id=name)]):
                names.add(name)
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.ClassDef(name=name, body=body):
                names |= {name, *(f"{name}.{part.name}" for part in body if isinstance(part, ast.FunctionDef))}
    return names


def breaches(text: str) -> list[str]:
    """Links to what is not there, and rows without code or without a test."""
    links = LINK.findall(text)
    files = {file: PAGE.parent / file for _, file in links}
    known = {file: defined_names(path) for file, path in files.items() if path.is_file()}
    found = [f"{name} in {file}" for name, file in links if name not in known.get(file, ())]
    rows = [line for line in text.splitlines() if line.startswith("| ") and not re.match(r"\| (the method|---)", line)]
    for row in rows:
        in_row = LINK.findall(row)
        if not {True, False} <= {"/tests/" in file and name.startswith("test_") for name, file in in_row}:
            found.append(row)
    return found


def test_all_that_the_page_names_exists() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(LINK.findall(text)) > 50
    assert breaches(text) == []


CODE = "[`stage_ends`](../src/anomalib_clipad/clip/surgery.py)"
TEST = "[`test_stage_ends`](../tests/unit/clip/test_surgery.py)"


@pytest.mark.parametrize(
    "row",
    [
        f"| x | {CODE.replace('stage_ends', 'no_such')} | {TEST} |",
        f"| x | {CODE.replace('surgery.py', 'none.py')} | {TEST} |",
        f"| x | {CODE} | |",
        f"| x | | {TEST} |",
    ],
    ids=["name", "file", "no test", "no code"],
)
def test_the_guard_can_fail(row: str) -> None:
    assert len(breaches(row)) == 1
    assert breaches(f"| x | {CODE} | {TEST} |") == []
