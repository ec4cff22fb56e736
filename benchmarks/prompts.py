# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What prompts change on ``clipad-tiny``: strategies, and prompts that name the defect (docs/ablations.md).

    python -m benchmarks.prompts                           # held-out categories
    python -m benchmarks.prompts --categories training

The anomalous prompts of a kind of defect are the one phrase that a user would type. They and the general ones are put
to the same images: the good ones and those with that kind of defect.
"""

import argparse
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPRO
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional

from anomalib_clipad import SDP, SyntheticDefects
from anomalib_clipad.clip import load_backbone, surgery_tokens
from anomalib_clipad.clip.prompt_ensemble import resolve_prompts
from anomalib_clipad.clip.representative import STRATEGIES
from anomalib_clipad.clip.text_engine import TextEngine
from anomalib_clipad.scoring.anomaly_map import class_probability, patch_scores, sdp_map

PHRASES = {
    "scratch": "{} with a scratch",
    "hole": "{} with a hole",
    "stain": "stained {}",
    "dent": "dented {}",
    "discoloration": "discolored {}",
    "thread": "{} with a loose thread",
    "scuff": "scuffed {}",
    "blister": "{} with blisters",
    "ink": "{} with an ink mark",
    "patch": "{} with a misplaced piece",
    "chip": "chipped {}",
    "particles": "{} with dirt",
    "crack": "{} with a crack",
    "burn": "{} with a burn",
}
"""The last two kinds were held out: ``clipad-tiny`` has never read "burn", and of cracks only the word."""


class Scored(NamedTuple):
    """What one set of prompts says about the M test images of a category.

    ``kind`` is the name of the defect or "good"; ``probability`` (M,) that of the class token; ``anomaly_map`` and
    ``mask`` are (M, S, S).
    """

    kind: pd.Series
    probability: Tensor
    anomaly_map: Tensor
    mask: Tensor

    def of(self, rows: pd.Series) -> "Scored":
        """Only some images."""
        chosen = torch.from_numpy(rows.to_numpy())
        return Scored(self.kind[rows], self.probability[chosen], self.anomaly_map[chosen], self.mask[chosen])


@torch.inference_mode()
def score(model: SDP, data: SyntheticDefects, texts: Mapping[str, Tensor]) -> dict[str, Scored]:
    """Score the test images of the only category of ``data`` by each pair of text vectors (C, 2), of equal tokens."""
    sdp, batches = model.model, list(data.test_dataloader())
    image = model.pre_processor(torch.cat([batch.image for batch in batches]))
    tokens = surgery_tokens(sdp.visual, image, sdp.layers, sdp.taps)
    size = (image.shape[-2], image.shape[-1])
    kind = pd.Series([Path(path).parent.name for batch in batches for path in batch.image_path])
    mask = torch.cat([batch.gt_mask for batch in batches])[:, None].float()
    mask = functional.interpolate(mask, size)[:, 0].bool()  # nearest
    scored = {}
    for name, pair in texts.items():
        scores = [patch_scores(layer, pair) for layer in tokens.embeddings]
        anomaly_map = sdp_map(scores, tokens.grid, size, sdp.sigma)
        scored[name] = Scored(kind, class_probability(tokens.embeddings[-1], pair), anomaly_map, mask)
    return scored


def compare_kind(kind: str, scored: Mapping[str, Scored]) -> dict[str, float]:
    """Figures of the general prompts and of those of a kind, × 100.

    "Among defects" is the AUROC by which the class token tells images of this kind from images of the other kinds.
    """
    figures: dict[str, float] = {}
    for name, chosen in (("general", scored["general"]), ("named", scored[kind])):
        own = chosen.of(chosen.kind.isin(["good", kind]))
        aupro = AUPRO(fields=["anomaly_map", "gt_mask"], fpr_limit=0.3)
        image = own.mask[:, None].float().expand(-1, 3, -1, -1)  # a batch of the host's needs one
        aupro.update(ImageBatch(image=image, anomaly_map=own.anomaly_map, gt_mask=own.mask))
        defects = chosen.of(chosen.kind != "good")
        figures |= {
            f"AUPRO, {name}": aupro.compute().item(),
            f"image AUROC, {name}": roc_auc_score(own.kind == kind, own.probability),
            f"among defects, {name}": roc_auc_score(defects.kind == kind, defects.probability),
        }
    return {name: 100 * figure for name, figure in figures.items()}


def strategy_distances(categories: tuple[str, ...]) -> pd.DataFrame:
    """Cosine distance of the vectors of each two strategies, the largest over categories, by state."""
    backbone, prompts = load_backbone("clipad-tiny"), resolve_prompts("industrial")
    vectors = {}
    for strategy in STRATEGIES:
        engine = TextEngine(backbone, prompts, strategy, cache_dir=False)
        vectors[strategy] = torch.stack([engine.text_embeddings(name) for name in categories])  # (K, C, 2)
    rows = {}
    for one, other in itertools.combinations(STRATEGIES, 2):
        distance = 1 - functional.cosine_similarity(vectors[one], vectors[other], dim=1)
        rows[f"{one}, {other}"] = dict(zip(("normal", "anomalous"), distance.amax(0).tolist(), strict=True))
    return pd.DataFrame(rows).T


def run(categories: str, root: Path) -> None:
    """Measure and print both tables as Markdown."""
    names = SyntheticDefects(root, categories).categories
    print(strategy_distances(names).round(4).to_markdown(), "\n")
    general = SDP("clipad-tiny", text_cache_dir=False, post_processor=False)  # raw scores
    # Of these only the anomalous vectors are used: the normal one is the general one, which is slow to encode.
    engines = {
        kind: TextEngine(
            general.collaborators.backbone,
            resolve_prompts({"extends": "industrial", "normal_states": ["{}"], "anomalous_states": [phrase]}),
            cache_dir=False,
        )
        for kind, phrase in PHRASES.items()
    }
    rows = []
    for category in names:
        data = SyntheticDefects(root, [category], num_workers=0)
        data.prepare_data()
        data.setup()
        texts = {"general": general.collaborators.text_engine.text_embeddings(category)}
        for kind, engine in engines.items():
            texts[kind] = torch.stack([texts["general"][:, 0], engine.text_embeddings(category)[:, 1]], dim=1)
        scored = score(general, data, texts)
        rows += [{"kind": kind, **compare_kind(kind, scored)} for kind in PHRASES]
    table = pd.DataFrame(rows).groupby("kind", sort=False).mean()
    table.loc["**mean**"] = table.mean()
    print(table.round(1).to_markdown())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--categories", choices=("held_out", "training"), default="held_out")
    parser.add_argument("--root", type=Path, default=Path("datasets/SyntheticDefects"))
    arguments = parser.parse_args()
    run(arguments.categories, arguments.root)
