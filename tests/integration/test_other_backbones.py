# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Backbones of other kinds than OpenAI's, from the folder to the scores and out again.

The folder holds what a hub's repository of a SigLIP does: configuration, weights, a tokenizer of Hugging Face's.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import onnxscript.optimizer
import openvino
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import layouts
from anomalib_clipad.clip.architectures import build_model
from anomalib_clipad.clip.prompts import ANOMALOUS_STATES, NORMAL_STATES, TEMPLATES
from anomalib_clipad.data.published import VISA
from anomalib_clipad.scoring.heads import LinearHeads
from anomalib_clipad.scoring.torch_model import SDPModel
from terminal import Terminal
from towers import DEPTH, EMBED_DIM, WIDTH, make_tower

pytestmark = pytest.mark.slow

CONFIG: dict[str, Any] = {
    "embed_dim": 192,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 224,
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": 32,
        "vocab_size": 512,
        "hf_tokenizer_name": "timm/some-SigLIP",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 64,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    },
}


FAMILIES = ("SigLIP", "EVA-02", "relative positions", "CLIPA", "CoCa", "MobileCLIP", "Perception Encoder")
"""Of which the first three are exported by `make test`, all by `make thorough`."""


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of words that pads with what it ends a text with, as SigLIP's does."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    words = [state.format("metal nut bottle") for state in (*NORMAL_STATES, *ANOMALOUS_STATES)]
    trainer = trainers.WordLevelTrainer(special_tokens=["<unk>", "</s>"], vocab_size=512)
    tokenizer.train_from_iterator([*words, *TEMPLATES], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small SigLIP."""
    folder = tmp_path_factory.mktemp("hub") / "siglip"
    folder.mkdir()
    write_tokenizer(folder)
    settings = {"mean": [0.5] * 3, "std": [0.5] * 3}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": settings}))
    save_file(build_model(CONFIG).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def test_a_siglip_from_a_folder_trains_and_predicts(anomalib: Terminal, siglip: Path) -> None:
    """Nothing of it was trained before: what is tested is that every step runs, not what comes out."""
    backbone = ("--model.backbone", f"local-dir:{siglip}", "--model.image_size", "[96,64]")
    layouts.write_mvtec_ad(anomalib.folder / "data/MVTecAD", ["bottle", "metal_nut"])
    layouts.write_visa(anomalib.folder / "data/visa", VISA.categories, n_good=2, n_defect=2)
    data = ("--data", "MVTec", "--data.root", "data/MVTecAD", "--data.categories", "bottle,metal_nut")
    train = ("--model.epochs", "1", "--data.num_workers", "0")
    anomalib("train", "--model", "anomalib_clipad.SDPPlus", *backbone, *data, *train)
    [heads] = anomalib.folder.rglob("heads.safetensors")
    with safe_open(heads, "pt") as file:
        assert json.loads(file.metadata()["family"]) == "timm VisionTransformer"
        assert json.loads(file.metadata()["backbone"]) == "local-dir:siglip"
    layouts.write_images(anomalib.folder / "photos", 3, anomalous=True, size=80)
    predict = ("--model.class_name", "nut", "--model.heads", str(heads), "--data", "photos")
    anomalib("predict", "--model", "anomalib_clipad.SDPPlus", *backbone, *predict)
    [table] = anomalib.folder.rglob("predictions.csv")
    assert len(table.read_text().splitlines()) == 4


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "family" in metafunc.fixturenames:
        metafunc.parametrize("family", FAMILIES if metafunc.config.getoption("--thorough") else FAMILIES[:3])


def test_every_family_is_exported(family: str, tmp_path: Path) -> None:
    embed_dim = WIDTH if family == "SigLIP" else EMBED_DIM
    model = SDPModel(make_tower(family), LinearHeads(WIDTH, embed_dim, DEPTH), sigma=1)
    texts = torch.randn(model.texts.embeddings.shape[1], 2, generator=torch.Generator().manual_seed(1))
    model.texts.add("nut", texts)
    model.eval().requires_grad_(False)
    # Relative positions are resized as modules, which cannot be traced.
    size = (32, 32) if family == "relative positions" else (40, 24)
    image = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(2))
    expected = model(image)
    path = tmp_path / "model.onnx"
    program = torch.onnx.export(
        model,
        (image,),
        input_names=["input"],
        output_names=["pred_score", "anomaly_map"],
        dynamic_shapes=({0: torch.export.Dim("batch", max=64)},),
        dynamo=True,
        verbose=False,
        optimize=False,
    )
    program.model = onnxscript.optimizer.optimize(program.model, num_iterations=1)  # as ours are: in half of the time
    program.save(path)
    graph = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    pixels = image[:2].numpy()
    for score, anomaly_map in (
        onnxruntime.InferenceSession(path).run(["pred_score", "anomaly_map"], {"input": pixels}),
        graph(pixels).to_tuple(),
    ):
        np.testing.assert_allclose(score, expected.pred_score[:2], atol=1e-4)
        np.testing.assert_allclose(anomaly_map, expected.anomaly_map[:2], atol=1e-4)
