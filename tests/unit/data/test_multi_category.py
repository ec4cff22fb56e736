# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Datamodules over several categories, on tiny datasets in the real layouts."""

import shutil
import tarfile
import urllib.error
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataModule, ImageBatch, MVTecAD, Visa
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer

from anomalib_clipad.data import MVTec, VisA
from anomalib_clipad.data.labelled import require_labelled_training_data
from anomalib_clipad.data.multi_category import MultiCategoryDataModule
from anomalib_clipad.data.published import MVTEC_AD
from layouts import write_mvtec_ad, write_visa

TWO = ["bottle", "metal_nut"]


@pytest.fixture(scope="module")
def mvtec_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_ad(tmp_path_factory.mktemp("data") / "MVTecAD", TWO)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("anomalib.data.utils.download.urlretrieve", fail)


def set_up(datamodule: AnomalibDataModule) -> AnomalibDataModule:
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def test_all_categories_by_default() -> None:
    assert len(MVTec().categories) == 15
    assert len(VisA().categories) == 12
    assert str(MVTec().root) == "datasets/MVTecAD"
    assert str(VisA().root) == "datasets/visa"
    assert MVTec(root=None).root == MVTecAD(root=None).root
    assert VisA(root=None).root == Visa(root=None).root


@pytest.mark.parametrize("chosen", [["bottle", "metal_nut"], "bottle,metal_nut", ["bottle", "metal_nut", "bottle"]])
def test_splits_are_those_of_the_categories_together(mvtec_root: Path, chosen: list[str] | str) -> None:
    datamodule = set_up(MVTec(root=mvtec_root, categories=chosen, num_workers=0))
    assert datamodule.categories == ("bottle", "metal_nut")
    assert (datamodule.category, datamodule.name, datamodule.task) == ("", "MVTec", TaskType.SEGMENTATION)
    assert datamodule.train_data.category == ""
    for split in ("train", "val", "test"):
        expected = []
        for category in TWO:
            host = set_up(MVTecAD(root=mvtec_root, category=category))
            expected += list(getattr(host, f"{split}_data").samples.image_path)
        assert list(getattr(datamodule, f"{split}_data").samples.image_path) == sorted(expected)
    assert not datamodule.train_data.samples.label_index.any()


def test_test_batches_are_ordered_by_category_and_carry_masks(mvtec_root: Path) -> None:
    datamodule = set_up(MVTec(root=mvtec_root, categories=TWO, num_workers=0, eval_batch_size=12))
    (batch,) = datamodule.test_dataloader()
    assert [datamodule.category_of(path) for path in batch.image_path] == ["bottle"] * 6 + ["metal_nut"] * 6
    assert (batch.gt_mask.flatten(1).any(dim=1) == batch.gt_label.bool()).all()


@pytest.mark.parametrize("categories", ["bottle", ["bottle"]])
def test_one_category_sets_the_host_property(mvtec_root: Path, categories: list[str] | str) -> None:
    datamodule = set_up(MVTec(root=mvtec_root, categories=categories))
    assert datamodule.category == "bottle"
    assert len(datamodule.test_data) == 6


def test_val_from_test_splits_as_the_host_does(mvtec_root: Path) -> None:
    arguments = {"root": mvtec_root, "val_split_mode": "from_test", "val_split_ratio": 0.5, "seed": 3}
    datamodule = set_up(MVTec(categories=TWO, **arguments))
    paths = {split: set(getattr(datamodule, f"{split}_data").samples.image_path) for split in ("val", "test")}
    assert paths["val"].isdisjoint(paths["test"])
    assert len(paths["val"] | paths["test"]) == 12
    assert Counter(datamodule.val_data.samples.label_index) == {0: 3, 1: 3}
    host, ours = set_up(MVTecAD(category="bottle", **arguments)), set_up(MVTec(categories="bottle", **arguments))
    assert list(ours.val_data.samples.image_path) == list(host.val_data.samples.image_path)


