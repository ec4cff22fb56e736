# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The prompt strings, against the numbers and words of the paper."""

import ast
import inspect

import pytest

from anomalib_clipad.clip import prompts
from anomalib_clipad.clip.prompts import ANOMALOUS_STATES, NORMAL_STATES, PROMPT_SETS, TEMPLATES


def test_industrial_set_has_the_words_of_the_paper():
    flaws = ("flaw", "defect", "damage", "scratch", "crack", "contamination")
    kinds = ("cropped ", "close-up ", "bright ", "dark ", "jpeg corrupted ", "blurry ", "")
    endings = ("visual inspection", "anomaly detection")
    assert set(NORMAL_STATES) == {"flawless {}", "perfect {}", "unblemished {}", *(f"{{}} without {f}" for f in flaws)}
    assert set(ANOMALOUS_STATES) == {
        *(f"{word} {{}}" for word in ("damaged", "imperfect", "blemished", "broken")),
        *(f"{{}} with {f}" for f in flaws),
    }
    assert set(TEMPLATES) == {
        f"{text} {{}}{end}"
        for article in ("a", "the")
        for text, end in [
            *((f"a {kind}photo of {article}", ".") for kind in kinds),
            *((f"a photo of {article} {size}", ".") for size in ("large", "small")),
            *((f"a photo of {article}", f" for {ending}.") for ending in endings),
        ]
    }


@pytest.mark.parametrize("name", PROMPT_SETS)
@pytest.mark.parametrize("key", ["normal_states", "anomalous_states", "templates"])
def test_entries_are_unique_and_have_one_place_to_fill(name, key):
    entries = PROMPT_SETS[name][key]
    assert len(set(entries)) == len(entries)
    assert all(entry.count("{}") == 1 for entry in entries)


@pytest.mark.parametrize("name", PROMPT_SETS)
def test_no_state_is_both_normal_and_anomalous(name):
    assert not set(PROMPT_SETS[name]["normal_states"]) & set(PROMPT_SETS[name]["anomalous_states"])


def test_module_imports_nothing():
    tree = ast.parse(inspect.getsource(prompts))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
