# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Downloads from the Hugging Face Hub."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from huggingface_hub.utils import get_session

_TIMEOUT = 5.0
"""Seconds to wait for the first answer of the hub."""


@contextmanager
def asked_once() -> Iterator[None]:
    """Let open_clip's downloads fail at once, or come from the cache, where the hub cannot be reached.

    huggingface_hub asks six times for each of two files, which takes 46 s; open_clip passes no option on. Removable
    when huggingface_hub, 2.4 today, stops repeating what fails for want of a connection.
    """
    before = constants.HF_HUB_OFFLINE
    try:
        get_session().head(constants.ENDPOINT, timeout=_TIMEOUT)
    except Exception:  # noqa: BLE001 - each version has another library, with errors of its own, for its requests
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
