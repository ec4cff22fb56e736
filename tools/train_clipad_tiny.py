# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Train ``clipad-tiny``, the small CLIP that ships with the package, from scratch and from captions alone.

    pip install '.[compare]' scikit-image
    python tools/train_clipad_tiny.py --output clipad-tiny.safetensors

As a large CLIP, it learns to match images and captions by the class token of the plain tower and the end of the text.
No mask, map or surgery is part of its objective: what SDP finds in its patches is the method's doing.

Most crops are small: inverse scaling as in CLIPA (https://arxiv.org/abs/2305.07017). Steps and seed are fixed; the data
are those of ``captioned_crops.py``. Every 1,000 steps the model is validated, on training categories, and written.
"""

import argparse
import copy
import json
import math
import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from captioned_crops import GROUPS, KINDS, NAMES, OTHER_NAMES, SIDE, Crops, Phase
from open_clip import CLIP, CLIPTextCfg, CLIPVisionCfg, get_tokenizer
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from anomalib_clipad.clip.prompts import ANOMALOUS_STATES, NORMAL_STATES, TEMPLATES
from anomalib_clipad.clip.towers import describe_tower
from anomalib_clipad.data.synthetic.render import TRAINING_DEFECTS, photograph
from anomalib_clipad.scoring.torch_model import SDPModel

CONFIG_PATH = Path(__file__).parents[1] / "src/anomalib_clipad/clip/embedded/clipad-tiny.json"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
DROP_RATE = 0.25
STAGES = (2, 4, 6, 8)
LOSS_WEIGHTS = {"state": 1.0, "pair": 1.0, "product": 0.4, "kind": 0.3}


class Cycle(NamedTuple):
    """A warm-up and a cosine of the learning rate over some phases, with a fresh optimiser.

    ``depths`` are the shares of the steps in which the tower ends after 2, 4, 6 and 8 of its blocks. In the last of
    them the feed-forward layer is left out at the rate ``drop_last``: then the class token is what attention read.
    In the others the class token does not attend at the rate ``drop_reads``, patches do: so what it reads in late
    blocks has to tell by itself where a defect is, and cannot rely on what it has read in early ones. Patches do not
    attend in blocks after the second at the rate ``drop_mixes``: so they go on to tell of their own place. ``drop`` is
    the rate of stochastic depth in the last block. A cycle may have been ``ended`` after some of its steps.
    """

    lr: float
    warmup: int
    phases: tuple[Phase, ...]
    depths: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)
    drop_last: float = DROP_RATE
    drop_reads: float | None = None
    drop_mixes: float | None = None
    drop: float = DROP_RATE
    seed: int = 0
    ended: int | None = None

    @property
    def planned(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    @property
    def steps(self) -> int:
        """Steps that were taken."""
        return self.ended or self.planned

    def rate(self, step: int) -> float:
        """Share of the learning rate at a step."""
        return min((step + 1) / self.warmup, 0.5 * (1 + math.cos(math.pi * step / self.planned)) + 0.005)


_DEEP = Cycle(8e-4, 100, (), (0.2, 0.15, 0.15, 0.5), drop_last=0.5)
_LATE = _DEEP._replace(drop_reads=0.6)
_SMALL, _WHOLE = (24, 110), (120, 240)
CYCLES = (
    # What a defect is, mostly on small crops.
    Cycle(1e-3, 200, (Phase(40, 24, (40, 150), 3000), Phase(72, 12, (56, 240), 500))),
    # Where there is none, and at every depth, up to the scale of whole drawings.
    _DEEP._replace(
        phases=(
            Phase(40, 24, (40, 150), 2800, 0.7, _SMALL),
            Phase(72, 16, (72, 240), 1400, 0.6, (60, 180)),
            Phase(120, 8, (160, 240), 600, 0.6, _WHOLE),
        ),
        seed=1,
    ),
    # And in every block.
    _DEEP._replace(
        phases=(
            Phase(40, 24, (40, 150), 2400, 0.6, _SMALL),
            Phase(72, 16, (72, 240), 1300, 0.45, (60, 180)),
            Phase(120, 8, (160, 240), 200, 0.45, _WHOLE),
        ),
        drop_reads=0.5,
        seed=2,
    ),
    _LATE._replace(
        phases=(
            Phase(40, 24, (40, 150), 2400, 0.6, _SMALL),
            Phase(72, 16, (72, 240), 800, 0.45, (60, 180)),
            Phase(120, 8, (160, 240), 150, 0.45, _WHOLE),
        ),
        seed=3,
    ),
    # For which patches have to stay what they are. Larger crops lower the maps by now: these cycles end before them.
    _LATE._replace(
        phases=(
            Phase(40, 24, (40, 150), 4000, 0.6, _SMALL),
            Phase(72, 16, (72, 240), 900, 0.45, (60, 180)),
            Phase(120, 8, (160, 240), 150, 0.45, _WHOLE),
        ),
        seed=4,
        ended=3000,
    ),
    _LATE._replace(
        phases=(
            Phase(40, 24, (40, 150), 3000, 0.6, _SMALL, 0.1),
            Phase(72, 16, (72, 240), 800, 0.6, (60, 180), 0.1),
            Phase(120, 8, (160, 240), 300, 0.6, _WHOLE, 0.1),
        ),
        drop_mixes=0.6,
        seed=9,
        ended=3000,
    ),
    _LATE._replace(phases=(Phase(40, 24, (40, 150), 2000, 0.6, _SMALL, 0.1),), drop_mixes=0.8, seed=10),
    # At last the plain tower as it is used, of which heads have to read the patches: nothing is left out or hidden.
    Cycle(
        8e-4,
        100,
        (
            Phase(40, 24, (40, 150), 1500, real=0.1),
            Phase(72, 8, (56, 240), 1000, real=0.1),
            Phase(120, 4, (70, 240), 900, real=0.1),
        ),
        drop_last=0.0,
        drop=0.0,
        seed=11,
    ),
)


class Vocabulary:
    """Tokens that captions are made of, renumbered from 1; 0 stands for all others, whose embedding is zero."""

    def __init__(self, context_length: int, size: int) -> None:
        self.tokenize = get_tokenizer("ViT-B-32", context_length=context_length)
        states = [*NORMAL_STATES, *ANOMALOUS_STATES, *(state for kind in KINDS.values() for state in kind)]
        words = [*(name for names in NAMES.values() for name in names), *OTHER_NAMES.split()]
        captions = [template.format(state) for template in TEMPLATES for state in states]
        captions += [caption.format(word) for word in words for caption in ("a photo of a {}.", "{}")]
        self.rows = self.tokenize(captions).unique()
        """Tokens (R,) that have an embedding."""
        self.numbers = torch.zeros(size, dtype=torch.long)
        self.numbers[self.rows] = torch.arange(1, len(self.rows) + 1)

    def __call__(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Numbers of the captions' tokens (B, L) and the place of each caption's end (B,)."""
        tokens = self.tokenize(captions)
        ends = tokens.argmax(-1)
        return self.numbers[tokens[:, : int(ends.max()) + 1]], ends

    def embedding(self, width: int) -> nn.Embedding:
        """Make the trainable embeddings of these tokens, of open_clip's scale."""
        embedding = nn.Embedding(len(self.rows) + 1, width, padding_idx=0)
        embedding.weight.data.mul_(0.02)
        return embedding


def encode_text(model: CLIP, tokens: Tensor, ends: Tensor) -> Tensor:
    """Unit text embeddings (B, C) of what a ``Vocabulary`` returns."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x)[torch.arange(len(x)), ends] @ model.text_projection
    return functional.normalize(x.float(), dim=-1)


def encode_image(visual: nn.Module, image: Tensor, kept: Tensor, blocks: int, cycle: Cycle) -> Tensor:
    """Unit embeddings of the class token (B, C), by the plain tower at any size, with stochastic depth.

    Only the patches ``kept`` (B, K) are seen, and the tower ends after some of its blocks. What a block adds is left
    out at random (https://arxiv.org/abs/1603.09382), more often in deeper blocks. So each of them learns to add to what
    the class token says, and not only to prepare the next one.
    """
    tower = describe_tower(visual)
    tokens, _ = tower.embed(image)
    patches = tokens[:, 1:].gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))
    tokens = torch.cat([tokens[:, :1], patches], dim=1)
    for layer, block in enumerate(visual.transformer.resblocks[:blocks], 1):
        rate = cycle.drop * layer / tower.depth
        last = layer == blocks
        local = cycle.drop_mixes is not None and layer > STAGES[0]
        mixes = kept_at_random(len(tokens), cycle.drop_mixes if local else rate)
        reads = mixes
        if last and cycle.drop_mixes is not None:
            reads = kept_at_random(len(tokens), rate)
        elif not last and cycle.drop_reads is not None:
            reads = kept_at_random(len(tokens), cycle.drop_reads)
        attention = torch.cat([reads, mixes.expand(-1, tokens.shape[1] - 1, -1)], dim=1)
        tokens = tokens + attend(block, tokens) * attention.to(tokens.dtype)
        rest = kept_at_random(len(tokens), cycle.drop_last if last else rate)
        tokens = tokens + feed_forward(block, tokens) * rest.to(tokens.dtype)
    return functional.normalize(tower.project(tokens[:, 0]).float(), dim=-1)


def kept_at_random(batch: int, rate: float) -> Tensor:
    """Factors (B, 1, 1): 0 at a rate, and otherwise as much above 1 as makes their mean 1."""
    return (torch.rand(batch, 1, 1) >= rate) / (1 - rate)


def feed_forward(block: nn.Module, tokens: Tensor) -> Tensor:
    """What the feed-forward layer adds."""
    return block.mlp(block.ln_2(tokens))


def attend(block: nn.Module, tokens: Tensor) -> Tensor:
    """Attention by two matrix products: in bf16 on a CPU faster, with its gradient, than PyTorch's fused one."""
    attn = block.attn
    packed = functional.linear(block.ln_1(tokens), attn.in_proj_weight, attn.in_proj_bias)
    query, key, value = packed.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4).contiguous().unbind(0)
    mixed = (query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(-1) @ value
    return attn.out_proj(mixed.transpose(1, 2).flatten(2))


class Objective(nn.Module):
    """Contrastive losses between class tokens and captions; holds the temperatures of training."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scales = nn.Parameter(torch.full((3,), math.log(20.0)))

    def forward(self, image: Tensor, texts: Tensor, label: Tensor, known: Tensor) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            image: Class tokens (B, C), crops of a group side by side, in pairs: with the defect, without.
            texts: Captions (G, 8, C) of each group: two normal, two anomalous, its own kind of defect, other kinds.
            label: 1 where a crop shows the defect, 0 without, -1 where it cannot be told (B,).
            known: Whether a group's name means its images (G,).
        """
        group = torch.arange(len(texts)).repeat_interleave(len(image) // len(texts))
        told, scales = label >= 0, self.log_scales.clamp(max=math.log(100)).exp()
        states = functional.normalize(texts[:, :4].unflatten(1, (2, 2)).mean(2), dim=-1)  # (G, 2, C)
        cosines = torch.einsum("bc,bsc->bs", image, states[group])
        state = functional.cross_entropy(scales[0] * cosines[told], label[told])
        # And from text to image: which crop of a pair, one place with and without the defect, the caption is about.
        margin = scales[0] * (cosines[:, 1] - cosines[:, 0]).unflatten(0, (-1, 2))
        pair = functional.softplus(margin[:, 1] - margin[:, 0])[label[::2] == 1].mean()

        captions = torch.einsum("bc,gsc->bgs", image, states[known]).flatten(1)
        position = (known.cumsum(0) - 1)[group] * 2 + label
        # A crop from anywhere may not show the product at all.
        mine = known[group] & told & (label.unflatten(0, (-1, 2)).amax(1) == 1).repeat_interleave(2)
        product = functional.cross_entropy(scales[1] * captions[mine], position[mine]) if mine.any() else 0 * state

        damaged = label == 1
        kinds = torch.einsum("bc,bkc->bk", image[damaged], torch.cat([texts[:, 4:], states[:, :1]], 1)[group[damaged]])
        kind = functional.cross_entropy(scales[2] * kinds, torch.zeros(len(kinds), dtype=torch.long))
        accuracy = (cosines[told].argmax(1) == label[told]).float().mean().detach()
        return {"state": state, "pair": pair, "product": product, "kind": kind, "accuracy": accuracy}


def train(arguments: argparse.Namespace) -> None:
    """Train, log, validate on training categories, and export."""
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(0)  # before workers fork
    config = json.loads(arguments.config.read_text())
    model = CLIP(config["embed_dim"], CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"]))
    vocabulary = Vocabulary(config["text_cfg"]["context_length"], config["text_cfg"]["vocab_size"])
    model.token_embedding = vocabulary.embedding(config["text_cfg"]["width"])
    if arguments.start:
        restore(model, arguments.start)
    objective, average = Objective(), copy.deepcopy(model)
    start, images, steps = time.perf_counter(), 0, 0
    for number, cycle in list(enumerate(CYCLES))[arguments.cycle - 1 :]:
        model.load_state_dict(average.state_dict())
        optimizer = make_optimizer([*model.named_parameters(), *objective.named_parameters()], cycle.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, cycle.rate)
        depths, running = np.random.default_rng(arguments.seed + cycle.seed), {}
        drawn = batches(cycle, arguments.seed + cycle.seed, arguments.workers)
        for step, batch in enumerate(islice(drawn, cycle.steps), 1):
            blocks = int(depths.choice(STAGES, p=cycle.depths))
            with torch.autocast("cpu", torch.bfloat16):
                embeddings = encode_image(model.visual, normalised(batch["image"]), batch["kept"], blocks, cycle)
                texts = encode_text(model, *vocabulary(batch["prompts"])).unflatten(0, (GROUPS, -1))
            losses = objective(embeddings, texts, batch["label"], batch["known"])
            optimizer.zero_grad(set_to_none=True)
            sum(weight * losses[name] for name, weight in LOSS_WEIGHTS.items()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                share = max(0.002, 49 / (step + 49))
                torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), share)
            images, steps = images + len(batch["image"]), steps + 1
            for name, loss in losses.items():
                running[name] = 0.98 * running.get(name, loss.item()) + 0.02 * loss.item()
            if step % 100 == 0:
                seen = f"cycle {number + 1} step {step}, {images} crops, {(time.perf_counter() - start) / 60:.1f} min"
                print(seen, {name: round(loss, 3) for name, loss in running.items()}, flush=True)
            if step % 1000 == 0 or step == cycle.steps:
                print("validation", validate(average, vocabulary), flush=True)
                export(average, vocabulary, arguments.output, {"steps": str(steps), "seed": str(arguments.seed)})


def batches(cycle: Cycle, seed: int, workers: int) -> Iterator[dict[str, Any]]:
    """Batches of one phase after the other, drawn in processes of their own."""
    for number, phase in enumerate(cycle.phases):
        yield from DataLoader(Crops(phase, (seed, number)), None, num_workers=workers, prefetch_factor=6)


def make_optimizer(parameters: list[tuple[str, nn.Parameter]], lr: float) -> torch.optim.Optimizer:
    """AdamW without decay of embeddings, gains, biases and temperatures."""
    decayed, others = [], []
    for name, parameter in parameters:
        (decayed if parameter.ndim > 1 and "embedding" not in name else others).append(parameter)
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)


def normalised(image: Tensor) -> Tensor:
    """CLIP's normalisation of images (B, 3, S, S) of bytes."""
    return (image.float() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@torch.no_grad()
def validate(model: CLIP, vocabulary: Vocabulary) -> dict[str, tuple[float, float]]:
    """Pixel and image AUROC of six training categories, 16 drawings each, by SDP and without either surgery."""
    size = model.visual.image_size[0]
    rng = np.random.default_rng(999)
    models = {
        "SDP": SDPModel(model.visual, sigma=4),
        "plain": SDPModel(model.visual, sigma=4, architecture_surgery=False, feature_surgery=False),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for category in ("tile", "fabric", "nut", "washer", "leather", "gasket"):
        texts = []
        for states in (NORMAL_STATES, ANOMALOUS_STATES):
            phrases = [state.format(NAMES[category][0]) for state in states]
            captions = [template.format(phrase) for template in TEMPLATES[:6] for phrase in phrases]
            texts.append(functional.normalize(encode_text(model, *vocabulary(captions)).mean(0), dim=0))
        kinds = [str(rng.choice(TRAINING_DEFECTS)) if number % 2 else None for number in range(16)]
        shots = [photograph(rng, category, kind, SIDE) for kind in kinds]
        small, masks = (
            np.stack([cv2.resize(np.float32(shot[part]), (size, size), interpolation=cv2.INTER_AREA) for shot in shots])
            for part in (0, 1)
        )
        image, masks = normalised(torch.from_numpy(small).permute(0, 3, 1, 2)), masks > 0.5
        for name, scorer in models.items():
            scorer.texts.replace([category], torch.stack(texts, 1)[None])
            output = scorer(image)
            pixels = roc_auc_score(masks.ravel(), output.anomaly_map.numpy().ravel())
            found[name].append((pixels, roc_auc_score(masks.any((1, 2)), output.pred_score.numpy())))
    return {name: tuple(np.mean(values, axis=0).round(3).tolist()) for name, values in found.items()}


def export(model: CLIP, vocabulary: Vocabulary, path: Path, metadata: dict[str, str]) -> None:
    """Write half-precision weights; of the token rows only those that captions use, the rest are zero."""
    state = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items() if name != "attn_mask"}
    state["token_embedding.rows"] = vocabulary.rows.to(torch.int32)
    state["token_embedding.weight"] = state["token_embedding.weight"][1:].contiguous()
    temporary = path.with_suffix(".part")
    save_file(state, temporary, metadata)
    temporary.replace(path)


def restore(model: CLIP, path: Path) -> None:
    """Load what :func:`export` has written, into a model with the same vocabulary."""
    state = load_file(path)
    rows, embedding = state.pop("token_embedding.rows"), state.pop("token_embedding.weight")
    state["token_embedding.weight"] = torch.cat([torch.zeros(1, embedding.shape[1]), embedding])
    if len(rows) + 1 != len(model.token_embedding.weight):
        msg = f"Expected {path} to hold {len(model.token_embedding.weight) - 1} tokens, but got {len(rows)}."
        raise ValueError(msg)
    model.load_state_dict(state, strict=False)  # but for attn_mask, which is made anew


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("clipad-tiny.safetensors"))
    parser.add_argument("--config", type=Path, default=CONFIG_PATH)
    parser.add_argument("--start", type=Path, help="weights that an interrupted training has written")
    parser.add_argument("--cycle", type=int, default=1, help="cycle to go on with, after --start")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    train(parser.parse_args())
