# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What the processes of a distributed run exchange."""

from typing import TypeVar

from torch import distributed

T = TypeVar("T")


def world_size() -> int:
    """Number of processes; 1 outside of a distributed run."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def gather(value: T) -> list[T]:
    """Return the values of all processes, in the order of their ranks; each process must call it.

    Example:
        >>> gather("only one process")
        ['only one process']
    """
    values = [value] * world_size()
    if len(values) > 1:
        distributed.all_gather_object(values, value)
    return values
