# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Per-category metrics against hand computation with scikit-learn and against the host's evaluator."""

import csv
import logging
import math
import pickle
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from anomalib import LearningType
from anomalib.data import Folder, ImageBatch, InferenceBatch
from anomalib.engine import Engine
from anomalib.metrics import AUPR, AUPRO, AUROC, Evaluator, F1Max, F1Score
from anomalib.models import AnomalibModule
from jsonargparse import ArgumentParser
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import nn

from anomalib_clipad.data import MVTec
from anomalib_clipad.metrics.evaluator import CategoryEvaluator, default_metrics
from layouts import write_folder, write_mvtec_ad

NAMES = ["image_AUROC", "image_F1Max", "image_AUPR", "pixel_AUROC", "pixel_F1Max", "pixel_AUPR", "pixel_AUPRO"]
Groups = dict[str, list[dict[str, Any]]]
SIZES = {"bottle": 7, "cable": 10, "metal_nut": 5}


def make_images(category: str, n: int, *, kind: str = "both", masks: bool = True) -> list[dict[str, Any]]:
    """Return n scored images of a category, each category on a score scale of its own."""
    generator = torch.Generator().manual_seed(sum(map(ord, category)))
    images = []
    for index in range(n):
        anomalous = {"both": index % 2 == 1, "normal": False, "anomalous": True}[kind]
        mask = torch.zeros(16, 16, dtype=torch.bool)
        mask[3:8, 4:9] = anomalous
        scale = 0.2 + 0.1 * (len(category) % 5)
        anomaly_map = scale * torch.rand(16, 16, generator=generator) + 0.1 * mask
        images.append(
            {
                "image": torch.zeros(3, 16, 16),
                "image_path": f"root/{category}/test/x/{index:03d}.png",
                "gt_label": torch.tensor(int(anomalous)),
                "gt_mask": mask if masks else None,
                "pred_score": (scale * torch.rand((), generator=generator) + 0.1 * anomalous).clamp(0, 1),
                "anomaly_map": anomaly_map,
            }
        )
    return images


def collate(images: Sequence[dict[str, Any]]) -> ImageBatch:
    columns = {key: [image[key] for image in images] for key in images[0]}
    return ImageBatch(
        **{
            key: values if key == "image_path" else None if values[0] is None else torch.stack(values)
            for key, values in columns.items()
        }
    )


class Datamodule:
    """Tells a category by the path, as :class:`MVTec` does."""

    category = ""

    @staticmethod
    def category_of(path: str) -> str:
        return Path(path).parts[1]


def run(
    evaluator: Evaluator,
    batches: Iterable[ImageBatch],
    folder: Path,
    *,
    datamodule: object | None = None,
    announced: Sequence[str] = (),
    is_global_zero: bool = True,
) -> dict[str, float]:
    """Drive an evaluator through a test as a trainer does and return what it logged.

    Args:
        evaluator: Any.
        batches: Test batches.
        folder: The trainer's root folder.
        datamodule: As ``trainer.datamodule``.
        announced: Image paths of the test dataset, so that complete categories can be told.
        is_global_zero: As ``trainer.is_global_zero``.
    """
    logged: dict[str, float] = {}

    def log(name: str, value: Any, **_options: object) -> None:
        logged[name] = float(value.compute() if hasattr(value, "compute") else value)

    evaluator.log = log
    dataset = SimpleNamespace(samples={"image_path": list(announced)}) if announced else None
    trainer = SimpleNamespace(
        datamodule=datamodule,
        test_dataloaders=SimpleNamespace(dataset=dataset),
        is_global_zero=is_global_zero,
        default_root_dir=str(folder),
        barebones=False,
    )
    evaluator.on_test_epoch_start(trainer, None)
    for index, batch in enumerate(batches):
        evaluator.on_test_batch_end(trainer, None, None, batch, index)
    evaluator.on_test_epoch_end(trainer, None)
    return logged


