# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of the masks to train on."""

from pathlib import Path

import numpy as np
import pytest
from anomalib.data.utils import read_mask
from pandas import DataFrame
from PIL import Image

from anomalib_clipad.data.masks import check_masks, unpaired, unpaired_in_layout
from layouts import write_mvtec_ad


def write(folder: Path, mask: np.ndarray | Image.Image | None, *, name: str = "000", suffix: str = ".png") -> dict:
    """Write an image of 16 x 12 pixels and its mask, and return the row of anomalib's table."""
    image_path, mask_path = folder / f"{name}.png", folder / f"{name}_mask{suffix}"
    Image.fromarray(np.full((12, 16, 3), 128, dtype=np.uint8)).save(image_path)
    if mask is not None:
        picture = Image.fromarray(mask) if isinstance(mask, np.ndarray) else mask
        picture.save(mask_path)
    return {"image_path": str(image_path), "label_index": 1, "mask_path": str(mask_path)}


def square(*values: int) -> np.ndarray:
    """A mask of 16 x 12 pixels, zero but for one row of each value."""
    mask = np.zeros((12, 16), dtype=np.uint8)
    for row, value in enumerate(values):
        mask[row + 1, 4:9] = value
    return mask


@pytest.mark.parametrize("values", [(255,), (1,), (77,), (1, 2, 3), (1, 255), (7, 31)])
def test_binary_masks_and_class_numbers_are_accepted(tmp_path: Path, values: tuple[int, ...]) -> None:
    row = write(tmp_path, square(*values))
    check_masks(DataFrame([row]))
    assert int(read_mask(row["mask_path"], as_tensor=True).sum()) == 5 * len(values)  # all of it is read as defect


def test_modes_that_store_two_values_are_accepted(tmp_path: Path) -> None:
    palette = Image.fromarray(square(1), mode="P")
    palette.putpalette([0, 0, 0, 200, 30, 30])
    masks = [Image.fromarray(square(255)).convert(mode) for mode in ("1", "RGB", "RGBA")]
    check_masks(DataFrame([write(tmp_path, mask, name=str(i)) for i, mask in enumerate([palette, *masks])]))


@pytest.mark.parametrize("label", [0, -1])
def test_only_anomalous_images_are_looked_at(tmp_path: Path, label: int) -> None:
    check_masks(DataFrame([{**write(tmp_path, None), "label_index": label}]))


@pytest.mark.parametrize("mask_path", [None, "", "None", float("nan"), "folder/none.png", []])
def test_missing_mask(tmp_path: Path, mask_path: object) -> None:
    good = write(tmp_path, square(255), name="good")
    row = {**write(tmp_path, None, name="bare"), "mask_path": mask_path}
    with pytest.raises(FileNotFoundError, match=r"Expected a mask for each anomalous image, .*bare\.png.*Add") as error:
        check_masks(DataFrame([good, row]))
    assert "good.png" not in str(error.value)


def test_a_table_without_masks(tmp_path: Path) -> None:
    row = write(tmp_path, None)
    del row["mask_path"]
    with pytest.raises(FileNotFoundError, match=r"000\.png"):
        check_masks(DataFrame([row]))


def test_long_lists_are_cut(tmp_path: Path) -> None:
    rows = [write(tmp_path, None, name=str(number)) for number in range(8)]
    with pytest.raises(FileNotFoundError, match="and 3 more"):
        check_masks(DataFrame(rows))


def test_empty_mask(tmp_path: Path) -> None:
    rows = [write(tmp_path, square(255), name="good"), write(tmp_path, square(), name="empty")]
    with pytest.raises(ValueError, match=r"mark a defect, but got an empty one: .*empty_mask\.png of .*empty\.png"):
        check_masks(DataFrame(rows))


def test_mask_of_another_size(tmp_path: Path) -> None:
    row = write(tmp_path, square(255).T)
    with pytest.raises(ValueError, match=r"16x12 pixels, but got 12x16 pixels: .*000_mask\.png of .*Resize the mask"):
        check_masks(DataFrame([row]))


def test_soft_borders_are_not_binary(tmp_path: Path) -> None:
    soft = Image.fromarray(square(255)).resize((8, 6), Image.Resampling.BILINEAR).resize((16, 12), 2)
    row = write(tmp_path, soft)
    with pytest.raises(
        ValueError, match=r"to be binary, but got the grey levels .*: .*000_mask\.png. Valid: 0 and one"
    ):
        check_masks(DataFrame([row]))


def test_jpeg_masks_are_not_binary(tmp_path: Path) -> None:
    row = write(tmp_path, square(255), suffix=".jpg")
    with pytest.raises(ValueError, match=r"binary, but got the grey levels .*000_mask\.jpg"):
        check_masks(DataFrame([row]))


@pytest.mark.parametrize("broken", ["image_path", "mask_path"])
def test_unreadable_file(tmp_path: Path, broken: str) -> None:
    row = write(tmp_path, square(255))
    Path(row[broken]).write_bytes(b"no image")
    with pytest.raises(OSError, match=r"readable, but got an error for .*000_mask\.png of .*000\.png"):
        check_masks(DataFrame([row]))


def test_several_masks_of_one_image(tmp_path: Path) -> None:
    first, second = write(tmp_path, square(255), name="0"), write(tmp_path, square(255), name="1")
    row = {**first, "mask_path": [first["mask_path"], second["mask_path"]]}  # as in MVTec LOCO
    check_masks(DataFrame([row]))
    Image.new("L", (16, 12)).save(second["mask_path"])
    with pytest.raises(ValueError, match=r"empty one: .*1_mask\.png of .*0\.png"):
        check_masks(DataFrame([row]))


def test_unpaired_files_are_found_by_their_names() -> None:
    images, masks = [Path("0.png"), Path("1.png"), Path("10.png")], [Path("10_mask.png"), Path("0.bmp"), Path("2.png")]
    assert unpaired(images, masks) == [Path("1.png"), Path("2.png")]


def test_unpaired_files_of_a_category(tmp_path: Path) -> None:
    category = write_mvtec_ad(tmp_path, defects=("scratch", "hole")) / "bottle"
    assert unpaired_in_layout(category) == []
    (category / "ground_truth/scratch/001_mask.png").unlink()
    (category / "test/hole/002.png").unlink()
    assert unpaired_in_layout(category) == [
        category / "ground_truth/hole/002_mask.png",
        category / "test/scratch/001.png",
    ]
