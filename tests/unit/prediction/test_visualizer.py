# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of several categories do not overwrite each other."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import ImageVisualizer
from PIL import Image

from anomalib_clipad.data.fitting import FitResize
from anomalib_clipad.prediction.regions import Regions
from anomalib_clipad.prediction.visualizer import CategoryVisualizer


def make_batch(folder: Path, paths: list[str]) -> ImageBatch:
    """A batch of images that lie at ``paths`` below a folder; the host reads them again to show them."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(folder / path)
    n = len(paths)
    return ImageBatch(
        image=torch.rand(n, 3, 16, 16),
        gt_mask=torch.zeros(n, 16, 16, dtype=torch.bool),
        pred_mask=torch.zeros(n, 16, 16, dtype=torch.bool),
        anomaly_map=torch.rand(n, 16, 16),
        image_path=[str(folder / path) for path in paths],
    )


def show(visualizer: CategoryVisualizer, results: Path, batch: ImageBatch, datamodule: object) -> set[str]:
    run(visualizer, results, batch, datamodule)
    return {str(path.relative_to(results)) for path in results.rglob("*.png")}


def run(
    visualizer: CategoryVisualizer, results: Path, batch: ImageBatch, datamodule: object, model: object = None
) -> None:
    dataset = SimpleNamespace(samples={"image_path": batch.image_path})
    trainer = SimpleNamespace(
        default_root_dir=results, datamodule=datamodule, test_dataloaders=SimpleNamespace(dataset=dataset)
    )
    visualizer.on_test_start(trainer, None)
    visualizer.on_test_batch_end(trainer, model, batch, batch, 0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def several() -> SimpleNamespace:
    """A datamodule over two categories, not named after the dataset's folder."""
    return SimpleNamespace(
        name="MVTec", category="", categories=("bottle", "cable"), category_of=lambda path: Path(path).parts[-4]
    )


def test_equal_file_names_of_two_categories_are_kept_apart(data, results, several):
    batch = make_batch(data, ["bottle/test/good/000.png", "cable/test/good/000.png", "bottle/test/good/001.png"])

    assert show(CategoryVisualizer(), results, batch, several) == {
        "images/bottle/test/good/000.png",
        "images/cable/test/good/000.png",
        "images/bottle/test/good/001.png",
    }


def test_the_category_is_not_repeated_where_the_host_would_name_it_too(data, results, several):
    several.name = "VisA"

    written = show(CategoryVisualizer(), results, make_batch(data, ["visa/bottle/test/good/000.png"]), several)

    assert written == {"images/bottle/test/good/000.png"}


def test_one_category_lies_where_the_host_puts_it(data, results):
    batch = make_batch(data, ["MVTecAD/bottle/test/good/000.png"])

    written = show(CategoryVisualizer(), results, batch, SimpleNamespace(name="MVTecAD", category="bottle"))

    assert written == {"images/test/good/000.png"}


def test_a_second_run_writes_beside_its_own_results(data, results, several):
    visualizer = CategoryVisualizer()
    show(visualizer, results / "first", make_batch(data, ["bottle/test/good/000.png"]), several)

    assert show(visualizer, results / "second", make_batch(data, ["cable/test/good/000.png"]), several) == {
        "images/cable/test/good/000.png"
    }


def test_a_folder_that_the_user_names_is_used(data, results, several):
    visualizer = CategoryVisualizer(output_dir=results / "mine")

    batch = make_batch(data, ["cable/test/good/000.png"])

    assert show(visualizer, results, batch, several) == {"mine/cable/test/good/000.png"}


def test_equal_names_that_the_host_would_put_in_one_place_lie_as_the_images_do(data, results):
    batch = make_batch(data, [f"{kind}/images/000.png" for kind in ("good", "crack", "hole")])

    written = show(CategoryVisualizer(), results, batch, SimpleNamespace(name="gasket"))

    assert written == {f"images/data/{kind}/images/000.png" for kind in ("good", "crack", "hole")}


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_pictures_are_the_hosts(data, results, suffix):
    batch = make_batch(data, [f"MVTecAD/bottle/test/good/000.{suffix}"])
    datamodule = SimpleNamespace(name="MVTecAD", category="bottle")
    trainer = SimpleNamespace(default_root_dir=results, datamodule=datamodule)

    run(CategoryVisualizer(), results, batch, datamodule)
    ImageVisualizer(output_dir=results / "host").on_test_batch_end(trainer, None, batch, batch, 0)

    ours, hosts = (Image.open(results / folder / f"test/good/000.{suffix}") for folder in ("images", "host"))
    assert np.array_equal(np.asarray(ours), np.asarray(hosts))


def test_boxes_and_overlays_lie_where_the_defect_is_on_the_photograph(data, tmp_path):
    Image.new("RGB", (200, 100)).save(tmp_path / "wide.png")  # 16 x 8 in the middle of 16 x 16
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[0, 4:8, 12:16] = True  # the upper right quarter of the photograph's right half
    batch = ImageBatch(
        image=torch.rand(1, 3, 16, 16),
        pred_mask=mask,
        anomaly_map=mask.float(),
        image_path=[str(tmp_path / "wide.png")],
    )
    transform = FitResize((16, 16), "pad", (8, 8))
    model = SimpleNamespace(pre_processor=PreProcessor(transform=transform), regions=Regions(boxes=True))
    visualizer = CategoryVisualizer(
        fields=["image"], overlay_fields=[], field_size=(100, 100), text_config={"enable": False}
    )

    run(visualizer, tmp_path / "results", batch, None, model)

    [path] = (tmp_path / "results").rglob("*.png")
    red = np.array(Image.open(path))[:, :100, 0] > 200
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    assert (rows[0], columns[0]) == (pytest.approx(0, abs=2), pytest.approx(75, abs=2))
    assert (rows[-1], columns[-1]) == (pytest.approx(50, abs=2), pytest.approx(99, abs=2))
