# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Images from files and memory become the tensors that anomalib reads."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data.utils import read_image as hosts_read_image
from PIL import Image

from anomalib_clipad.data.image_files import Unreadable, as_tensor, read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
EXPECTED = torch.tensor(PIXELS).permute(2, 0, 1) / 255


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"])
def test_a_file_is_read_as_anomalib_reads_it(tmp_path, mode):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.fromarray(PIXELS).convert(mode).save(path)

    assert torch.equal(read_image(path), hosts_read_image(path, as_tensor=True))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "not an image"),
        (b"just text", "not an image"),
        ("truncated", "truncated"),
        ("deep", "8 bits a channel, but got Pillow's mode 'I"),
    ],
    ids=["missing", "empty", "text", "truncated", "16 bits"],
)
def test_a_broken_file_is_explained(tmp_path: Path, content: bytes | str | None, reason: str):
    path = tmp_path / "image.png"
    if content == "deep":
        Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(path)
    elif content == "truncated":
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:900])
    elif isinstance(content, bytes):
        path.write_bytes(content)

    file = read_image(path)

    assert isinstance(file, Unreadable)
    assert file.path == str(path)
    assert reason in file.reason


def test_an_image_too_large_to_be_honest_is_explained(tmp_path, monkeypatch):
    Image.fromarray(PIXELS).save(tmp_path / "image.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)

    file = read_image(tmp_path / "image.png")

    assert isinstance(file, Unreadable)
    assert "decompression bomb" in file.reason


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(PIXELS),
        PIXELS,
        PIXELS[:, ::-1][:, ::-1],
        np.dstack([PIXELS, np.full((5, 7), 9, dtype=np.uint8)]),
        EXPECTED,
        EXPECTED.double(),
        EXPECTED.numpy(),
        EXPECTED.numpy().astype(np.float64),
        torch.tensor(PIXELS).permute(2, 0, 1),
        torch.cat([EXPECTED, torch.zeros(1, 5, 7)]),
        EXPECTED.clone().requires_grad_(),
    ],
    ids=[
        *("Pillow", "uint8 array", "reversed array", "uint8 array with alpha", "float tensor", "double tensor"),
        *("float array", "double array", "uint8 tensor", "tensor with alpha", "tensor with gradient"),
    ],
)
def test_an_image_in_memory_keeps_its_values(image):
    tensor = as_tensor(image)

    assert tensor.dtype == torch.float32
    assert not tensor.requires_grad
    torch.testing.assert_close(tensor, EXPECTED, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "image",
    [PIXELS[..., 0], PIXELS[..., :1], EXPECTED[0], EXPECTED[:1], EXPECTED[0].numpy(), Image.fromarray(PIXELS[..., 0])],
    ids=["array", "array with a channel", "tensor", "tensor with a channel", "float array", "Pillow"],
)
def test_grey_is_made_rgb(image):
    torch.testing.assert_close(as_tensor(image), EXPECTED[:1].expand(3, -1, -1), rtol=0, atol=1e-7)


def test_an_array_that_may_not_be_written_to_is_read_without_a_warning(recwarn):
    as_tensor(np.asarray(Image.fromarray(PIXELS)))

    assert not recwarn.list


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (PIXELS.astype(np.uint16), ValueError, "of type uint8 or float, but got uint16. Scale it"),
        (torch.tensor(PIXELS).long(), ValueError, "of type uint8 or float, but got torch.int64"),
        (PIXELS / 255, ValueError, r"shape \(H, W\) or \(C, H, W\) with 1, 3, 4 channels, but got \(5, 7, 3\)"),
        (EXPECTED[None], ValueError, r"but got \(1, 3, 5, 7\)"),
        (PIXELS[..., :2], ValueError, r"shape \(H, W\) or \(H, W, C\) with 1, 3, 4 channels, but got \(5, 7, 2\)"),
        (torch.zeros(3, 0, 4), ValueError, r"but got \(3, 0, 4\)"),
        (EXPECTED * 255, ValueError, r"values in \[0, 1\], but got 0 to 2"),
        (EXPECTED - 1, ValueError, r"values in \[0, 1\], but got -1 to"),
        (torch.full((3, 2, 2), torch.nan), ValueError, "but got nan to nan"),
        (Image.new("I;16", (4, 4)), ValueError, "Expected an image of 8 bits a channel"),
        ([1, 2], TypeError, "a path, a Pillow image, an array or a tensor, but got list"),
    ],
    ids=[
        *("16 bits", "integers", "float array with channels last", "batch", "two channels", "empty"),
        *("0 to 255", "normalised", "NaN", "deep Pillow image", "list"),
    ],
)
def test_other_images_are_refused(image, error, message):
    with pytest.raises(error, match=message):
        as_tensor(image)


def test_a_photograph_of_too_many_pixels_says_what_lifts_the_limit(tmp_path, monkeypatch):
    Image.new("L", (60, 60)).save(tmp_path / "image.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    found = read_image(tmp_path / "image.png")
    assert isinstance(found, Unreadable)
    assert "set PIL.Image.MAX_IMAGE_PIXELS = None" in found.reason
