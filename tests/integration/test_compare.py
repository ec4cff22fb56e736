# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""`anomalib-clipad compare` as a user types it: jobs, failures, a kill and a restart."""

import csv
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import yaml
from anomalib.data.datasets.image.mvtecad import CATEGORIES as MVTEC_AD_CATEGORIES
from anomalib.data.datasets.image.visa import CATEGORIES as VISA_CATEGORIES

import warm
from anomalib_clipad.cli import main
from anomalib_clipad.compare.records import read_grid, read_records
from layouts import write_mvtec_ad, write_visa
from terminal import CLIPAD
from tiny import BACKBONE

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[2] / "configs"
UNTRAINED = {"backbone": "resnet18", "layers": ["layer1"], "pre_trained": False}
TINY = {"backbone": BACKBONE}
MODELS = {
    "SDP": {"class_path": "anomalib_clipad.SDP", "init_args": TINY},
    "Padim, untrained": {"class_path": "anomalib.models.Padim", "init_args": {**UNTRAINED, "n_features": 20}},
    "SDP+": {"class_path": "anomalib_clipad.SDPPlus", "init_args": {**TINY, "epochs": 1, "token_cache": "memory"}},
    "impossible": {"class_path": "beside.OwnModel", "init_args": {**TINY, "image_size": 121}},
}
RECIPE = {"root": "data", "n_train": 3, "n_test_good": 4, "n_test_per_defect": 1, "image_size": 64, "num_workers": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a grid of four models on two categories, of which one model fails."""
    folder = tmp_path_factory.mktemp("compare")
    auxiliary = {
        "class_path": "anomalib_clipad.SyntheticDefects",
        "init_args": {**RECIPE, "categories": ["nut"], "n_test_good": 2, "root": "auxiliary"},
    }
    config = {
        "models": MODELS,
        "datasets": {
            "drawn": {
                "class_path": "anomalib_clipad.SyntheticDefects",
                "init_args": {**RECIPE, "auxiliary": auxiliary},
                "categories": ["wood", "gear"],
            }
        },
        "accelerator": "cpu",
        "reference_pro": True,
    }
    (folder / "grid.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    own = "from anomalib_clipad import SDP\n\nclass OwnModel(SDP):\n    '''A class of the user, beside the config.'''\n"
    (folder / "beside.py").write_text(own)
    return folder


def start(folder: Path, output: str) -> warm.Running:
    environment = {**os.environ, "ANOMALIB_CLIPAD_CACHE": str(folder / "cache")}
    return warm.Running([CLIPAD, "compare", "--config", "grid.yaml", "--output", output], cwd=folder, env=environment)


def results(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def without_timings(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    timings = {"wall_s", "fit_s", "test_s", "model_images_per_s", "end_to_end_images_per_s", "peak_memory_mb"}
    return [{name: value for name, value in row.items() if name not in timings} for row in rows]


@pytest.fixture(scope="module")
def through(folder: Path) -> tuple[int, str]:
    """Exit code and output of a grid that ran through."""
    process = start(folder, "through")
    return process.wait(), process.printed()


def test_a_failing_job_is_recorded_and_the_grid_goes_on(folder, through):
    code, output = through

    assert code == 1, output[-3000:]
    assert "6 of 8 jobs done" in output
    assert "Expected image_size to be a multiple of the patch size 8x8, but got 121x121" in output
    records = read_records(folder / "through")
    assert [record.status for record in records] == ["done", "done", "done", "failed"] * 2
    assert "Traceback" in records[3].traceback
    assert {"index.html", "results.csv", "results.md", "compare.yaml"} <= {
        path.name for path in (folder / "through").iterdir()
    }


def test_models_are_tested_alike_and_their_cost_is_recorded(folder, through):
    sdp, padim, plus, _ = read_records(folder / "through")[:4]

    assert set(sdp.metrics) == set(padim.metrics) == set(plus.metrics)
    assert len(sdp.metrics) == 8
    for record in (sdp, padim, plus):
        assert record.measures.images == 18
        assert record.measures.peak_memory_mb > 100
        assert record.measures.checkpoint_bytes > 1000
        assert record.measures.end_to_end_images_per_s > 0
        assert record.provenance.calibrated_on_test
    assert (sdp.provenance.zero_shot, padim.provenance.zero_shot, plus.provenance.zero_shot) == (True, False, True)
    assert (sdp.provenance.backbone, sdp.provenance.weights) == ("clipad-tiny", "in the package")
    assert padim.provenance.weights == "untrained"
    assert padim.measures.fit_s > 0
    assert len(list((folder / "through/heads").glob("*.safetensors"))) == 1  # for both categories


def test_a_killed_grid_goes_on_where_it_was(folder, through):
    process = start(folder, "killed")
    for _ in range(3000):
        if list((folder / "killed/jobs").glob("*/record.json")) or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in (folder / "killed/jobs").glob("*/record.json")}
    assert 0 < len(done) < len(read_grid(folder / "killed"))

    process = start(folder, "killed")

    assert process.wait() == 1, process.printed()[-3000:]
    assert all(path.stat().st_mtime_ns == before for path, before in done.items() if "impossible" not in str(path))
    assert without_timings(results(folder / "killed")) == without_timings(results(folder / "through"))


def test_the_report_can_be_written_again(folder, through):
    page = folder / "through/index.html"
    page.unlink()
    process = warm.run([CLIPAD, "report", "through"], cwd=folder)
    assert process.returncode == 0, process.stderr
    assert page.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "--config", "none.yaml"], "none.yaml"),
        (["compare", "--config", "grid.yaml", "--models", '{"A": {"class_path": "nowhere.A"}}'], "Expected models.A"),
        (["report", "nowhere"], "Expected output to be the folder of a comparison, but got nowhere"),
    ],
)
def test_wrong_arguments(folder, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_expected_figures_are_checked(folder):
    grid = yaml.safe_load((folder / "grid.yaml").read_text())
    grid["models"], grid["datasets"] = {"SDP": MODELS["SDP"]}, {"drawn things": grid["datasets"]["drawn"]}
    grid["needs"] = "half a minute (an estimate)"
    grid["tolerance"] = 0.5
    grid["expected"] = {"SDP": {"drawn things": {"pixel_AUROC": 1, "source": "nobody: a test"}}}
    (folder / "expecting.yaml").write_text(yaml.safe_dump(grid))
    arguments = ["compare", "--config", "expecting.yaml", "--output", "expecting"]
    process = warm.run([CLIPAD, *arguments, "--check"], cwd=folder)

    [measured] = re.findall(
        r"Not reached: SDP on drawn things, pixel AUROC: measured (\d\S+), expected 1.0, ", process.stderr
    )
    assert process.returncode == 1
    assert process.stderr.index("Needs: half a minute") < process.stderr.index("SDP on drawn things wood")
    assert "2 of 2 jobs done." in process.stdout
    assert "0 of 1 expected figures reached." in process.stdout
    for name in ("results.md", "index.html"):
        page = (folder / "expecting" / name).read_text()
        assert f"{float(measured) - 1:+.1f}" in page
        assert "Expected of SDP: nobody: a test." in page

    # On the finished grid: another expectation runs nothing again.
    before = {path: path.stat().st_mtime_ns for path in (folder / "expecting/jobs").rglob("*")}
    met = ["--expected", json.dumps({"SDP": {"drawn things": {"pixel_AUROC": float(measured), "source": "this"}}})]
    process = warm.run([CLIPAD, *arguments, *met, "--check"], cwd=folder)

    assert process.returncode == 0, process.stderr[-3000:]
    assert "1 of 1 expected figures reached." in process.stdout
    assert "Needs" not in process.stderr
    assert {path: path.stat().st_mtime_ns for path in (folder / "expecting/jobs").rglob("*")} == before


def test_what_a_failed_job_leaves_unmeasured_is_said(folder, through, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    expected = {"impossible": {"drawn": {"image_AUROC": 50, "source": "nobody"}}}
    arguments = ["--expected", json.dumps(expected), "--retry_failed", "false", "--check"]
    with pytest.raises(SystemExit) as error:
        main(["compare", "--config", "grid.yaml", "--output", "through", *arguments])
    assert error.value.code == 1
    message = "Not measured: impossible on drawn, image AUROC: expected 50.0, 0 of 2 runs have a value."
    assert message in capsys.readouterr().err
    assert "not measured (0/2 runs)" in (folder / "through/results.md").read_text()


def test_without_an_expected_figure_there_is_nothing_to_check(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as error:
        main(["compare", "--config", "grid.yaml", "--output", "unchecked", "--check"])
    assert error.value.code == 2
    assert "Expected the config to have expected figures to check, but got none." in capsys.readouterr().err
    assert not (folder / "unchecked").exists()


@pytest.mark.parametrize(("name", "categories"), [("mvtec", ["bottle", "cable"]), ("visa", ["candle"])])
def test_the_papers_grid_runs_on_both_datasets_as_they_are_downloaded(tmp_path, monkeypatch, capsys, name, categories):
    write_mvtec_ad(tmp_path / "datasets/MVTecAD", MVTEC_AD_CATEGORIES, n_good=1, n_defect=1)
    write_visa(tmp_path / "datasets/visa", VISA_CATEGORIES, n_good=1, n_defect=1)
    config = yaml.safe_load((CONFIGS / f"paper_{name}.yaml").read_text())
    del config["models"]["WinCLIP"], config["expected"]["WinCLIP"]  # it needs an older open_clip and weights
    for model in config["models"].values():
        model["init_args"] = {**model["init_args"], "backbone": BACKBONE, "pretrained": None, "epochs": 1}
    del config["models"]["SDP"]["init_args"]["epochs"]
    [dataset] = config["datasets"].values()
    dataset["categories"] = categories
    dataset["init_args"]["num_workers"] = 0
    (tmp_path / "paper.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SystemExit) as exit_:
        main(["compare", "--config", "paper.yaml", "--accelerator", "cpu"])

    shown = capsys.readouterr()
    assert exit_.value.code == 0, shown.err[-3000:]
    assert f"{2 * len(categories)} of {2 * len(categories)} jobs done" in shown.out
    assert "Needs: " in shown.err
    tables = (tmp_path / f"results/paper/{name}/results.md").read_text()
    assert ("| SDP+ | pixel PRO, 200 thresholds |" in tables) == (name == "mvtec")