def read_csv(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics_per_category.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def by_hand(images: Sequence[dict[str, Any]]) -> dict[str, float]:
    labels, scores = [int(i["gt_label"]) for i in images], [float(i["pred_score"]) for i in images]
    masks = torch.stack([i["gt_mask"] for i in images]).ravel().numpy()
    maps = torch.stack([i["anomaly_map"] for i in images]).ravel().numpy()
    return {
        "image_AUROC": roc_auc_score(labels, scores),
        "image_AUPR": average_precision_score(labels, scores),
        "pixel_AUROC": roc_auc_score(masks, maps),
        "pixel_AUPR": average_precision_score(masks, maps),
    }


@pytest.fixture
def images() -> Groups:
    return {category: make_images(category, n) for category, n in SIZES.items()}


def in_batches(images: Sequence[dict[str, Any]], size: int) -> list[ImageBatch]:
    return [collate(images[start : start + size]) for start in range(0, len(images), size)]


@pytest.mark.parametrize("order", ["by category", "interleaved"])
@pytest.mark.parametrize("announce", [True, False])
def test_mean_over_categories(
    images: Groups, order: str, announce: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = [image for group in images.values() for image in group]
    if order == "interleaved":
        everything = everything[::3] + everything[1::3] + everything[2::3]
    announced = [image["image_path"] for image in everything] if announce else []
    evaluator = CategoryEvaluator()
    logged = run(evaluator, in_batches(everything, 4), tmp_path, datamodule=Datamodule(), announced=announced)

    expected = {category: by_hand(group) for category, group in images.items()}
    assert sorted(logged) == sorted(NAMES)
    for name in expected["bottle"]:
        for category, values in expected.items():
            assert evaluator.report.categories[category][name] == pytest.approx(values[name], abs=1e-6)
        mean = sum(values[name] for values in expected.values()) / 3
        assert logged[name] == pytest.approx(mean, abs=1e-6)
    # The mean is another number than the pooled one, or this test could not tell them apart.
    assert abs(logged["image_AUROC"] - by_hand(everything)["image_AUROC"]) > 0.01

    rows = read_csv(tmp_path)
    assert list(rows[0]) == ["category", "n_images", *NAMES]
    assert {row["category"]: int(row["n_images"]) for row in rows} == SIZES | {"mean": 22}
    assert rows[-1]["category"] == "mean"
    for name in NAMES:
        assert float(rows[-1][name]) == pytest.approx(logged[name], abs=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics_per_category.csv"]
    printed = capsys.readouterr().out
    assert [word for word in ("metal_nut", "mean", f"{logged['pixel_AUPRO']:.4f}") if word not in printed] == []
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.parametrize("datamodule", [None, SimpleNamespace(category="bottle")])
def test_one_category_equals_the_host(
    images: Groups, datamodule: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batches = in_batches(images["bottle"], 4)
    ours = run(CategoryEvaluator(), batches, tmp_path, datamodule=datamodule)
    host = run(Evaluator(test_metrics=default_metrics()), batches, tmp_path)
    assert list(ours) == list(host) == NAMES
    assert ours == pytest.approx(host, abs=1e-6)
    rows = read_csv(tmp_path)
    assert [row["category"] for row in rows] == ["bottle" if datamodule else "all", "mean"]
    assert rows[0]["pixel_AUPRO"] == rows[1]["pixel_AUPRO"]
    assert capsys.readouterr().out == ""


def test_complete_categories_are_let_go(images: Groups, tmp_path: Path) -> None:
    everything = [image for group in images.values() for image in group]
    evaluator = CategoryEvaluator()
    held = []

    def watched() -> Iterable[ImageBatch]:
        for batch in in_batches(everything, 3):
            yield batch
            held.append(sum(map(len, evaluator._waiting.values())))

    paths = [image["image_path"] for image in everything]
    run(evaluator, watched(), tmp_path, datamodule=Datamodule(), announced=paths)
    assert max(held) < max(SIZES.values())
    assert held[-1] == 0


@pytest.mark.parametrize("kind", ["both", "normal"])
def test_counted_pixels_give_the_metrics_of_kept_maps(images: Groups, kind: str, tmp_path: Path) -> None:
    everything = [image for group in images.values() for image in group] + make_images("extra", 4, kind=kind)
    results = [
        run(evaluator, in_batches(everything, 4), tmp_path, datamodule=Datamodule())
        for evaluator in (CategoryEvaluator(pooled=True), CategoryEvaluator(pooled=True, pixel_bins=2**16))
    ]
    assert results[1] == pytest.approx(results[0], abs=1e-3)
    assert len(results[0]) == 14


def test_counted_pixels_are_not_kept(images: Groups, tmp_path: Path) -> None:
    evaluator = CategoryEvaluator(pixel_bins=100)
    for index, batch in enumerate(in_batches(images["cable"], 4)):
        evaluator.on_test_batch_end(SimpleNamespace(datamodule=Datamodule()), None, None, batch, index)
    assert set(evaluator._waiting["cable"].joined()) == {"gt_label", "pred_score"}


def test_metrics_that_cannot_be_counted() -> None:
    thresholds = AUROC(fields=["anomaly_map", "gt_mask"], prefix="pixel_", thresholds=10)
    with pytest.raises(ValueError, match="with pixel_bins, but got pixel_AUROC with a AUROC of its own kind"):
        CategoryEvaluator(test_metrics=thresholds, pixel_bins=100)
    mixed = AUROC(fields=["anomaly_map", "gt_label"])
    with pytest.raises(ValueError, match="Leave the metric or pixel_bins out"):
        CategoryEvaluator(test_metrics=mixed, pixel_bins=100)
    with pytest.raises(ValueError, match="Expected pixel_bins to be at least 2, but got 0"):
        CategoryEvaluator(pixel_bins=0)


def test_pixels_are_counted_in_one_process_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomalib_clipad.metrics.evaluator.world_size", lambda: 2)
    with pytest.raises(RuntimeError, match="Expected one process with pixel_bins, but got 2"):
        run(CategoryEvaluator(pixel_bins=100), [], tmp_path)


def test_a_second_test_starts_anew(images: Groups, tmp_path: Path) -> None:
    evaluator = CategoryEvaluator()
    first = run(evaluator, in_batches(images["cable"], 4), tmp_path, datamodule=Datamodule())
    run(evaluator, in_batches(images["bottle"], 4), tmp_path, datamodule=Datamodule())
    again = run(evaluator, in_batches(images["cable"], 4), tmp_path, datamodule=Datamodule())
    assert again == first
    assert list(evaluator.report.categories) == ["cable"]


def test_pooled_values_are_logged_beside_the_means(images: Groups, tmp_path: Path) -> None:
    everything = [image for group in images.values() for image in group]
    batches = in_batches(everything, 4)
    paths = [image["image_path"] for image in everything]
    logged = run(CategoryEvaluator(pooled=True), batches, tmp_path, datamodule=Datamodule(), announced=paths)
    means = run(CategoryEvaluator(), batches, tmp_path / "means", datamodule=Datamodule())
    host = run(Evaluator(test_metrics=default_metrics()), batches, tmp_path)
    assert logged == pytest.approx(means | {f"pooled_{name}": value for name, value in host.items()}, abs=1e-6)
    run(CategoryEvaluator(pooled=True), batches, tmp_path, datamodule=Datamodule())
    assert [row["category"] for row in read_csv(tmp_path)] == [*SIZES, "pooled", "mean"]


@pytest.mark.parametrize(
    ("second", "reason", "undefined"),
    [
        ({"kind": "normal"}, "gt_label marks normal samples only", NAMES),
        ({"kind": "anomalous"}, "gt_label marks anomalous samples only", NAMES[:3]),
        ({"masks": False}, "images without gt_mask", NAMES[3:]),
    ],
)
def test_undefined_in_one_category(
    second: dict[str, Any], reason: str, undefined: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bottle, cable = make_images("bottle", 8), make_images("cable", 8, **second)
    with caplog.at_level(logging.WARNING):
        logged = run(CategoryEvaluator(), [collate(bottle), collate(cable)], tmp_path, datamodule=Datamodule())
    assert f"undefined for category 'cable': {reason}. Left out of the mean." in caplog.text
    assert undefined[0] in caplog.text
    rows = {row["category"]: row for row in read_csv(tmp_path)}
    for name in NAMES:
        assert (rows["cable"][name] == "nan") == (name in undefined)
        if name in undefined:
            assert rows["mean"][name] == rows["bottle"][name] != "nan"
            assert logged[name] == pytest.approx(float(rows["bottle"][name]), abs=1e-6)


def test_scores_that_are_not_finite(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = make_images("bottle", 6)
    images[2]["pred_score"] = torch.tensor(math.nan)
    logged = run(CategoryEvaluator(), [collate(images)], tmp_path)
    assert sorted(logged) == sorted(NAMES[3:])
    assert "category 'all': pred_score is not finite everywhere" in caplog.text


def test_undefined_everywhere_is_not_logged(tmp_path: Path) -> None:
    logged = run(CategoryEvaluator(), [collate(make_images("bottle", 6, masks=False))], tmp_path)
    assert sorted(logged) == sorted(NAMES[:3])
    assert read_csv(tmp_path)[-1]["pixel_AUPRO"] == "nan"


def test_own_metrics_are_computed_by_the_host(tmp_path: Path) -> None:
    def build() -> list[Any]:
        labels = {"fields": ["pred_label", "gt_label"]}
        scores = {"fields": ["pred_score", "gt_label"]}
        return [
            F1Score(**labels, prefix="image_"),
            AUROC(**scores, prefix="binned_", thresholds=4),  # not the exact curve: must not take the fast path
            AUPRO(fields=["anomaly_map", "gt_mask"], prefix="low_", fpr_limit=0.05),
        ]

    images = make_images("bottle", 9)
    for image in images:
        image["pred_label"] = image["pred_score"] > 0.2
    logged = run(CategoryEvaluator(test_metrics=build()), in_batches(images, 4), tmp_path)
    host = run(Evaluator(test_metrics=build()), in_batches(images, 4), tmp_path)
    assert logged == pytest.approx(host, abs=1e-6)
    assert list(logged) == ["image_F1Score", "binned_AUROC", "low_AUPRO"]


def test_default_metrics() -> None:
    assert [metric.name for metric in CategoryEvaluator().test_metrics] == NAMES
    assert [metric.name for metric in CategoryEvaluator(pixel_metrics=False).test_metrics] == NAMES[:3]
    assert [type(metric) for metric in default_metrics()] == [AUROC, F1Max, AUPR, AUROC, F1Max, AUPR, AUPRO]
    assert float(CategoryEvaluator().test_metrics[-1].fpr_limit) == pytest.approx(0.3)


def test_metrics_of_one_name() -> None:
    fields = ["pred_score", "gt_label"]
    with pytest.raises(ValueError, match=r"distinct names, but got \['AUROC', 'AUROC'\]. Give them distinct prefixes"):
        CategoryEvaluator(test_metrics=[AUROC(fields=fields), AUROC(fields=fields)])


def test_command_line() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Evaluator, "evaluator")
    config = {
        "class_path": "anomalib_clipad.metrics.evaluator.CategoryEvaluator",
        "init_args": {
            "pooled": True,
            "test_metrics": [
                {
                    "class_path": "anomalib.metrics.AUPRO",
                    "init_args": {"fields": ["anomaly_map", "gt_mask"], "prefix": "pixel_", "fpr_limit": 0.05},
                }
            ],
        },
    }
    evaluator = parser.instantiate_classes(parser.parse_object({"evaluator": config})).evaluator
    assert evaluator.pooled
    assert [metric.name for metric in evaluator.test_metrics] == ["pixel_AUPRO"]


class Brightness(AnomalibModule):
    """Calls bright pixels anomalous."""

    def __init__(self, evaluator: Evaluator) -> None:
        super().__init__(pre_processor=False, post_processor=False, evaluator=evaluator, visualizer=False)
        self.model = nn.Module()
        self.model.forward = self.score

    @staticmethod
    def score(image: torch.Tensor) -> InferenceBatch:
        anomaly_map = image.mean(dim=1)
        return InferenceBatch(pred_score=anomaly_map.flatten(1).amax(dim=1), anomaly_map=anomaly_map)

    @property
    def learning_type(self) -> LearningType:
        return LearningType.ZERO_SHOT

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        return {}

    def validation_step(self, batch: ImageBatch) -> ImageBatch:
        return batch.update(**self.model(batch.image)._asdict())


def engine(folder: Path, **options: object) -> Engine:
    return Engine(default_root_dir=folder, accelerator="cpu", devices=1, enable_progress_bar=False, **options)


def test_in_the_engine(tmp_path: Path) -> None:
    root = write_mvtec_ad(tmp_path / "MVTecAD", ["bottle", "metal_nut"], n_good=2)
    datamodule = MVTec(root=root, categories=["bottle", "metal_nut"], num_workers=0, eval_batch_size=3)
    (results,) = engine(tmp_path / "results").test(Brightness(CategoryEvaluator()), datamodule=datamodule)
    assert results == pytest.approx(dict.fromkeys(NAMES, 1.0), abs=0.02)  # brightness finds every defect
    rows = read_csv(tmp_path / "results/Brightness/MVTec/latest")
    assert [(row["category"], row["n_images"]) for row in rows] == [("bottle", "5"), ("metal_nut", "5"), ("mean", "10")]


def test_in_the_engine_barebones_and_cut_short(tmp_path: Path) -> None:
    root = write_mvtec_ad(tmp_path / "MVTecAD", ["bottle"])
    datamodule = MVTec(root=root, categories="bottle", num_workers=0, eval_batch_size=2)
    (results,) = engine(tmp_path, barebones=True).test(Brightness(CategoryEvaluator()), datamodule=datamodule)
    assert results["image_AUROC"] == 1
    (results,) = engine(tmp_path / "b", limit_test_batches=2).test(
        Brightness(CategoryEvaluator()), datamodule=datamodule
    )
    assert results["image_AUROC"] == 1
    assert [row["n_images"] for row in read_csv(tmp_path / "b/Brightness/MVTec/bottle/latest")] == ["4", "4"]


def _all_images() -> list[dict[str, Any]]:
    images = [image for category, n in SIZES.items() for image in make_images(category, n)]
    last = make_images("zipper", 4)
    return [*images, last[0], images[1], last[1], images[3], last[2], images[5], last[3]]


class TwoProcesses:
    """Two threads in the place of two processes: what ``torch.distributed`` tells and does for each of them."""

    def __init__(self) -> None:
        self.local = threading.local()
        self.barrier = threading.Barrier(2, timeout=30)  # a collective that only one of them calls breaks it
        self.sent: list[bytes] = [b"", b""]

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def get_world_size(self) -> int:
        return 2

    def get_rank(self) -> int:
        return self.local.rank

    def all_gather_object(self, received: list[Any], sent: object) -> None:
        self.sent[self.get_rank()] = pickle.dumps(sent)
        self.barrier.wait()
        received[:] = map(pickle.loads, self.sent)
        self.barrier.wait()


def test_two_processes_give_what_one_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = _all_images()  # odd in number, some twice, and one process has no image of the last category
    on_rank = [{image["image_path"].split("/")[1] for image in images[rank::2]} for rank in range(2)]
    assert "zipper" in on_rank[0] ^ on_rank[1]
    once = list({image["image_path"]: image for image in images}.values())
    one = CategoryEvaluator(pooled=True)
    expected = run(one, in_batches(once, 5), tmp_path / "one", datamodule=Datamodule())
    filled_up = images + images[:1]  # as distributed samplers do

    world = TwoProcesses()
    monkeypatch.setattr("anomalib_clipad.base.processes.distributed", world)

    def test_on(rank: int) -> tuple[dict[str, float], CategoryEvaluator]:
        world.local.rank = rank
        evaluator = CategoryEvaluator(pooled=True)
        batches = in_batches(filled_up[rank::2], 3)
        folder = tmp_path / str(rank)
        return run(evaluator, batches, folder, datamodule=Datamodule(), is_global_zero=rank == 0), evaluator

    with ThreadPoolExecutor(2) as threads:
        outcomes = list(threads.map(test_on, range(2)))
    for logged, evaluator in outcomes:
        assert logged == pytest.approx(expected, abs=1e-9)
        assert evaluator.report.n_images == one.report.n_images
    assert sorted(row["n_images"] for row in read_csv(tmp_path / "0")) == ["10", "26", "26", "4", "5", "7"]
    assert not (tmp_path / "1").exists()  # only the first process writes


def test_no_masks_in_a_folder(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data")
    datamodule = Folder("mine", normal_dir="normal", abnormal_dir="abnormal", root=root, num_workers=0, seed=0)
    (results,) = engine(tmp_path).test(Brightness(CategoryEvaluator()), datamodule=datamodule)
    assert sorted(results) == sorted(NAMES[:3])
