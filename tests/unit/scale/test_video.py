# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Frames of videos: which ones, their names, times and colours."""

import logging
from pathlib import Path

import pytest

from anomalib_clipad.scale.video import Video
from videos import RATE, write_video


def test_each_frame_that_a_number_divides(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", 23)
    frames = list(Video(str(path)).frames(every=10))
    assert [frame.name for frame in frames] == [f"{path}#{number:06d}" for number in (0, 10, 20)]
    assert [frame.seconds for frame in frames] == [number / RATE for number in (0, 10, 20)]
    for frame in frames:
        assert frame.image.shape == (48, 48, 3)
        assert frame.image[..., 0].mean() == pytest.approx(5 * frame.number, abs=4)  # RGB, and the right one


def test_it_goes_on_after_a_frame(tmp_path: Path) -> None:
    video = Video(str(write_video(tmp_path / "clip.avi", 23)))
    assert [frame.number for frame in video.frames(every=5, after=10)] == [15, 20]


def test_a_video_that_ends_early_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_video(tmp_path / "clip.avi", 30)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with caplog.at_level(logging.WARNING):
        found = [frame.number for frame in Video(str(path)).frames(every=1)]
    assert found == [*range(len(found))]
    assert 5 < len(found) < 25
    assert f"clip.avi ended after {len(found)} of 30 frames: it may be damaged" in caplog.text


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"not a video" * 99)
    with pytest.raises(ValueError, match=r"to be a video that OpenCV reads, but it cannot open .*clip.mp4"):
        Video(str(tmp_path / "clip.mp4"))
    with pytest.raises(FileNotFoundError, match=r"a camera's number or an address, but found none at .*none\.mp4"):
        Video(str(tmp_path / "none.mp4"))


def test_passwords_of_streams_are_not_told() -> None:
    with pytest.raises(ValueError, match=r"cannot open http://127.0.0.1:9/live\. ") as refused:
        Video("http://me:secret@127.0.0.1:9/live?token=secret")
    assert "secret" not in str(refused.value)
