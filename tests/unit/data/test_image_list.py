# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Lists of images to predict on: folders, files, CSV files; broken files do not stop the others."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Compose, Normalize, Resize

import layouts
from anomalib_clipad import ImageList
from anomalib_clipad.data.image_list import list_images, read_list
from anomalib_clipad.data.image_loader import ListedImage, load_images
from anomalib_clipad.prediction.visualizer import picture_places

RESIZE = Compose([Resize((24, 16)), Normalize([0.5] * 3, [0.5] * 3)])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """``photos/000.png`` to ``002.png`` and ``photos/more/000.png``."""
    layouts.write_images(tmp_path / "photos", 3)
    layouts.write_images(tmp_path / "photos/more", 1, size=30)
    return tmp_path / "photos"


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


def test_a_folder_lists_the_images_in_it_and_below(photos):
    write(photos / "notes.txt", "no image")

    listed = [Path(image.path).relative_to(photos).as_posix() for image in list_images(photos)]

    assert listed == ["000.png", "001.png", "002.png", "more/000.png"]


def test_a_file_lists_itself(photos):
    assert list_images(photos / "001.png") == [ListedImage(str(photos / "001.png"))]


@pytest.mark.parametrize(
    "text",
    [
        "path,class_name\na.png,nut\nsub/b.png,metal_nut\n",
        "a.png,nut\nsub/b.png,metal_nut\n",
        "score,Class_Name,Path\n1,nut,a.png\n2,metal_nut,sub/b.png\n",
        "\n path , class_name \n\na.png, nut \nsub/b.png,metal_nut",
    ],
    ids=["with a header", "without", "other columns, in any order", "spaces and empty lines"],
)
def test_a_csv_file_lists_paths_and_class_names(tmp_path, text):
    images = read_list(write(tmp_path / "images.csv", text))

    assert images == [
        ListedImage(str(tmp_path / "a.png"), "nut"),
        ListedImage(str(tmp_path / "sub/b.png"), "metal_nut", position=1),
    ]


def test_a_csv_file_may_leave_out_class_names_and_start_with_a_byte_order_mark(tmp_path):
    for text in ("path\nü.png\n", "ü.png\n", "path,class_name\nü.png,\n"):
        assert read_list(write(tmp_path / "images.csv", text, "utf-8-sig")) == [ListedImage(str(tmp_path / "ü.png"))]


def test_relative_paths_start_from_the_root_and_absolute_ones_stay(tmp_path):
    file = write(tmp_path / "images.csv", f"a.png\n{tmp_path / 'elsewhere/b.png'}\n")

    assert [image.path for image in read_list(file, root="photos")] == [
        str(Path("photos/a.png")),
        str(tmp_path / "elsewhere/b.png"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "to list images, but it is empty"),
        ("path,class_name\n", "to list images, but it is empty"),
        ("filename,label\na.png,nut\n", r"'path,class_name' or an image, but got \['filename', 'label'\]"),
        ("a.png,nut,1\n", r"'path,class_name' or an image, but got \['a.png', 'nut', '1'\]"),
        ("a.png;nut\n", r"but got \['a.png;nut'\]"),
        ("path,class_name\n,nut\n", r"Expected a path in .*images\.csv:2, but got none"),
        ("a.png,nut\nb.png,nut\na.png,bolt\n", r"each image once, but got 1 more often: .*a\.png"),
        ("a.png,nut\nb.png,\n", r"the class of all images or of none, but got none for .*b\.png"),
    ],
    ids=["empty", "header only", "other header", "columns", "semicolons", "no path", "repeated", "partly named"],
)
def test_a_csv_file_that_says_something_else_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_list(write(tmp_path / "images.csv", text))


