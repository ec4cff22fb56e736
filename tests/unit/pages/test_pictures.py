# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of the gallery, decoded again."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_clipad.pages import pictures


def decode(uri: str) -> np.ndarray:
    header, data = uri.split(",")
    assert header in {"data:image/jpeg;base64", "data:image/png;base64"}
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


@pytest.mark.parametrize("content", [None, b"", b"no image", b"\x89PNG\r\n\x1a\n half"])
def test_a_file_that_is_gone_or_no_image_is_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "image.png"
    if content is not None:
        path.write_bytes(content)
    assert pictures.open_image(str(path)) is None
    assert pictures.open_mask(str(path), (4, 4)) is None


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16"])
def test_images_keep_their_shape_and_are_small(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.png"
    Image.new(mode, (800, 400)).save(path)
    image = pictures.open_image(str(path))
    assert image is not None
    assert image.size == (pictures.MAX_SIDE, pictures.MAX_SIDE // 2)
    assert decode(pictures.photograph_uri(image)).shape == (pictures.MAX_SIDE // 2, pictures.MAX_SIDE, 3)


def test_a_mask_is_reduced_by_majority_and_never_vanishes(tmp_path: Path) -> None:
    full = np.zeros((40, 80), np.uint8)
    full[:20, :40] = 255
    Image.fromarray(full).save(tmp_path / "large.png")
    np.testing.assert_array_equal(
        pictures.open_mask(str(tmp_path / "large.png"), (2, 4)), [[True, True, False, False], [False] * 4]
    )
    full[:] = 0
    full[3, 5] = 1  # as VisA numbers its defects
    Image.fromarray(full).save(tmp_path / "small.png")
    np.testing.assert_array_equal(
        pictures.open_mask(str(tmp_path / "small.png"), (2, 4)), [[True, False, False, False], [False] * 4]
    )


def test_no_path_is_no_mask() -> None:
    assert pictures.open_mask("", (4, 4)) is None


def test_a_map_runs_from_dark_to_bright_between_its_limits() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    picture = decode(pictures.map_uri(ramp, (64, 192), (64, 256), None)).astype(int).sum(axis=2)[32]
    assert picture[:60].max() < 40  # below the lower limit all is black
    assert picture[196:].min() > 600  # above the upper limit all is bright
    assert np.all(np.diff(picture[64:192:8]) > 0)


def test_the_outline_of_the_ground_truth_is_drawn() -> None:
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    plain, outlined = (
        decode(pictures.map_uri(np.zeros((8, 8), np.uint8), (0, 255), (64, 64), each)).astype(int)
        for each in (None, mask)
    )
    changed = np.abs(plain - outlined).sum(axis=2) > 200
    assert changed[16, 16:48].all()
    assert not changed[24:40, 24:40].any()
    assert not changed[:8].any()


def test_without_an_image_the_row_has_the_shape_of_the_map() -> None:
    assert pictures.picture_size(None, (64, 128)) == (pictures.MAX_SIDE // 2, pictures.MAX_SIDE)
    assert pictures.picture_size(Image.new("RGB", (30, 20)), (64, 128)) == (20, 30)
