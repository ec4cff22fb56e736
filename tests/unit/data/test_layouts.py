# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The host's own datamodules read the tiny datasets, without network."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from anomalib.data import MPDD, AnomalibDataModule, BTech, Folder, MVTecAD, MVTecLOCO, Visa
from packaging.version import Version

from layouts import write_btech, write_folder, write_mpdd, write_mvtec_ad, write_mvtec_loco, write_visa

NO_WORKERS = {"num_workers": 0, "eval_batch_size": 16}
CASES = {
    "MVTecAD": (write_mvtec_ad, lambda root: MVTecAD(root=root, category="bottle", **NO_WORKERS), 6),
    "Visa": (write_visa, lambda root: Visa(root=root, category="capsules", **NO_WORKERS), 6),
    "MPDD": (write_mpdd, lambda root: MPDD(root=root, category="bracket_black", **NO_WORKERS), 6),
    "BTech": (write_btech, lambda root: BTech(root=root, category="01", **NO_WORKERS), 6),
    "MVTecLOCO": (write_mvtec_loco, lambda root: MVTecLOCO(root=root, category="breakfast_box", **NO_WORKERS), 7),
    "Folder": (
        write_folder,
        lambda root: Folder(
            name="tiny",
            root=root,
            normal_dir="normal",
            abnormal_dir="abnormal",
            mask_dir="mask",
            val_split_mode="same_as_test",
            seed=0,
            **NO_WORKERS,
        ),
        5,  # 4 abnormal, and a fifth of the 6 normal ones
    ),
}


LOCO_FAILS = pytest.mark.xfail(
    Version(pd.__version__) >= Version("3"),
    reason="anomalib 2.7 writes lists into a column that pandas 3 makes one of strings",
    raises=TypeError,
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=LOCO_FAILS) if name == "MVTecLOCO" else name for name in CASES]
)
def test_host_reads_the_layout(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_args: object, **_kwargs: object) -> None:
        pytest.fail("the host wanted to download")

    monkeypatch.setattr("anomalib.data.utils.download.urlretrieve", no_network)
    write: Callable[[Path], Path]
    build: Callable[[Path], AnomalibDataModule]
    write, build, n_test = CASES[name]
    datamodule = build(write(tmp_path / "dataset"))
    datamodule.prepare_data()
    datamodule.setup()
    assert len(datamodule.train_data) > 0
    assert len(datamodule.val_data) > 0
    batch = next(iter(datamodule.test_dataloader()))
    assert len(batch.image_path) == n_test
    assert batch.image.shape[-2:] == (48, 48)
    anomalous = batch.gt_label.bool()
    assert 0 < int(anomalous.sum()) < n_test
    # The mask marks the bright square, and nothing else is bright.
    bright = batch.image.mean(dim=1) > 0.65
    agreement = (bright == batch.gt_mask.bool()).float().mean(dim=(1, 2))
    assert agreement.min() > 0.95
    assert (batch.gt_mask.flatten(1).any(dim=1) == anomalous).all()


def test_equal_arguments_give_equal_files(tmp_path: Path) -> None:
    first, second = (write_mvtec_ad(tmp_path / name) for name in ("a", "b"))
    files = sorted(path.relative_to(first) for path in first.rglob("*.png"))
    assert len(files) == 2 + 3 + 3 + 3
    assert all((first / path).read_bytes() == (second / path).read_bytes() for path in files)
