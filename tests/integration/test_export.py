# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Exported models give the engine's scores in a fresh process, quantised ones nearly; commands as in docs/export.md."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from anomalib.data import PredictDataset
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score

import layouts
from anomalib_clipad import SDP, MVTec, SDPPlus, SyntheticDefects
from anomalib_clipad.deploy.openvino import openvino_core
from terminal import Terminal
from tiny import BACKBONE, ON_TINY, make_engine, sdp, sdp_plus

pytestmark = pytest.mark.slow

FRESH_INFERENCE = Path(__file__).parents[1] / "fresh_inference.py"
FORMATS = {"SDP": ("torch", "onnx"), "SDPPlus": ("torch", "openvino")}
RUNTIMES = {"torch": ("torch",), "onnx": ("onnxruntime", "openvino of onnx"), "openvino": ("openvino",)}
CATEGORIES = ("leather", "tile", "stamping", "moulding")


class Exported(NamedTuple):
    """Photographs, and for each folder of exported files the score and map that the engine gives each of them."""

    images: Path
    expected: dict[Path, dict[str, tuple[float, NDArray[Any]]]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """SDP, and SDP+ with references, calibrated and exported."""
    folder = tmp_path_factory.mktemp("exported")
    images = write_photographs(folder / "images")
    data = MVTec(root=layouts.write_mvtec_ad(folder / "data"), categories=["bottle"], num_workers=0)
    expected = {}
    models = {
        "SDP": sdp(class_name="bottle", visualizer=False),
        "SDPPlus": sdp_plus(class_name="bottle", heads="embedded", references={"k_shot": 2}, visualizer=False),
    }
    for name, model in models.items():
        root = folder / name
        engine = make_engine(root)
        engine.test(model, datamodule=data)  # calibrates
        checkpoint = root / "model.ckpt"
        engine.trainer.save_checkpoint(checkpoint)
        expected[root] = engine_scores(
            type(model).load(checkpoint, class_name="bottle", visualizer=False), images, root / "predict"
        )
        for kind in FORMATS[name]:
            engine.export(type(model)(BACKBONE), kind, export_root=root, ckpt_path=checkpoint)
    return Exported(images, expected)


def write_photographs(folder: Path) -> Path:
    """Raw images of other sizes than the model's, one of them grey; noise shows best whether a resize antialiases."""
    random = np.random.default_rng(0)
    folder.mkdir()
    layouts.draw(0, anomalous=True, size=500)[0].save(folder / "drawn.png")
    Image.fromarray(random.integers(0, 255, (700, 900, 3), dtype=np.uint8)).save(folder / "photograph.png")
    Image.fromarray(random.integers(0, 255, (60, 80), dtype=np.uint8)).save(folder / "grey.png")
    return folder


def engine_scores(model: SDP | SDPPlus, images: Path, folder: Path) -> dict[str, tuple[float, NDArray[Any]]]:
    batches = make_engine(folder).predict(model, dataset=PredictDataset(images), return_predictions=True)
    return {
        Path(path).name: (float(batch.pred_score[index]), batch.anomaly_map[index].numpy())
        for batch in batches or []
        for index, path in enumerate(batch.image_path)
    }


def test_every_runtime_gives_the_engines_scores(exported: Exported, tmp_path: Path) -> None:
    roots = map(str, exported.expected)
    command = [sys.executable, str(FRESH_INFERENCE), "results.npz", str(exported.images), *roots]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONWARNINGS": "ignore"}, check=True)

    with np.load(tmp_path / "results.npz") as results:
        for root, scores in exported.expected.items():
            assert len(scores) == 3
            for name, (score, anomaly_map) in scores.items():
                for runtime in (each for kind in FORMATS[root.name] for each in RUNTIMES[kind]):
                    place = f"{root}/{runtime}/{name}"
                    np.testing.assert_allclose(results[f"{place}/score"], [score], atol=1e-3, err_msg=place)
                    np.testing.assert_allclose(results[f"{place}/map"], anomaly_map, atol=1e-3, err_msg=place)


def test_scores_depend_on_antialiasing(exported: Exported) -> None:
    """So that the comparison above can fail."""
    [root] = [folder for folder in exported.expected if folder.name == "SDPPlus"]
    model = SDPPlus.load(root / "model.ckpt")
    host_score = float(score_as_the_host_exports(model, exported.images / "photograph.png"))
    assert abs(host_score - exported.expected[root]["photograph.png"][0]) > 1e-2


def score_as_the_host_exports(model: SDPPlus, path: Path) -> torch.Tensor:
    """Score with the host's exported transform, which resizes without antialiasing."""
    pixels = (
        torch.from_numpy(np.asarray(Image.open(path).convert("RGB"), dtype=np.float32)).permute(2, 0, 1)[None] / 255
    )
    with torch.no_grad():
        return model.post_processor(model.model(model.pre_processor(pixels))).pred_score


def test_a_quantised_model_keeps_its_accuracy(anomalib: Terminal) -> None:
    recipe = {"categories": list(CATEGORIES), "n_train": 1, "n_test_good": 10, "n_test_per_defect": 1}
    data = SyntheticDefects(root=anomalib.folder / "data", **recipe, num_workers=0)
    engine, model = make_engine(anomalib.folder), sdp(visualizer=False, evaluator=False)
    engine.validate(model, datamodule=data)
    engine.trainer.save_checkpoint(anomalib.folder / "model.ckpt")

    flags = [part for key, value in recipe.items() for part in (f"--data.{key}", json.dumps(value))]
    anomalib(
        *(
            "export",
            "--model",
            "anomalib_clipad.SDP",
            *ON_TINY,
            "--ckpt_path",
            "model.ckpt",
            "--export_type",
            "openvino",
        ),
        *("--compression_type", "INT8_PTQ", "--export_root", "int8"),
        *("--data", "SyntheticDefects", "--data.root", "data", *flags),
    )

    quantised = anomalib.folder / "int8/weights/openvino"
    compiled = openvino_core().compile_model(quantised / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    exact = model.to_exported_model(data.categories)
    image_auroc, pixel_auroc = measure(lambda image, index: compiled({"input": image, "class_index": index}), data)
    expected_image_auroc, expected_pixel_auroc = measure(
        lambda image, index: exact(torch.from_numpy(image), torch.from_numpy(index))._asdict(), data
    )
    assert image_auroc == pytest.approx(expected_image_auroc, abs=0.01)
    assert pixel_auroc == pytest.approx(expected_pixel_auroc, abs=0.01)
    bytes_of_weights = 4 * sum(weight.numel() for weight in exact.parameters())
    assert (quantised / "model.bin").stat().st_size < 0.4 * bytes_of_weights


def measure(
    run: Callable[[NDArray[Any], NDArray[Any]], Mapping[str, Any]], data: SyntheticDefects
) -> tuple[float, float]:
    """Mean over categories of image and pixel AUROC of a model of several classes."""
    names = data.categories
    seen: dict[str, list[tuple[Any, ...]]] = {name: [] for name in names}
    for item in data.test_data:
        name = data.category_of(item.image_path)
        outputs = run(item.image[None].numpy(), np.array([names.index(name)]))
        mask = Image.fromarray(np.asarray(item.gt_mask, dtype=np.uint8)).resize((120, 120), Image.Resampling.NEAREST)
        seen[name].append((item.gt_label, outputs["pred_score"], np.asarray(mask) > 0, outputs["anomaly_map"][0]))
    image_aurocs, pixel_aurocs = [], []
    for rows in seen.values():
        labels, scores, masks, maps = zip(*rows, strict=True)
        image_aurocs.append(roc_auc_score(np.array(labels), np.concatenate(scores)))
        pixel_aurocs.append(roc_auc_score(np.stack(masks).ravel(), np.stack(maps).ravel()))
    return float(np.mean(image_aurocs)), float(np.mean(pixel_aurocs))


@pytest.mark.parametrize(
    ("geometry", "described"),
    [
        (
            {"resize": "pad", "image_size": 96, "tiles": {"size": 64, "batch_size": 8}, "scales": [64]},
            {"scales": "[[64, 64]]", "tiles": '{"size": 64, "overlap": 0.25, "whole": true, "batch_size": 8}'},
        ),
        ({"resize": "keep", "scales": [64, 120]}, {"scales": "[[64, 64], [120, 120]]", "tiles": "null"}),
    ],
    ids=["padded, in tiles and whole", "aspect ratio kept, two sizes"],
)
def test_sizes_tiles_and_aspect_ratios_are_part_of_an_export(
    geometry: dict[str, Any], described: dict[str, str], tiny_clip_folder: Path, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    random = np.random.default_rng(0)
    images = [random.integers(0, 255, (140, 200, 3), dtype=np.uint8) for _ in range(3)]
    model = SDP(f"local-dir:{tiny_clip_folder}", class_name="nut", visualizer=False, **geometry)
    expected = model.predict(images)

    file = model.to_onnx(tmp_path, input_size=(140, 200))

    pixels = np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / 255
    session = onnxruntime.InferenceSession(file)
    names = [output.name for output in session.get_outputs()]
    compiled = openvino_core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for outputs in (dict(zip(names, session.run(None, {"input": pixels}), strict=True)), compiled({"input": pixels})):
        np.testing.assert_allclose(np.ravel(outputs["pred_score"]), expected.pred_score, atol=1e-4)
        np.testing.assert_allclose(outputs["anomaly_map"], expected.anomaly_map, atol=1e-4)
    assert described.items() <= session.get_modelmeta().custom_metadata_map.items()
