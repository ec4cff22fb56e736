# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What references and pools add to the text on ``clipad-tiny`` (docs/memory.md), with SDP and with SDP+.

    python -m benchmarks.visual_evidence                                    # held-out synthetic categories
    python -m benchmarks.visual_evidence --categories training --text 0.15 0.3 0.5 0.7 --shots 1 4  # to choose weights
    python -m benchmarks.visual_evidence --tiles ../shared/real/magnetic_tile

The tower runs once over each image. Then references are drawn by five seeds, and each source is looked at alone and
together with the text. Image scores are fused over the ranges of the test images, as validation on them does it.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from anomalib_clipad import SDP, SDPPlus, SyntheticDefects
from anomalib_clipad.data.image_list import list_images
from anomalib_clipad.data.image_loader import engine_transform, read_ahead
from anomalib_clipad.metrics import rank_metrics
from anomalib_clipad.post_processing.calibration import CategoryStatistics, fuse
from anomalib_clipad.scoring.anomaly_map import class_probability, head_logits, patch_scores, sdp_map
from anomalib_clipad.scoring.fusion import (
    DISTANCE_GAIN,
    PoolScores,
    Source,
    as_distances,
    distance_map,
    fuse_sources,
    pool_map,
    text_map,
)
from anomalib_clipad.scoring.memory import Memory
from anomalib_clipad.scoring.neighbours import mutual_scores, smoothed_by_neighbours

SHOTS, SEEDS = (1, 2, 4, 8), 5
TILE_REFERENCES = 8
BATCH_SIZE = 32


class Looked(NamedTuple):
    """What the tower says of M images, and their masks (M, H, W); of references the patches alone are used."""

    layers: list[Tensor]
    embeddings: list[Tensor]
    grid: tuple[int, int]
    masks: Tensor


@torch.inference_mode()
def look(model: Any, paths: list[str], masks: list[str | None]) -> Looked:
    """Run the tower over images; a mask is that of its image, black where there is none."""
    from anomalib_clipad.clip import surgery_tokens

    sdp, found = model.model, []
    images = [image for path in paths for image in list_images(path)]
    batches = (images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE))
    for read, skipped in read_ahead(batches, engine_transform(model.pre_processor)):
        assert not skipped, skipped
        found.append(surgery_tokens(sdp.visual, torch.stack([one.pixels for one in read]), sdp.layers, sdp.taps))
    size = engine_transform(model.pre_processor).transforms[0].size
    truth = torch.stack([_mask(path, size) for path in masks])
    layers = [torch.cat([tokens.patches[layer] for tokens in found]) for layer in range(len(sdp.layers))]
    embeddings = [torch.cat([tokens.embeddings[layer] for tokens in found]) for layer in range(len(sdp.layers))]
    return Looked(layers, embeddings, found[0].grid, truth)


def _mask(path: str | None, size: list[int]) -> Tensor:
    if path is None:
        return torch.zeros(size, dtype=torch.bool)
    [[[read], _]] = [*read_ahead([list_images(path)], None)]
    return functional.interpolate(read.pixels[None, :1], size)[0, 0] > 0.5  # nearest


class Category(NamedTuple):
    """Images of one category: those of the test with their masks, and good ones to draw references from."""

    name: str
    test: list[str]
    masks: list[str | None]
    good: list[str]


def synthetic(root: Path, categories: str, **recipe: Any) -> Iterator[Category]:
    """Categories of ``SyntheticDefects``, whose further arguments ``recipe`` are."""
    for name in SyntheticDefects(root, categories, **recipe).categories:
        data = SyntheticDefects(root, [name], num_workers=0, **recipe)
        data.prepare_data()
        data.setup()
        test, train = data.test_data.samples, data.train_data.samples
        masks = [str(path) if label else None for path, label in zip(test.mask_path, test.label_index, strict=True)]
        yield Category(name, [*map(str, test.image_path)], masks, [*map(str, train.image_path)])


def tiles(folder: Path) -> Iterator[Category]:
    """Photographs of magnetic tiles: 8 good ones to draw references from, tested on the rest."""
    good = [str(path) for path in sorted((folder / "good").iterdir())]
    order = np.random.default_rng(0).permutation(len(good)).tolist()
    kept = [good[number] for number in order[:TILE_REFERENCES]]
    test, masks = [path for path in good if path not in kept], [None] * (len(good) - TILE_REFERENCES)
    for kind in sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name not in {"good", "masks"}):
        for path in sorted((folder / kind).iterdir()):
            test.append(str(path))
            masks.append(str(next((folder / "masks" / kind).glob(f"{path.stem}.*"))))
    yield Category("magnetic tile", test, masks, kept)