class _SeesBatches(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.seen = {"validation": 0, "test": 0}
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.trained_on: list[str] = []

    def training_step(self, batch: ImageBatch) -> torch.Tensor:
        self.trained_on += batch.image_path
        return self.weight * 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def validation_step(self, batch: ImageBatch) -> None:
        self.seen["validation"] += batch.batch_size

    def test_step(self, batch: ImageBatch) -> None:
        self.seen["test"] += batch.batch_size


class _TrainsOnAuxiliary(_SeesBatches):
    trains_on_auxiliary = True


def _fit(model: _SeesBatches, datamodule: AnomalibDataModule) -> list[str]:
    """Fit for one epoch and return the categories of the images trained on."""
    trainer = Trainer(
        max_epochs=1,
        logger=False,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=datamodule)
    return [datamodule.category_of(path) for path in model.trained_on]


@pytest.fixture(scope="module")
def both_roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MVTec AD and raw VisA side by side, each whole: a default auxiliary dataset is used with all its categories."""
    folder = tmp_path_factory.mktemp("both")
    write_mvtec_ad(folder / "MVTecAD", MVTec().categories, n_train=1, n_good=1, n_defect=1, size=16)
    write_visa(folder / "visa", VisA().categories, n_train=1, n_good=1, n_defect=1, size=16)
    return folder


@pytest.mark.parametrize(
    ("target", "name", "categories", "auxiliary"),
    [(MVTec, "MVTecAD", ["bottle", "zipper"], VisA), (VisA, "visa", ["candle"], MVTec)],
)
def test_each_is_the_default_auxiliary_of_the_other(
    both_roots: Path, target: type, name: str, categories: list[str], auxiliary: type
) -> None:
    datamodule = target(root=both_roots / name, categories=categories, num_workers=0)
    trained_on = _fit(_TrainsOnAuxiliary(), datamodule)
    assert Counter(trained_on) == dict.fromkeys(auxiliary().categories, 2)
    assert datamodule.train_data.samples.label_index.sum() == len(trained_on) / 2
    assert datamodule.auxiliary_names == (auxiliary.__name__,)
    assert datamodule.auxiliary_categories == auxiliary().categories
    assert datamodule.categories == tuple(categories)
    assert datamodule.is_zero_shot


def test_training_order_is_shuffled_unless_the_datasets_order_is_wanted(both_roots: Path) -> None:
    arguments = {"root": both_roots / "MVTecAD", "categories": "bottle", "num_workers": 0}
    fixed = _fit(_TrainsOnAuxiliary(), MVTec(**arguments, shuffle=False))
    assert fixed == [name for name in VisA().categories for _ in range(2)]
    assert _fit(_TrainsOnAuxiliary(), MVTec(**arguments)) != fixed


def test_one_class_models_get_the_normal_images(mvtec_root: Path) -> None:
    datamodule = MVTec(root=mvtec_root, categories=TWO, num_workers=0)
    assert Counter(_fit(_SeesBatches(), datamodule)) == dict.fromkeys(TWO, 2)
    assert not datamodule.train_data.samples.label_index.any()


def test_without_auxiliary_there_is_nothing_labelled_to_train_on(mvtec_root: Path) -> None:
    datamodule = MVTec(root=mvtec_root, categories=TWO, num_workers=0, auxiliary=None)
    assert Counter(_fit(_TrainsOnAuxiliary(), datamodule)) == dict.fromkeys(TWO, 2)
    with pytest.raises(ValueError, match="but got 4 normal images of MVTec"):
        require_labelled_training_data(datamodule)


def test_an_auxiliary_of_ones_own(mvtec_root: Path) -> None:
    auxiliary = MVTecAD(root=mvtec_root, category="metal_nut")
    datamodule = MVTec(root=mvtec_root, categories="bottle", auxiliary=auxiliary, num_workers=0)
    assert Counter(_fit(_TrainsOnAuxiliary(), datamodule)) == {"metal_nut": 6}


@pytest.mark.parametrize("allow_same", [True, False])
def test_the_target_as_auxiliary(mvtec_root: Path, allow_same: bool) -> None:
    auxiliary = MVTec(root=mvtec_root, categories=TWO)
    datamodule = MVTec(root=mvtec_root, categories="bottle", auxiliary=auxiliary, num_workers=0, allow_same=allow_same)
    assert not datamodule.is_zero_shot
    if allow_same:
        assert Counter(_fit(_TrainsOnAuxiliary(), datamodule)) == dict.fromkeys(TWO, 6)
    else:
        with pytest.raises(ValueError, match="different datasets, but got both with MVTec AD bottle"):
            _fit(_TrainsOnAuxiliary(), datamodule)


@pytest.mark.usefixtures("no_network")
def test_missing_auxiliary(mvtec_root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"that is trained on .* folder of VisA.* --data.auxiliary.root FOLDER"):
        _fit(_TrainsOnAuxiliary(), MVTec(root=mvtec_root, categories=TWO, num_workers=0))
    assert not (mvtec_root.parent / "visa").exists()


@pytest.mark.parametrize(("mode", "n_val"), [("same_as_test", 12), ("none", 0)])
def test_validation_runs_or_is_skipped(mvtec_root: Path, mode: str, n_val: int) -> None:
    datamodule = MVTec(root=mvtec_root, categories=TWO, val_split_mode=mode, num_workers=0)
    model = _SeesBatches()
    trainer = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    trainer.validate(model, datamodule=datamodule)
    trainer.test(model, datamodule=datamodule)
    assert model.seen == {"validation": n_val, "test": 12}


@pytest.mark.parametrize(
    ("categories", "got"), [(["bottle", "bottel"], r"\['bottel'\]"), ("car", r"\['car'\]"), ([], r"\[\]")]
)
def test_unknown_category(categories: list[str] | str, got: str) -> None:
    with pytest.raises(ValueError, match=f"categories of MVTec AD, but got {got}. Valid: bottle, cable"):
        MVTec(categories=categories)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("datamodule", "example"), [(MVTec, "bottle"), (VisA, "candle")])
def test_missing_root_without_network(datamodule: type[MultiCategoryDataModule], example: str, tmp_path: Path) -> None:
    root = tmp_path / "datasets/here"
    url = datamodule.published.download.url
    with pytest.raises(FileNotFoundError, match=r"the download failed .*no network") as error:
        datamodule(root=root).prepare_data()
    assert str(root) in str(error.value)
    assert url in str(error.value)
    assert str(root / example) in str(error.value)
    assert list(tmp_path.iterdir()) == []  # nothing is left behind
    with pytest.raises(FileNotFoundError, match=r"no such folder. The anomalib commands and prepare_data"):
        datamodule(root=root).setup()


def test_root_without_any_category(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="a folder without any category"):
        MVTec(root=tmp_path).setup()


@pytest.mark.usefixtures("no_network")
def test_missing_category_names_those_that_are_there(mvtec_root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"categories \['cable'\], but got \['bottle', 'metal_nut'\]. Pass"):
        MVTec(root=mvtec_root, categories=["bottle", "cable"]).prepare_data()


@pytest.mark.parametrize(("left", "message"), [("", "but got an empty folder"), ("train", "test images, but got none")])
def test_empty_category(tmp_path: Path, left: str, message: str) -> None:
    root = write_mvtec_ad(tmp_path, TWO)
    for part in {"train", "test", "ground_truth"} - {left}:
        shutil.rmtree(root / "metal_nut" / part)
    with pytest.raises(FileNotFoundError, match=message) as error:
        MVTec(root=root, categories=TWO).setup()
    assert str(root / "metal_nut") in str(error.value)


def test_training_images_are_not_needed_to_test(tmp_path: Path) -> None:
    root = write_mvtec_ad(tmp_path, TWO)
    for category in TWO:
        shutil.rmtree(root / category / "train")
    datamodule = set_up(MVTec(root=root, categories=TWO))
    assert (len(datamodule.train_data), len(datamodule.test_data)) == (0, 12)


def test_missing_mask(tmp_path: Path) -> None:
    root = write_mvtec_ad(tmp_path, TWO)
    (root / "bottle/ground_truth/scratch/001_mask.png").unlink()
    with pytest.raises(ValueError, match=r"one mask .*bottle.test, but got .*: \S*scratch.001\.png\. Add the missing"):
        MVTec(root=root, categories=TWO).setup()


def test_mask_of_another_name(tmp_path: Path) -> None:
    root = write_mvtec_ad(tmp_path, TWO)
    mask = root / "bottle/ground_truth/scratch/001_mask.png"
    mask.rename(mask.with_name("x_mask.png"))
    with pytest.raises(ValueError, match=r"partner: \S*scratch.001\.png, \S*x_mask\.png\. Add"):
        MVTec(root=root, categories=TWO).setup()


def test_category_of(mvtec_root: Path, tmp_path: Path) -> None:
    datamodule = MVTec(root=mvtec_root)
    assert datamodule.category_of(mvtec_root / "metal_nut/test/bent/000.png") == "metal_nut"
    assert datamodule.category_of(str(mvtec_root / "bottle/000.png")) == "bottle"
    assert MVTec().category_of("datasets/MVTecAD/zipper/train/good/000.png") == "zipper"
    assert MVTec().category_of(Path("datasets/MVTecAD/zipper/train/good/000.png").resolve()) == "zipper"
    assert VisA(root=tmp_path).category_of(tmp_path / "visa_pytorch/pcb1/test/bad/000.JPG") == "pcb1"
    with pytest.raises(ValueError, match=r"in a category folder of .*, but got .*x.png. Valid categories: bottle"):
        datamodule.category_of(tmp_path / "x.png")


def test_linked_category_folder(mvtec_root: Path, tmp_path: Path) -> None:
    (tmp_path / "bottle").symlink_to(mvtec_root / "bottle")
    datamodule = set_up(MVTec(root=tmp_path, categories="bottle"))
    assert {datamodule.category_of(path) for path in datamodule.test_data.samples.image_path} == {"bottle"}


def test_raw_visa_is_converted_as_by_the_host(tmp_path: Path) -> None:
    ours, theirs = (write_visa(tmp_path / name, ["candle", "pcb1"]) for name in ("ours", "theirs"))
    datamodule = set_up(VisA(root=ours, categories=["candle", "pcb1"], num_workers=0, eval_batch_size=12))
    host = set_up(Visa(root=theirs, category="pcb1"))
    converted = ours / "visa_pytorch"
    assert sorted(path.name for path in converted.iterdir()) == ["candle", "pcb1"]
    assert not converted.with_name("visa_pytorch.partial").exists()
    names = [Path(path).relative_to(converted) for path in datamodule.test_data.samples.image_path]
    assert [name for name in names if name.parts[0] == "pcb1"] == [
        Path(path).relative_to(theirs / "visa_pytorch") for path in host.test_data.samples.image_path
    ]
    (batch,) = datamodule.test_dataloader()
    assert [datamodule.category_of(path) for path in batch.image_path] == ["candle"] * 6 + ["pcb1"] * 6
    assert torch.equal(batch.gt_mask.flatten(1).any(dim=1), batch.gt_label.bool())


def test_interrupted_visa_conversion_starts_anew(tmp_path: Path) -> None:
    root = write_visa(tmp_path, ["candle"])
    image = root / "candle/Data/Images/Normal/004.JPG"
    image.rename(root / "elsewhere.JPG")
    with pytest.raises(FileNotFoundError):
        VisA(root=root, categories="candle").prepare_data()
    assert not (root / "visa_pytorch").exists()
    (root / "elsewhere.JPG").rename(image)
    assert len(set_up(VisA(root=root, categories="candle")).test_data) == 6


def test_archive_in_the_root_is_unpacked_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, root = write_mvtec_ad(tmp_path / "source", ["bottle"]), tmp_path / "root"
    root.mkdir()
    archive = root / "mvtec.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(source / "bottle", arcname="bottle")
    info = replace(MVTEC_AD.download, url="https://example.org/mvtec.tar")
    monkeypatch.setattr(MVTec, "published", replace(MVTEC_AD, download=info))
    assert len(set_up(MVTec(root=root, categories="bottle")).test_data) == 6
    assert archive.is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root", "source"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data", "MVTec"], 15),
        (["--data", "MVTec", "--data.auxiliary", "VisA", "--data.auxiliary.root", "elsewhere/visa"], 15),
        (["--data", "VisA", "--data.auxiliary", "null", "--data.shuffle", "false"], 12),
        (["--data", "VisA", "--data.categories", "[candle, pcb1]"], 2),
        (["--data", "MVTec", "--data.categories", "bottle", "--data.eval_batch_size", "4"], 1),
        (["--data", "anomalib_clipad.data.VisA", "--data.val_split_mode", "none"], 12),
    ],
)
def test_command_line(arguments: list[str], expected: int) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(AnomalibDataModule, "data")
    datamodule = parser.instantiate_classes(parser.parse_args(arguments)).data
    assert isinstance(datamodule, MultiCategoryDataModule)
    assert len(datamodule.categories) == expected
