# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The user's commands for SDP+, typed as in the README, on small datasets in the real folder layouts."""

import pytest

import layouts
from anomalib_clipad.data.published import VISA
from terminal import SameProcess, Terminal
from tiny import ON_TINY

pytestmark = pytest.mark.slow

SDP_PLUS = ("--model", "anomalib_clipad.SDPPlus", *ON_TINY)
MVTEC = ("--data", "MVTec", "--data.root", "data/MVTecAD", "--data.categories", "bottle,metal_nut")
VISA_TARGET = ("--data", "VisA", "--data.root", "data/visa", "--data.categories", "capsules,pcb1")
IN_PROCESS = ("--data.num_workers", "0")


def test_heads_are_trained_on_visa_and_used_on_mvtec_and_back(anomalib: Terminal) -> None:
    layouts.write_mvtec_ad(anomalib.folder / "data/MVTecAD", ["bottle", "metal_nut"])
    layouts.write_visa(anomalib.folder / "data/visa", VISA.categories, n_good=2, n_defect=2)

    output = anomalib("train", *SDP_PLUS, "--model.epochs", "1", "--model.token_cache", "disk", *MVTEC, *IN_PROCESS)

    assert "Training on 48 labelled images of VisA" in output
    assert "Metrics per category" in output
    trained = anomalib.table("MVTec", "SDPPlus")
    assert list(trained) == ["bottle", "metal_nut", "mean"]
    results = anomalib.results("MVTec", "SDPPlus").resolve()
    files = {path.relative_to(results).as_posix() for path in results.rglob("*.*") if path.suffix != ".png"}
    heads, checkpoint = "heads.safetensors", "weights/lightning/model.ckpt"
    assert {heads, checkpoint, "metrics_per_category.csv"} <= files
    assert not [name for name in files if "token_cache" in name]

    tables = []
    for given in (("--model.heads", str(results / heads)), ("--ckpt_path", str(results / checkpoint))):
        anomalib("test", *SDP_PLUS, *given, *VISA_TARGET, *IN_PROCESS)
        tables.append(anomalib.table("VisA", "SDPPlus"))
    assert list(tables[0]) == ["capsules", "pcb1", "mean"]
    # Ranks, unlike the thresholds behind F1Max, do not depend on where the calibration comes from.
    for metric in ("pixel_AUROC", "pixel_AUPR", "pixel_AUPRO"):
        values = [float(table["mean"][metric]) for table in tables]
        assert values[0] == pytest.approx(values[1], abs=1e-3)


def test_a_datamodule_with_normal_images_alone_stops_at_once(same_process: SameProcess) -> None:
    layouts.write_mvtec_ad(same_process.folder / "data")

    data = ("--data", "MVTecAD", "--data.category", "bottle", "--data.root", "data", *IN_PROCESS)
    output = same_process("train", *SDP_PLUS, *data, succeeds=False)

    assert "Expected the training images to be normal and anomalous ones with masks, but got 2 normal images" in output
    assert "run `anomalib train --model anomalib_clipad.SDPPlus --data MVTec`" in output
    assert not list(same_process.folder.rglob("heads.safetensors"))


@pytest.mark.parametrize("allow", [False, True])
def test_the_target_as_its_own_auxiliary(same_process: SameProcess, allow: bool) -> None:
    root = layouts.write_mvtec_ad(same_process.folder / "data/MVTecAD", ["bottle", "metal_nut"])
    auxiliary = ("--data.auxiliary", "MVTec", "--data.auxiliary.root", str(root))
    same = ("--data.auxiliary.categories", "metal_nut", "--data.allow_same", str(allow).lower())

    output = same_process(
        "train", *SDP_PLUS, "--model.epochs", "1", *MVTEC, *auxiliary, *same, *IN_PROCESS, succeeds=allow
    )

    if allow:
        assert "the test on MVTec is NOT zero-shot" in output
        assert list(same_process.table("MVTec", "SDPPlus")) == ["bottle", "metal_nut", "mean"]
    else:
        assert "Expected auxiliary and target to be different datasets, but got both with MVTec AD metal_nut" in output
        assert "--data.allow_same true" in output
        assert not list(same_process.folder.rglob("heads.safetensors"))
