# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""A bounded number of things, those that were used last."""

import threading
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

_CHANGING = threading.Lock()
"""Held while one changes. Of all: one's own could not be copied."""


class Recent(Generic[T]):
    """Values by key, the ``size`` that were used last; threads may share it, and it is copied with what it is in.

    Args:
        size: Number of values that are kept, at least 1.

    Raises:
        ValueError: If the size is smaller.

    Example:
        >>> recent = Recent[int](2)
        >>> for key in "abac":
        ...     recent[key] = ord(key)
        >>> recent.get("a"), recent.get("b"), recent.get("c")
        (97, None, 99)
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            msg = f"Expected size to be at least 1, but got {size}."
            raise ValueError(msg)
        self.size = size
        self._values: dict[Hashable, T] = {}

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable) -> T | None:
        """The value of a key, which counts as use, or None."""
        with _CHANGING:
            value = self._values.pop(key, None)
            if value is not None:
                self._values[key] = value
            return value

    def __setitem__(self, key: Hashable, value: T) -> None:
        with _CHANGING:
            self._values.pop(key, None)
            self._values[key] = value
            if len(self._values) > self.size:
                del self._values[next(iter(self._values))]
