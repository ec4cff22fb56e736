# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Downloads where the hub cannot be reached: one question, no minute of waiting."""

import time

import huggingface_hub
import pytest
from huggingface_hub import constants

from anomalib_clipad.host.hub import asked_once


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens on this port
    begin = time.monotonic()

    with asked_once(), pytest.raises(Exception, match=r"cannot find the (requested|appropriate)|offline"):
        huggingface_hub.hf_hub_download("owner/name", "weights.bin", cache_dir=tmp_path)

    assert time.monotonic() - begin < 5  # by itself it repeats the question for 23 s
    assert constants.HF_HUB_OFFLINE is False