@torch.inference_mode()
def measure(
    model: Any, category: Category, text_weights: tuple[float, ...], shots: tuple[int, ...]
) -> Iterator[dict[str, Any]]:
    """Metrics of each source alone, and with the text by each of its weights (the others are 1 less), × 100."""
    sdp = model.model
    texts = model.collaborators.text_engine.text_embeddings(category.name)
    test = look(model, category.test, category.masks)
    good = look(model, category.good, [None] * len(category.good))
    scores = [patch_scores(layer, texts) for layer in test.embeddings]
    logits = [] if sdp.heads is None else [head_logits(layer, texts) for layer in sdp.heads(test.layers)]
    size = (test.masks.shape[-2], test.masks.shape[-1])
    where = (test.grid, size, sdp.sigma)
    ones = torch.ones(len(test.masks))
    probability = class_probability(test.embeddings[-1], texts, sdp.logit_scale)
    alone = sdp_map(scores, *where, logits)
    by_text = alone if logits else text_map(scores, *where, sdp.map_scale)

    def rows(name: str, other: Source, usual: float, seed: int) -> Iterator[dict[str, Any]]:
        for weight in (0.0, *(text_weights or (sdp.weights.text / (sdp.weights.text + usual),))):
            text = Source(by_text, probability, weight * ones)
            maps, images = fuse_sources(text, [other._replace(weight=(1 - weight) * ones)], alone)
            label = "" if weight == 0 else f"text by {weight} + " if text_weights else "text + "
            yield {"evidence": label + name, "seed": seed, **metrics(images, maps, test.masks)}

    yield {"evidence": "text", "seed": 0, **metrics(probability, alone, test.masks)}
    for number in shots:
        for seed in range(SEEDS if number < len(good.masks) else 1):
            chosen = np.random.default_rng(seed).choice(len(good.masks), number, replace=False)
            memory = Memory(len(sdp.layers), test.layers[0].shape[-1])
            memory.add(0, [layer[chosen] for layer in good.layers])
            source = Source(*distance_map(memory(test.layers), *where), ones)
            yield from rows(f"{number} references", source, sdp.weights.references, seed)
    mutual = mutual_scores(test.layers, test.grid)
    maxima = (DISTANCE_GAIN * as_distances(mutual)).clamp(max=1).amax(dim=-1)
    images = smoothed_by_neighbours(maxima, test.embeddings[-1][:, 0])
    source = Source(*pool_map(PoolScores(mutual, images, ones.bool()), *where), ones)
    yield from rows("pool", source, sdp.weights.pool, 0)


def metrics(score: Tensor, maps: Tensor, masks: Tensor) -> dict[str, float]:
    """Metrics of a category from raw image scores and maps."""
    statistics = CategoryStatistics()
    statistics.update(score, maps, None, None)
    ranges = statistics.calibration().score_ranges
    image = rank_metrics.RankCurve.from_scores(fuse(score, maps.amax((-2, -1)), ranges), masks.any(-1).any(-1))
    pixel = rank_metrics.RankCurve.from_scores(maps, masks)
    return {
        "image AUROC": 100 * rank_metrics.auroc(image),
        "image F1-max": 100 * rank_metrics.f1_max(image),
        "pixel AUROC": 100 * rank_metrics.auroc(pixel),
        "pixel F1-max": 100 * rank_metrics.f1_max(pixel),
        "AUPRO": 100 * rank_metrics.aupro(pixel, masks, 0.3),
    }


def run(arguments: argparse.Namespace) -> None:
    """Measure and print a table as Markdown: means over categories, of five seeds with their standard deviation."""
    models = {"SDP": SDP("clipad-tiny"), "SDP+": SDPPlus("clipad-tiny", heads="embedded")}
    measured = []
    for name, model in models.items():
        chosen = tiles(arguments.tiles) if arguments.tiles else synthetic(arguments.root, arguments.categories)
        for category in tqdm(list(chosen), desc=name):
            rows = measure(model, category, tuple(arguments.text), tuple(arguments.shots))
            measured += [{"model": name, "category": category.name, **row} for row in rows]
    table = pd.DataFrame(measured)
    if arguments.csv:
        table.to_csv(arguments.csv, index=False)
    keys = ["model", "evidence"]
    by_seed = table.groupby([*keys, "seed"], sort=False).mean(numeric_only=True)
    mean, spread = by_seed.groupby(keys, sort=False).mean(), by_seed.groupby(keys, sort=False).std()
    shown = mean.map("{:.1f}".format) + spread.map(lambda value: "" if np.isnan(value) else f" ± {value:.1f}")
    print(shown.reset_index().to_markdown(index=False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--categories", choices=("held_out", "training"), default="held_out")
    parser.add_argument("--root", type=Path, default=Path("datasets/SyntheticDefects"))
    parser.add_argument("--tiles", type=Path, help="folder of magnetic tiles, instead of synthetic categories")
    parser.add_argument(
        "--text", type=float, nargs="+", default=(), help="weights of the text's part, the others' being 1 less"
    )
    parser.add_argument("--shots", type=int, nargs="+", default=SHOTS, help="numbers of references")
    parser.add_argument("--csv", type=Path, help="file for the figures of each category and seed")
    run(parser.parse_args())
