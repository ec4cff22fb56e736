# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Broken images are named, other errors shown at once; without validation images validation is skipped."""

import errno
import logging
from pathlib import Path

import pytest
from anomalib.data import AnomalibDataModule, ImageBatch, MVTecAD
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from anomalib_clipad import MVTec
from anomalib_clipad.data import image_check
from anomalib_clipad.data.image_check import ImageCheck
from layouts import write_mvtec_ad


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_mvtec_ad(tmp_path / "data", ["bottle"])


def bottle(root: Path, **arguments: object) -> MVTecAD:
    return MVTecAD(root=root, category="bottle", **({"num_workers": 0} | arguments))


class Model(LightningModule):
    """Reads images, and fails where it is told to; counts the batches of each stage."""

    def __init__(self, failure: BaseException | None = None) -> None:
        super().__init__()
        self.failure = failure
        self.n_batches = {"validate": 0, "test": 0}

    def validation_step(self, batch: ImageBatch) -> None:
        self.n_batches["validate"] += 1

    def test_step(self, batch: ImageBatch) -> None:
        self.n_batches["test"] += 1
        if self.failure is not None:
            raise self.failure


def trainer() -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", callbacks=[ImageCheck()], **quiet)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(("name", "content", "reason"), [("001.png", 600, "truncated"), ("002.png", 0, "not an image")])
def test_broken_images_are_named_with_the_reason(root: Path, num_workers: int, name: str, content: int, reason: str):
    broken = root / "bottle/test/good" / name
    broken.write_bytes(broken.read_bytes()[:content])

    with pytest.raises(OSError, match=rf"but got 1 that are not: \S*good/{name} \(.*{reason}.*\)\. Replace or remove"):
        trainer().test(Model(), datamodule=bottle(root, num_workers=num_workers))


def save_to_a_full_disk() -> OSError:
    """What Pillow raises where it writes: its own frames are in the traceback."""
    try:
        with Path("/dev/full").open("wb") as file:
            Image.new("RGB", (2000, 2000)).save(file, format="bmp")
    except OSError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    "failure",
    [OSError(errno.EMFILE, "Too many open files"), FileNotFoundError("heads.safetensors"), SyntaxError("no image")],
    ids=["system", "missing file", "syntax"],
)
def test_other_errors_are_shown_at_once(root: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception):
    read: list[str] = []
    monkeypatch.setattr(image_check, "read_image", read.append)

    with pytest.raises(type(failure)) as raised:
        trainer().test(Model(failure), datamodule=bottle(root))

    assert raised.value is failure
    assert read == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_is_not_taken_for_a_broken_image(root: Path, monkeypatch: pytest.MonkeyPatch):
    read: list[str] = []
    monkeypatch.setattr(image_check, "read_image", read.append)

    with pytest.raises(OSError, match="No space left on device"):
        trainer().test(Model(save_to_a_full_disk()), datamodule=bottle(root))

    assert read == []


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_missing_image_is_named_without_decoding_the_others(
    root: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
):
    read: list[str] = []
    monkeypatch.setattr(image_check, "read_image", read.append)
    datamodule = bottle(root, num_workers=num_workers)
    datamodule.setup("test")
    (root / "bottle/test/good/001.png").unlink()
    datamodule.setup = lambda stage: None  # what was listed is gone by now

    with pytest.raises(FileNotFoundError, match=r"No such file or directory: .*001\.png"):
        trainer().test(Model(), datamodule=datamodule)

    assert read == []


def host(root: Path) -> AnomalibDataModule:
    return bottle(root, val_split_mode="none")


def ours(root: Path) -> AnomalibDataModule:
    return MVTec(root=root, categories="bottle", val_split_mode="none", num_workers=0)


@pytest.mark.parametrize("make", [host, ours])
def test_without_validation_images_validation_is_skipped_with_a_word(
    root: Path, caplog: pytest.LogCaptureFixture, make: object
):
    model, run, datamodule = Model(), trainer(), make(root)

    with caplog.at_level(logging.WARNING, "anomalib_clipad"):
        run.validate(model, datamodule=datamodule)
        run.test(model, datamodule=datamodule)

    assert model.n_batches == {"validate": 0, "test": 1}
    (word,) = [record.getMessage() for record in caplog.records if "validation" in record.getMessage()]
    assert word.startswith(f"{datamodule.name} has no validation images (val_split_mode: none). Validation is skipped")


def test_a_datamodule_that_gets_validation_images_later_validates(root: Path):
    model, run, datamodule = Model(), trainer(), host(root)
    run.validate(model, datamodule=datamodule)

    datamodule.val_data = datamodule.test_data
    run.validate(model, datamodule=datamodule)

    assert model.n_batches["validate"] == 1