def test_a_csv_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "images.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ValueError, match="to be a CSV file in UTF-8, but reading it failed"):
        read_list(tmp_path / "images.csv")
    with pytest.raises(FileNotFoundError, match=r"Expected a CSV file of images, but found none at .*no\.csv"):
        list_images(tmp_path / "no.csv")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_leave_out_what_cannot_be_read(photos, num_workers):
    write(photos / "001.png", "no image")
    write(photos / "002.png", "")  # the second batch is lost altogether
    write(photos / "more/a.png", "")
    loader = load_images([*list_images(photos), ListedImage("missing.png")], RESIZE, 2, num_workers)

    batches = list(loader)

    assert [batch.image_path for batch in batches] == [[str(photos / "000.png")], [str(photos / "more/000.png")]]
    assert {path: image.reason[:12] for path, image in loader.dataset.skipped.items()} == {
        str(photos / "001.png"): "not an image",
        str(photos / "002.png"): "not an image",
        str(photos / "more/a.png"): "not an image",
        "missing.png": "No such file",
    }


def test_images_of_all_sizes_are_batched_at_the_models_size_and_normalised_later(photos):
    [batch] = load_images(list_images(photos), RESIZE)

    assert batch.image.shape == (4, 3, 24, 16)
    assert batch.image.min() >= 0


def test_pictures_lie_as_the_images_do():
    places = picture_places(["/a/set/x/1.png", "/a/set/y/1.png", "/a/set/../set/1.png"])

    assert [place.as_posix() for place in places.values()] == ["set/x/1.png", "set/y/1.png", "set/1.png"]
    assert picture_places(["/a/photos/1.png"]) == {"/a/photos/1.png": Path("photos/1.png")}
    assert len(set(picture_places(["/x/1.png", "/1.png", "/y/x/1.png"]).values())) == 3


class TestImageList:
    def test_tells_the_class_of_each_image(self, photos):
        file = write(photos / "images.csv", "000.png,nut\nmore/000.png,bolt\n001.png,nut\n")
        datamodule = ImageList(file)

        assert datamodule.categories == ("nut", "bolt")
        assert datamodule.category_of(photos / "more/000.png") == "bolt"

    def test_names_nothing_for_a_folder(self, photos):
        datamodule = ImageList(photos)

        assert datamodule.categories == ()
        assert datamodule.category_of(photos / "000.png") == "object"

    def test_resizes_as_the_model_asks(self, photos):
        datamodule = ImageList(photos, batch_size=3, num_workers=0)
        module = SimpleNamespace(class_name=None, pre_processor=PreProcessor(transform=RESIZE))
        datamodule.trainer = SimpleNamespace(lightning_module=module)

        assert [tuple(batch.image.shape) for batch in datamodule.predict_dataloader()] == [
            (3, 3, 24, 16),
            (1, 3, 24, 16),
        ]
        assert torch.equal(next(iter(datamodule.predict_dataloader())).image[0], RESIZE.transforms[0](_read(photos)))

    def test_refuses_class_names_from_two_sides(self, photos):
        datamodule = ImageList(write(photos / "images.csv", "000.png,nut\n"))
        datamodule.trainer = SimpleNamespace(lightning_module=SimpleNamespace(class_name="bolt"))

        with pytest.raises(ValueError, match=r"from the list or from the model, but got nut, … and 'bolt'"):
            datamodule.setup("predict")

    def test_refuses_to_train_or_test(self, photos):
        for loader in (ImageList(photos).train_dataloader, ImageList(photos).test_dataloader):
            with pytest.raises(RuntimeError, match="no labels"):
                loader()

    @pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"num_workers": -1}])
    def test_refuses_sizes_that_are_none(self, photos, wrong):
        with pytest.raises(ValueError, match="Expected batch_size to be at least 1 and num_workers at least 0"):
            ImageList(photos, **wrong)


def _read(photos: Path) -> torch.Tensor:
    from anomalib.data.utils import read_image

    image = read_image(photos / "000.png", as_tensor=True)
    assert isinstance(image, torch.Tensor)
    return image
