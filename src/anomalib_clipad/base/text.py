# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Parts of messages."""

from collections.abc import Sequence


def list_some(items: Sequence[object], most: int = 5) -> str:
    """List the first few items for a message, and say how many more there are.

    Example:
        >>> list_some(["a.png", "b.png", "c.png"], most=2)
        'a.png, b.png and 1 more'
    """
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(printable(item) for item in items[:most]) + more


def printable(item: object) -> str:
    r"""Return text that can be written anywhere: what is not UTF-8 in a file's name is escaped.

    Example:
        >>> print(printable("br\udcf6ken.png"))
        br\udcf6ken.png
    """
    return str(item).encode("utf-8", "backslashreplace").decode("utf-8")
