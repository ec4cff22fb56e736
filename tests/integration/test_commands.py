# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The user's commands, typed as in the README, on small datasets in the real folder layouts."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

import layouts
from terminal import SameProcess, Terminal
from tiny import ON_TINY

CONFIGS = Path(__file__).parents[2] / "configs"
METRICS = ["image_AUROC", "image_F1Max", "image_AUPR", "pixel_AUROC", "pixel_F1Max", "pixel_AUPR", "pixel_AUPRO"]

pytestmark = pytest.mark.slow

SDP = ("--model", "anomalib_clipad.SDP", *ON_TINY)
IN_PROCESS = ("--data.num_workers", "0")


@pytest.mark.parametrize(
    ("write", "arguments", "category"),
    [
        (layouts.write_mvtec_ad, ["--data", "MVTecAD", "--data.category", "bottle"], "bottle"),
        (layouts.write_visa, ["--data", "Visa", "--data.category", "capsules"], "capsules"),
        (layouts.write_mvtec_loco, ["--data", "MVTecLOCO", "--data.category", "breakfast_box"], "breakfast_box"),
        (layouts.write_btech, ["--data", "BTech", "--data.category", "01"], "01"),
        (layouts.write_mpdd, ["--data", "MPDD", "--data.category", "bracket_black"], "bracket_black"),
    ],
    ids=["MVTecAD", "Visa", "MVTecLOCO", "BTech", "MPDD"],
)
def test_hosts_datamodules(
    same_process: SameProcess, write: Callable[[Path], Path], arguments: Sequence[str], category: str
) -> None:
    write(same_process.folder / "data")

    same_process("test", *SDP, *arguments, "--data.root", "data", *IN_PROCESS)

    table = same_process.table(arguments[1], "SDP", category)
    assert list(table) == [category, "mean"]
    assert all(0 <= float(table["mean"][metric]) <= 1 for metric in METRICS)


def test_folder_with_a_class_name(anomalib: Terminal) -> None:
    layouts.write_folder(anomalib.folder / "data")

    anomalib(
        *("test", *SDP, "--model.class_name", "gasket", "--data", "Folder", "--data.name", "gaskets"),
        *("--data.root", "data", "--data.normal_dir", "normal", "--data.abnormal_dir", "abnormal"),
        *("--data.mask_dir", "mask", *IN_PROCESS),
    )

    assert float(anomalib.table("gaskets")["mean"]["pixel_AUROC"]) > 0.5


def test_several_categories_of_mvtec(anomalib: Terminal) -> None:
    layouts.write_mvtec_ad(anomalib.folder / "data", ["bottle", "metal_nut"])

    output = anomalib(
        *("test", *SDP, "--data", "MVTec", "--data.root", "data"),
        *("--data.categories", '["bottle","metal_nut"]', *IN_PROCESS),
    )

    table = anomalib.table("MVTec")
    assert list(table) == ["bottle", "metal_nut", "mean"]
    for metric in METRICS:
        mean = (float(table["bottle"][metric]) + float(table["metal_nut"][metric])) / 2
        assert float(table["mean"][metric]) == pytest.approx(mean, abs=1e-4)
    assert "Metrics per category" in output
    images = anomalib.results("MVTec").resolve() / "images"
    pictures = [path.relative_to(images) for path in images.rglob("*.png")]
    assert len([path for path in pictures if path.parts[0] == "bottle"]) == 6
    assert len([path for path in pictures if path.parts[0] == "metal_nut"]) == 6


def test_several_categories_of_visa(same_process: SameProcess) -> None:
    layouts.write_visa(same_process.folder / "data", ["capsules", "pcb1"])

    same_process(
        "test", *SDP, "--data", "VisA", "--data.root", "data", "--data.categories", "capsules,pcb1", *IN_PROCESS
    )

    assert list(same_process.table("VisA")) == ["capsules", "pcb1", "mean"]


def test_quickstart_config(same_process: SameProcess) -> None:
    same_process(
        *("test", "--config", str(CONFIGS / "quickstart.yaml"), "--data.categories", "wood,gear", *IN_PROCESS),
        *("--data.n_train", "1", "--data.n_test_good", "4", "--data.n_test_per_defect", "1"),
    )

    assert list(same_process.table("SyntheticDefects")) == ["gear", "wood", "mean"]


def test_predict_on_a_folder_of_images_without_labels(anomalib: Terminal) -> None:
    layouts.write_images(anomalib.folder / "photos", 3)
    Image.new("L", (64, 40), 120).save(anomalib.folder / "photos/grey.png")
    Image.new("RGBA", (40, 64), (90, 90, 90, 128)).save(anomalib.folder / "photos/transparent.png")

    anomalib("predict", *SDP, "--model.class_name", "gasket", "--data", "photos")

    assert len(list((anomalib.folder / "results").rglob("images/**/*.png"))) == 5


def test_prompts_of_ones_own_from_a_file(same_process: SameProcess) -> None:
    layouts.write_images(same_process.folder / "photos", 2)
    (same_process.folder / "prompts.yaml").write_text(
        "extends: industrial\nanomalous_states: ['torn {}', '{} with a burr']\nclass_names: {xy-7: rubber seal}\n"
    )

    output = same_process(
        "predict", *SDP, "--model.class_name", "xy-7", "--model.prompts", "prompts.yaml", "--data", "photos"
    )

    assert "Error" not in output
    assert len(list((same_process.folder / "results").rglob("images/**/*.png"))) == 2


def test_paper_configs_are_valid_and_name_what_to_do_without_network(anomalib: Terminal) -> None:
    output = anomalib("test", "--config", str(CONFIGS / "sdp_mvtec.yaml"), succeeds=False)

    assert "anomalib: error: Expected to download the weights 'laion400m_e31'" in output
    assert "pretrained=/path/to/weights" in output
    assert "--model.backbone clipad-tiny" in output
    assert "Traceback" not in output


BAD_ARGUMENTS = {
    "backbone": (["--model.backbone", "ViT-B-61"], "Expected backbone to be a known architecture, but got 'ViT-B-61'"),
    "strategy": (["--model.strategy", "median"], "Expected strategy to be one of"),
    "layer": (["--model.layers", "[99]"], "Valid layers are 1 to 8"),
    "category": (["--data.categories", "bottel"], "Valid: bottle"),
    "root": (["--data.root", "nowhere"], "nowhere"),
    "prompt": (["--model.prompts", '{"anomalous_states": ["broken {}"]}'], "Add 'extends: industrial'"),
    "size": (["--model.image_size", "121"], "The nearest valid size is 120x120"),
}
TEST_MVTEC = ("test", *SDP, "--data", "MVTec", "--data.root", "data", *IN_PROCESS)


def test_a_bad_argument_ends_the_command_with_an_error(anomalib: Terminal) -> None:
    layouts.write_mvtec_ad(anomalib.folder / "data", ["bottle"])
    arguments, message = BAD_ARGUMENTS["layer"]

    assert message in anomalib(*TEST_MVTEC, *arguments, succeeds=False)
    assert not list(anomalib.folder.rglob("metrics_per_category.csv"))


@pytest.mark.parametrize("name", [name for name in BAD_ARGUMENTS if name != "layer"])
def test_bad_arguments_end_in_one_clear_error(same_process: SameProcess, name: str) -> None:
    layouts.write_mvtec_ad(same_process.folder / "data", ["bottle"])
    arguments, message = BAD_ARGUMENTS[name]

    assert message in same_process(*TEST_MVTEC, *arguments, succeeds=False)
    assert not list(same_process.folder.rglob("metrics_per_category.csv"))
