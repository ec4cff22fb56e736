# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Judge weights of ``clipad-tiny`` without a look at held-out categories: SDP, and SDP+, on four training categories.

    python tools/judge_clipad_tiny.py clipad-tiny.safetensors …

Heads are trained on the drawn test images of the twelve other training categories, for 8 epochs, and tested on these
four. A minute and a half for each file on one core, the drawing of the images left aside.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from anomalib_clipad import SDPPlus, SyntheticDefects
from anomalib_clipad.metrics import rank_metrics
from anomalib_clipad.scoring.heads import TappedPatches
from anomalib_clipad.scoring.loss import segmentation_loss
from anomalib_clipad.scoring.torch_model import SDPModel

KEPT = ("tile", "concrete", "washer", "gasket")
"""Training categories that heads are tested on."""
EPOCHS, BATCH_SIZE, LEARNING_RATE = 8, 8, 1e-3


def images_of(root: Path, category: str) -> tuple[Tensor, Tensor]:
    """Test images (M, 3, H, W) and masks (M, H, W) of a category."""
    data = SyntheticDefects(root, [category], num_workers=0)
    data.prepare_data()
    data.setup()
    batches = list(data.test_dataloader())
    return torch.cat([batch.image for batch in batches]), torch.cat([batch.gt_mask for batch in batches])


def with_weights(path: Path) -> SDPPlus:
    """SDP+ with untrained heads on the weights of a file that ``train_clipad_tiny.py`` has written."""
    model = SDPPlus("clipad-tiny", seed=42, text_cache_dir=False)
    state = {name: tensor.float() for name, tensor in load_file(path).items()}
    rows, used = state.pop("token_embedding.rows").long(), state["token_embedding.weight"]
    clip = model.collaborators.backbone.model
    state["token_embedding.weight"] = torch.zeros_like(clip.token_embedding.weight).index_copy(0, rows, used)
    clip.load_state_dict(state, strict=False)  # but for the mask of the text's attention
    return model


def prepared(model: SDPPlus, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Images as the tower sees them, and masks (M, h, w) of that size."""
    pixels = model.pre_processor.transform(image)
    return pixels, functional.interpolate(mask[:, None].float(), pixels.shape[-2:])[:, 0] > 0.5  # nearest


@torch.no_grad()
def tokens_of(model: SDPPlus, image: Tensor, mask: Tensor) -> tuple[list[Tensor], Tensor]:
    """Tapped patches (M, N, D) of each layer, and masks (M, h, w) at the size of the input."""
    pixels, truth = prepared(model, image, mask)
    parts = [model.model.tapped_patches(part).layers for part in pixels.split(32)]
    return [torch.cat(layer) for layer in zip(*parts, strict=True)], truth


def train_heads(model: SDPPlus, images: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Train the heads as SDP+ does."""
    layers, masks, classes = [], [], []
    for category, pair in images.items():
        [index] = model._indices([category])
        found, truth = tokens_of(model, *pair)
        layers.append(torch.stack(found, dim=1))
        masks.append(truth)
        classes.append(torch.full((len(truth),), index))
    tokens, truth, index = torch.cat(layers), torch.cat(masks), torch.cat(classes)
    optimizer = torch.optim.Adam(model.model.heads.parameters(), lr=LEARNING_RATE)
    generator = torch.Generator().manual_seed(0)
    grid, size = model.collaborators.backbone.tower.grid_size, tuple(truth.shape[-2:])
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(tokens), generator=generator).split(BATCH_SIZE):
            patches = TappedPatches(list(tokens[rows].unbind(1)), grid)
            loss = segmentation_loss(model.model.logit_maps(patches, size, index[rows]), truth[rows].float()).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.no_grad()
def judge(model: SDPPlus, image: Tensor, mask: Tensor, category: str) -> dict[str, dict[str, float]]:
    """Metrics × 100 of SDP and SDP+ on a category."""
    [index] = model._indices([category])
    (pixels, truth), found = prepared(model, image, mask), {}
    sdp = SDPModel(model.model.visual, sigma=model.model.sigma)
    sdp.texts.replace(model.class_names, model.model.texts.embeddings)
    for name, scorer in {"SDP": sdp, "SDP+": model.model}.items():
        output = scorer(pixels, torch.full((len(pixels),), index))
        curve = rank_metrics.RankCurve.from_scores(output.anomaly_map, truth)
        of_images = rank_metrics.RankCurve.from_scores(output.pred_score, truth.flatten(1).any(1))
        found[name] = {
            "class token AUROC": 100 * float(rank_metrics.auroc(of_images)),
            "pixel AUROC": 100 * float(rank_metrics.auroc(curve)),
            "AUPRO": 100 * float(rank_metrics.aupro(curve, truth, 0.3)),
        }
    return found


def run(paths: list[Path], root: Path) -> None:
    """Judge each file and print a table as Markdown."""
    categories = SyntheticDefects(root, "training").categories
    images = {name: images_of(root, name) for name in tqdm(categories, desc="images")}
    rows = []
    for path in paths:
        model = with_weights(path)
        train_heads(model, {name: pair for name, pair in images.items() if name not in KEPT})
        for category in KEPT:
            for kind, figures in judge(model, *images[category], category).items():
                rows.append({"weights": path.name, "model": kind, **figures})
    print(
        pd.DataFrame(rows)
        .groupby(["weights", "model"], sort=False)
        .mean()
        .round(1)
        .reset_index()
        .to_markdown(index=False)
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--root", type=Path, default=Path("datasets/SyntheticDefects"))
    arguments = parser.parse_args()
    run(arguments.weights, arguments.root)
