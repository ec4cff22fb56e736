# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""bf16 and torch.compile: speed, and what they change in maps and AUROC."""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional

from anomalib_clipad import SDP, SyntheticDefects
from anomalib_clipad.scoring.torch_model import SDPModel
from benchmarks.performance.setting import Setting
from benchmarks.performance.table import Row
from benchmarks.performance.timing import alternate, ratio

Map = Callable[[Tensor], Tensor]

MODES = {"bf16": "bf16 autocast", "compiled": "torch.compile"}


@torch.inference_mode()
def measure(setting: Setting) -> list[Row]:
    """Time SDP in fp32, under bf16 autocast and compiled, and hold the results against fp32."""
    image, model = setting.images(), setting.sdp()
    runs = _variants(model, setting)
    start = time.perf_counter()
    runs["compiled"](image)
    compilation = time.perf_counter() - start
    exact = runs["eager"](image)
    differences = {name: (runs[name](image) - exact).abs().max().item() for name in MODES}
    seconds = alternate({name: lambda run=run: run(image) for name, run in runs.items()}, setting.rounds)
    aurocs = _aurocs(setting)
    rows = []
    for name, how in MODES.items():
        note = (
            f"largest difference of a map in [0, 1]: {differences[name]:.1e}; pixel AUROC on clipad-tiny "
            f"{aurocs[name]:.4f}, in fp32 {aurocs['eager']:.4f}"
        )
        if name == "compiled":
            note += f"; compilation {compilation:.0f} s"
        rows.append(Row(f"eager fp32 ÷ {how}", ratio(seconds["eager"], seconds[name]), better="large", note=note))
    return rows


def _variants(model: SDPModel, setting: Setting) -> dict[str, Map]:
    """Maps of a model by each of the ways."""
    compiled = torch.compile(model, backend="eager" if setting.smoke else "inductor")

    def half(image: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(image).anomaly_map

    return {
        "eager": lambda image: model(image).anomaly_map,
        "bf16": half,
        "compiled": lambda image: compiled(image).anomaly_map,
    }


def _aurocs(setting: Setting) -> dict[str, float]:
    """Mean pixel AUROC of the embedded model over held-out synthetic categories, by each of the ways."""
    categories = ["gear"] if setting.smoke else ["carpet", "gear", "screw", "capsule"]
    module = SDP("clipad-tiny", evaluator=False, visualizer=False, text_cache_dir=False, strategy="mean")
    variants = _variants(module.model, setting)
    values: dict[str, list[float]] = {name: [] for name in variants}
    with TemporaryDirectory() as folder:
        for category in categories:
            data = SyntheticDefects(
                Path(folder),
                [category],
                num_workers=0,
                n_train=1,
                n_test_good=4,
                n_test_per_defect=2,
                eval_batch_size=8,
            )
            data.prepare_data()
            data.setup()
            module.model.texts.replace(
                [category], module.collaborators.text_engine.text_embeddings(category)[None].clone()
            )
            # Whole batches only: another size would be compiled anew.
            batches = [batch for batch in data.test_dataloader() if batch.batch_size == 8]
            images = [module.pre_processor.transform(batch.image) for batch in batches]
            size = images[0].shape[-2:]
            masks = torch.cat(
                [functional.interpolate(batch.gt_mask[:, None].float(), size) for batch in batches]
            ).bool()
            for name, run in variants.items():
                maps = torch.cat([run(image) for image in images]).float()
                values[name].append(float(roc_auc_score(masks.flatten().numpy(), maps.flatten().numpy())))
    return {name: sum(each) / len(each) for name, each in values.items()}
