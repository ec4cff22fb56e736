# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Training on one dataset's labelled images and testing on another, for any of anomalib's datamodules."""

import logging
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from anomalib.data import MPDD, AnomalibDataModule, BTech, Folder, ImageBatch, MVTecAD, MVTecLOCO
from anomalib.pre_processing import PreProcessor
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer
from packaging.version import Version
from PIL import Image
from torchvision.transforms.v2 import Normalize, Resize

from anomalib_clipad.data import MVTec, Transfer
from anomalib_clipad.data.labelled import LabelledImages, labelled_images, require_labelled_training_data
from layouts import write_btech, write_folder, write_images, write_mpdd, write_mvtec_ad, write_mvtec_loco


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several datasets side by side; their images have different sizes."""
    root = tmp_path_factory.mktemp("data")
    write_mvtec_ad(root / "MVTecAD", ["bottle", "cable"], size=40)
    write_btech(root / "BTech", size=32)
    write_mvtec_loco(root / "LOCO", size=36)
    write_mpdd(root / "MPDD", ["tubes"], size=36)
    write_folder(root / "gaskets")
    return root


def folder(data: Path, name: str = "gasket", **arguments: object) -> Folder:
    paths = {"root": data / "gaskets", "normal_dir": "normal", "abnormal_dir": "abnormal", "mask_dir": "mask"}
    return Folder(name=name, num_workers=0, **{**paths, **arguments})


def bottle(root: Path, **arguments: object) -> MVTecAD:
    return MVTecAD(root=root / "MVTecAD", category="bottle", num_workers=0, **arguments)


def cable(root: Path) -> MVTecAD:
    return MVTecAD(root=root / "MVTecAD", category="cable", num_workers=0)


class Recorder(LightningModule):
    """Stands for a model: it writes down the batches of each stage."""

    def __init__(self, *, trains_on_auxiliary: bool = True) -> None:
        super().__init__()
        self.trains_on_auxiliary = trains_on_auxiliary
        self.pre_processor = PreProcessor(Resize((24, 24)))
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[str, list[ImageBatch]] = {"train": [], "val": [], "test": []}

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.trains_on_auxiliary:
            require_labelled_training_data(self.trainer.datamodule)

    def training_step(self, batch: ImageBatch) -> torch.Tensor:
        self.seen["train"].append(batch)
        return self.weight * 0

    def validation_step(self, batch: ImageBatch) -> None:
        self.seen["val"].append(batch)

    def test_step(self, batch: ImageBatch) -> None:
        self.seen["test"].append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer() -> Trainer:
    return Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def categories(datamodule: AnomalibDataModule, batches: list[ImageBatch]) -> list[str]:
    return [datamodule.category_of(path) for batch in batches for path in batch.image_path]


def test_a_fit_trains_on_the_auxiliary_and_tests_on_the_target(root: Path) -> None:
    auxiliary = [bottle(root), folder(root), MPDD(root=root / "MPDD", category="tubes")]
    datamodule = Transfer(auxiliary=auxiliary, target=BTech(root=root / "BTech", category="01"), num_workers=0)
    model, fit = Recorder(), trainer()

    fit.fit(model, datamodule=datamodule)
    fit.test(model, datamodule=datamodule)

    names = categories(datamodule, model.seen["train"])
    assert {name: names.count(name) for name in set(names)} == {"bottle": 6, "gasket": 4 + 1, "tubes": 6}
    assert datamodule.auxiliary_names == ("MVTecAD", "gasket", "MPDD")
    assert datamodule.auxiliary_categories == ("bottle", "gasket", "tubes")
    assert set(categories(datamodule, model.seen["test"] + model.seen["val"])) == {"01"}
    assert (datamodule.name, datamodule.category, datamodule.categories) == ("BTech", "01", ("01",))
    assert datamodule.is_zero_shot
    for batch in model.seen["train"]:
        assert batch.image.shape[1:] == (3, 24, 24)
        assert batch.gt_mask.shape[1:] == (24, 24)
        assert torch.equal(batch.gt_mask.flatten(1).any(dim=1), batch.gt_label.bool())
        assert batch.batch_size <= 8


@pytest.mark.xfail(
    Version(pd.__version__) >= Version("3"),
    reason="anomalib 2.7 writes lists into a column that pandas 3 makes one of strings",
    raises=TypeError,
)
def test_datasets_that_read_images_in_their_own_way_are_joined(root: Path) -> None:
    auxiliary = [MVTecLOCO(root=root / "LOCO", category="breakfast_box"), cable(root)]
    datamodule, model = Transfer(auxiliary=auxiliary, target=bottle(root), num_workers=0), Recorder()
    trainer().fit(model, datamodule=datamodule)
    assert sorted(categories(datamodule, model.seen["train"])) == ["breakfast_box"] * 7 + ["cable"] * 6
    for batch in model.seen["train"]:
        assert torch.equal(batch.gt_mask.flatten(1).any(dim=1), batch.gt_label.bool())


def test_image_and_mask_are_resized_together(root: Path) -> None:
    datamodule, model = Transfer(auxiliary=bottle(root), target=folder(root)), Recorder()
    datamodule.num_workers = 0
    trainer().fit(model, datamodule=datamodule)
    for batch in model.seen["train"]:
        for image, mask in zip(batch.image, batch.gt_mask, strict=True):
            assert int(mask.sum()) in {0, 36}  # a quarter of each side
            assert not mask.any() or image[:, mask.bool()].mean() > image[:, ~mask.bool()].mean() + 0.2


@pytest.mark.parametrize("several", [False, True], ids=["one", "list"])
def test_a_model_that_trains_on_normal_images_gets_the_targets(
    root: Path, caplog: pytest.LogCaptureFixture, several: bool
) -> None:
    auxiliary = [folder(root), cable(root)] if several else folder(root)
    datamodule = Transfer(auxiliary=auxiliary, target=bottle(root), num_workers=0)
    model = Recorder(trains_on_auxiliary=False)
    with caplog.at_level(logging.WARNING, "anomalib_clipad"):
        trainer().fit(model, datamodule=datamodule)
    assert "trains on no auxiliary dataset: it gets the normal images of MVTecAD" in caplog.text
    assert categories(datamodule, model.seen["train"]) == ["bottle"] * 2
    assert not any(batch.gt_label.any() for batch in model.seen["train"])


def test_a_test_does_not_need_the_auxiliary(root: Path, tmp_path: Path) -> None:
    missing = folder(root, root=tmp_path / "missing")
    datamodule, model = Transfer(auxiliary=missing, target=bottle(root), num_workers=0), Recorder()
    trainer().test(model, datamodule=datamodule)
    assert categories(datamodule, model.seen["test"]) == ["bottle"] * 6


def test_a_reused_datamodule_follows_the_model(root: Path) -> None:
    datamodule = Transfer(auxiliary=folder(root), target=bottle(root), num_workers=0)
    for supervised in (False, True, False):
        model = Recorder(trains_on_auxiliary=supervised)
        trainer().fit(model, datamodule=datamodule)
        assert any(batch.gt_label.any() for batch in model.seen["train"]) == supervised


def test_outside_of_a_trainer_the_auxiliary_is_trained_on(root: Path) -> None:
    datamodule = Transfer(auxiliary=cable(root), target=bottle(root), num_workers=0, shuffle=False)
    datamodule.prepare_data()
    datamodule.setup("test")
    assert not isinstance(datamodule.train_data, LabelledImages)
    datamodule.setup("fit")
    (batch,) = datamodule.train_dataloader()
    assert list(batch.image_path) == list(datamodule.train_data.samples.image_path)
    assert categories(datamodule, [batch]) == ["cable"] * 6
    assert str(datamodule.train_data.task) == str(datamodule.task)


def test_the_targets_own_settings_hold(root: Path) -> None:
    target = bottle(root, eval_batch_size=4, val_split_mode="none", test_augmentations=Resize((10, 10)))
    datamodule = Transfer(auxiliary=cable(root), target=target)
    datamodule.setup("test")
    assert [batch.batch_size for batch in datamodule.test_dataloader()] == [4, 2]
    assert next(iter(datamodule.test_dataloader())).image.shape[2:] == (10, 10)
    assert datamodule.val_dataloader() == []
    assert datamodule.num_workers == 0


def test_the_validation_part_of_an_auxiliary_is_trained_on_too(root: Path) -> None:
    draws = []
    for seed in range(2):
        torch.manual_seed(seed)  # anomalib's random splits follow it
        draws.append(list(labelled_images(folder(root)).samples.image_path))
    assert sum("abnormal" in path for path in draws[0]) == 4
    assert draws[0] == draws[1]


def test_random_splits_of_the_target_are_the_same_in_every_process(root: Path) -> None:
    draws = []
    for seed in range(3):
        torch.manual_seed(seed)
        datamodule = Transfer(auxiliary=bottle(root), target=folder(root))
        datamodule.setup("test")
        draws.append(list(datamodule.val_data.samples.image_path))
    assert draws[0] == draws[1] == draws[2]


def test_a_target_over_several_categories(root: Path) -> None:
    target = MVTec(root=root / "MVTecAD", categories=["bottle", "cable"], num_workers=0)
    datamodule = Transfer(auxiliary=folder(root), target=target)
    datamodule.setup("fit")
    assert datamodule.categories == ("bottle", "cable")
    assert datamodule.category == ""
    assert set(map(datamodule.category_of, datamodule.test_data.samples.image_path)) == {"bottle", "cable"}
    assert set(map(datamodule.category_of, datamodule.train_data.samples.image_path)) == {"gasket"}


def test_the_same_category_is_refused(root: Path, tmp_path: Path) -> None:
    elsewhere = MVTec(root=write_mvtec_ad(tmp_path, ["bottle", "cable"]), num_workers=0)
    datamodule = Transfer(auxiliary=elsewhere, target=bottle(root))
    assert not datamodule.is_zero_shot
    for refused in (datamodule.prepare_data, datamodule.setup):
        with pytest.raises(ValueError, match=r"but got both with MVTec AD bottle\. Choose .* allow_same=True"):
            refused()


def test_other_categories_of_the_same_dataset_are_accepted(root: Path) -> None:
    datamodule = Transfer(auxiliary=cable(root), target=bottle(root))
    datamodule.setup()
    assert datamodule.is_zero_shot


def test_folders_with_the_same_images_are_refused(root: Path) -> None:
    datamodule = Transfer(auxiliary=folder(root, name="other"), target=folder(root))
    with pytest.raises(ValueError, match=r"but got both with .*gaskets.abnormal.000\.png.*\. Choose another"):
        datamodule.setup("fit")


def test_links_to_the_same_images_are_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "renamed").symlink_to(root / "MVTecAD/bottle")
    datamodule = Transfer(auxiliary=MVTecAD(root=tmp_path, category="renamed"), target=bottle(root))
    with pytest.raises(
        ValueError, match=r"but got both with .*bottle.test.good.000\.png.* and 1 more\. Choose another"
    ):
        datamodule.setup("fit")


def test_the_same_dataset_on_request_is_not_zero_shot(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    datamodule = Transfer(auxiliary=folder(root), target=folder(root), allow_same=True)
    with caplog.at_level(logging.WARNING, "anomalib_clipad"):
        datamodule.setup("fit")
    assert not datamodule.is_zero_shot
    assert "the test on gasket is NOT zero-shot" in caplog.text
    assert datamodule.category_of(datamodule.train_data.samples.image_path[0]) == "gasket"


@pytest.mark.parametrize("make", [bottle, lambda root: Transfer(auxiliary=bottle(root), target=cable(root))])
def test_normal_images_alone_stop_a_supervised_model(root: Path, make: object) -> None:
    datamodule = make(root)
    datamodule.setup("test")  # not for fit: the training images are the target's normal ones
    with pytest.raises(
        ValueError, match=r"but got 2 normal images of .*: run `anomalib train --model .* --data MVTec`"
    ):
        require_labelled_training_data(datamodule)


def test_supervised_training_on_a_plain_datamodule_stops_at_once(root: Path) -> None:
    model = Recorder()
    with pytest.raises(ValueError, match="but got 2 normal images of MVTecAD"):
        trainer().fit(model, datamodule=bottle(root))
    assert model.seen["train"] == []


def test_images_without_masks_are_refused(root: Path) -> None:
    datamodule = Transfer(auxiliary=folder(root, mask_dir=None), target=bottle(root))
    datamodule.setup("fit")
    with pytest.raises(ValueError, match=r"4 anomalous training images of Transfer to have masks, .* `mask_dir`"):
        require_labelled_training_data(datamodule)


def test_masks_and_depth_are_checked_before_training(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "gaskets", tmp_path / "gaskets")
    (tmp_path / "gaskets/mask/001.png").write_bytes((root / "BTech/01/ground_truth/ko/000.png").read_bytes())
    model = Recorder()
    with pytest.raises(ValueError, match=r"48x48 pixels, but got 32x32 pixels: .*mask.001\.png"):
        trainer().fit(model, datamodule=Transfer(auxiliary=folder(tmp_path), target=bottle(root)))
    assert model.seen["train"] == []


def test_no_datamodule_is_let_through() -> None:
    require_labelled_training_data(None)


@pytest.mark.parametrize("lost", ["abnormal/001.png", "mask/002.png"])
def test_unpaired_files_of_a_folder_are_named(root: Path, tmp_path: Path, lost: str) -> None:
    shutil.copytree(root / "gaskets", tmp_path / "gaskets")
    (tmp_path / "gaskets" / lost).unlink()
    partner = {"abnormal/001.png": "mask/001.png", "mask/002.png": "abnormal/002.png"}[lost]
    with pytest.raises(ValueError, match=rf"gasket to hold one mask for each .* a partner: \S*{partner}\. Add"):
        Transfer(auxiliary=folder(tmp_path), target=bottle(root)).setup("fit")


def test_unpaired_files_of_a_host_datamodule_are_named(tmp_path: Path, root: Path) -> None:
    write_mvtec_ad(tmp_path / "MVTecAD", ["bottle"])
    mask = tmp_path / "MVTecAD/bottle/ground_truth/scratch/001_mask.png"
    mask.rename(mask.with_name("009_mask.png"))
    with pytest.raises(ValueError, match=r"without a partner: \S*scratch.001\.png, \S*009_mask\.png\. Add"):
        Transfer(auxiliary=bottle(tmp_path), target=folder(root)).setup("fit")


def test_other_errors_of_a_datamodule_are_left_as_they_are(root: Path) -> None:
    with pytest.raises(ValueError, match=r"Split ratios must sum to 1|between 0 and 1") as error:
        Transfer(auxiliary=folder(root, val_split_ratio=1.5), target=bottle(root)).setup("fit")
    assert "partner" not in str(error.value)


def test_deep_images_are_refused(root: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "deep/normal", 3)
    shutil.copytree(root / "gaskets/abnormal", tmp_path / "deep/abnormal")
    shutil.copytree(root / "gaskets/mask", tmp_path / "deep/mask")
    for path in (tmp_path / "deep/abnormal").iterdir():
        Image.new("I;16", (48, 48)).save(path)
    datamodule = Transfer(auxiliary=folder(root, root=tmp_path / "deep"), target=bottle(root))
    datamodule.setup("fit")
    with pytest.raises(ValueError, match="8 bits a channel"):
        require_labelled_training_data(datamodule)


def test_normalisation_is_left_to_the_model(root: Path) -> None:
    datamodule, model = Transfer(auxiliary=cable(root), target=bottle(root), num_workers=0), Recorder()
    model.pre_processor = PreProcessor(Normalize([0.5] * 3, [0.5] * 3))
    trainer().fit(model, datamodule=datamodule)
    assert model.seen["train"][0].image.shape[2:] == (40, 40)


CONFIG = """
class_path: anomalib_clipad.data.Transfer
init_args:
  auxiliary:
    - class_path: anomalib.data.MVTecAD
      init_args: {root: ROOT/MVTecAD, category: bottle}
    - class_path: anomalib.data.MVTecAD
      init_args: {root: ROOT/MVTecAD, category: cable}
  target:
    class_path: anomalib.data.Folder
    init_args: {name: gasket, root: ROOT/gaskets, normal_dir: normal, abnormal_dir: abnormal, mask_dir: mask}
  shuffle: false
"""


def test_from_yaml(root: Path, tmp_path: Path) -> None:
    config = tmp_path / "data.yaml"
    config.write_text(CONFIG.replace("ROOT", str(root)))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(AnomalibDataModule, "data")
    datamodule = parser.instantiate_classes(parser.parse_args(["--data", str(config)])).data
    datamodule.setup("fit")
    names = [datamodule.category_of(path) for path in datamodule.train_data.samples.image_path]
    assert names == ["bottle"] * 6 + ["cable"] * 6
    assert datamodule.categories == ("gasket",)
