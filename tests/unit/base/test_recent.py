# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""A bounded number of values, against the standard library's own."""

import copy
import random
from functools import lru_cache

import pytest

from anomalib_clipad.base.recent import Recent


def test_what_is_kept_is_what_the_standard_library_keeps():
    recent, computed, expected = Recent[int](5), [], []
    reference = lru_cache(maxsize=5)(expected.append)
    generator = random.Random(0)
    for _ in range(500):
        key = generator.randrange(9)
        reference(key)
        if recent.get(key) is None:
            computed.append(key)
            recent[key] = key + 1
        assert len(recent) <= 5
    assert computed == expected


def test_a_copy_is_of_its_own():
    recent = Recent[str](2)
    recent["a"] = "A"
    other = copy.deepcopy(recent)
    other["b"] = "B"
    assert (len(recent), len(other), other.get("a")) == (1, 2, "A")


def test_refuses_to_keep_nothing():
    with pytest.raises(ValueError, match="Expected size to be at least 1, but got 0"):
        Recent(0)
