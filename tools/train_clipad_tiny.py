# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Train ``clipad-tiny``, the small CLIP that ships with the package, from scratch on procedural images.

    python tools/train_clipad_tiny.py --output clipad-tiny.safetensors

Every image is drawn fresh from a seed and its index, so that seed, number of steps and batch size determine the data
whatever the number of workers. Only ``TRAINING_CATEGORIES`` and ``TRAINING_DEFECTS`` are ever drawn. The model learns

* to tell captions of categories apart (contrastive loss, as in CLIP),
* to tell "flawless" from "damaged" by its class token (cross-entropy over the two states), and
* to tell defective patches by the tokens of the surgery path (dense loss on the map that SDP computes).

The last is what a large CLIP has learnt from 400 million captions and a small one cannot: it makes the model a stand-in
for tests and first contact, and no evidence for the method.
"""

import argparse
import copy
import json
import math
import time
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import torch
from open_clip import CLIP, CLIPTextCfg, CLIPVisionCfg, get_tokenizer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from anomalib_clipad.clip.prompts import ANOMALOUS_STATES, NORMAL_STATES, TEMPLATES
from anomalib_clipad.clip.surgery import surgery_tokens
from anomalib_clipad.data.synthetic.render import TRAINING_CATEGORIES, TRAINING_DEFECTS, photograph

CONFIG_PATH = Path(__file__).parents[1] / "src/anomalib_clipad/clip/embedded/clipad-tiny.json"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

NAMES = {
    "leather": ("leather", "hide", "leather cover"),
    "tile": ("tile", "ceramic tile", "tiled wall"),
    "grid": ("grid", "wire mesh", "metal grid"),
    "fabric": ("fabric", "cloth", "textile", "woven fabric"),
    "paper": ("paper", "sheet of paper", "cardboard"),
    "concrete": ("concrete", "cement", "concrete wall"),
    "cork": ("cork", "cork board"),
    "laminate": ("laminate", "surface", "texture", "decor panel"),
    "nut": ("nut", "metal nut", "hex nut"),
    "washer": ("washer", "metal ring", "ring"),
    "bottle_cap": ("bottle cap", "crown cap", "cap"),
    "tablet": ("tablet", "pill", "round pill"),
    "bearing": ("bearing", "ball bearing"),
    "gasket": ("gasket", "rubber seal", "seal"),
    "stamping": ("stamping", "metal plate", "metal part", "plate"),
    "moulding": ("moulding", "plastic part", "part", "component"),
}
# Names that say nothing about the image. They teach the model to judge objects that it has no word for.
OTHER_NAMES = """
object item product thing piece sample specimen article good material unit device machine tool instrument engine
board circuit cable wire connector transistor chip battery lamp bulb switch plug socket sensor motor pump valve
pipe tube hose bolt nail rivet pin spring chain belt wheel tyre disc lens mirror glass bottle can jar box carton bag
package label zipper hazelnut nut candle cashew gum macaroni fryum toothbrush brush comb pen pencil ruler coin key
lock handle knob hinge door window floor wall roof stone brick sand rubber plastic foam sponge wool silk cotton
denim steel iron copper aluminium brass silver gold film foil wafer panel solar cell rail track beam frame shaft rod
bar sheet strip coil magnet food bread biscuit cake fruit apple orange leaf seed egg meat fish skin bone brain lung
liver colon eye tooth hand shoe glove hat shirt toy ball block card book phone screen keyboard camera watch
"""


class Photographs(Dataset):
    """Batches of photographs: ``groups`` categories of ``per_group`` images each, all determined by seed and index."""

    def __init__(self, steps: int, groups: int, per_group: int, size: int, seed: int) -> None:
        self.steps, self.groups, self.per_group, self.size, self.seed = steps, groups, per_group, size, seed

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict:
        cv2.setNumThreads(1)
        rng = np.random.default_rng((self.seed, step))
        categories = rng.choice(TRAINING_CATEGORIES, self.groups, replace=False).tolist()
        images, masks = [], []
        for category in np.repeat(categories, self.per_group).tolist():
            defect = str(rng.choice(TRAINING_DEFECTS)) if rng.random() < 0.6 else None
            image, mask = self._photograph(rng, category, defect)
            images.append(image)
            masks.append(mask)
        names, known = zip(*(self._name(rng, category) for category in categories), strict=True)
        prompts = [self._prompt(rng, states, name) for name in names for states in _STATES for _ in range(2)]
        return {
            "image": torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
            "mask": torch.from_numpy(np.stack(masks)),
            "prompts": prompts,
            "known": torch.tensor(known),
        }

    def _photograph(self, rng: np.random.Generator, category: str, defect: str | None) -> tuple[np.ndarray, np.ndarray]:
        """A quarter is drawn at twice the size and reduced, as a user's larger images are."""
        factor = 2 if rng.random() < 0.25 else 1
        image, mask = photograph(rng, category, defect, factor * self.size)
        if factor > 1:
            image = cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_AREA)
        turn = int(rng.integers(4))
        image, mask = np.rot90(image, turn), np.rot90(mask, turn)
        coverage = cv2.resize(mask.astype(np.float32), (self.size // 4,) * 2, interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(image), coverage

    @staticmethod
    def _name(rng: np.random.Generator, category: str) -> tuple[str, bool]:
        """A word for the category; for four in ten an unrelated one, or none that the vocabulary has rows for."""
        draw = rng.random()
        if draw < 0.6:
            return str(rng.choice(NAMES[category])), True
        return (str(rng.choice(OTHER_NAMES.split())), False) if draw < 0.85 else ("xyzzy", False)

    @staticmethod
    def _prompt(rng: np.random.Generator, states: tuple[str, ...], name: str) -> str:
        return str(rng.choice(TEMPLATES)).format(str(rng.choice(states)).format(name))


_STATES = (NORMAL_STATES, ANOMALOUS_STATES)


def encode_text(model: CLIP, tokens: Tensor, blank: Tensor) -> Tensor:
    """Unit text embeddings; ``blank`` tokens get the zero vector that every token unseen in training keeps."""
    length = int(tokens.argmax(-1).max()) + 1
    ends = tokens.argmax(-1)
    tokens = tokens[:, :length]
    x = model.token_embedding(tokens) * ~torch.isin(tokens, blank)[..., None]
    x = x + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x)[torch.arange(len(x)), ends] @ model.text_projection
    return functional.normalize(x.float(), dim=-1)


class Objective(nn.Module):
    """The three losses; holds the slopes and offsets that turn cosines into logits during training only."""

    def __init__(self, layers: int = 4) -> None:
        super().__init__()
        self.log_slope = nn.Parameter(torch.full((layers + 1,), math.log(20.0)))
        self.offset = nn.Parameter(torch.full((layers + 1,), -1.0))
        self.log_contrast = nn.Parameter(torch.tensor(math.log(20.0)))

    def forward(self, tokens: list[Tensor], texts: Tensor, coverage: Tensor, known: Tensor) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            tokens: Unit embeddings of the surgery path, (B, 1 + N, C) for each stage.
            texts: Unit text embeddings (G, 2, C) of each group's name, normal and anomalous.
            coverage: Share of each of 2h x 2w cells that is defective, (B, 2h, 2w).
            known: Whether a group's name means its images, (G,).
        """
        batch, groups = coverage.shape[0], texts.shape[0]
        group = torch.arange(groups).repeat_interleave(batch // groups)
        anomalous = coverage.flatten(1).amax(1) > 0
        pair = texts[group]  # (B, 2, C)
        image = tokens[-1][:, 0]

        cosines = torch.einsum("bc,bsc->bs", image, pair)
        state = functional.cross_entropy(100 * cosines, anomalous.long())

        captions = torch.einsum("bc,gsc->bgs", image, texts[known]).flatten(1) * self.log_contrast.exp()
        position = (known.cumsum(0) - 1)[group] * 2 + anomalous.long()
        mine = known[group]
        contrastive = functional.cross_entropy(captions[mine], position[mine]) if mine.any() else captions.sum() * 0

        side = math.isqrt(tokens[0].shape[1] - 1)
        slope = self.log_slope.exp()
        weight = cosines.softmax(-1)[:, None]  # (B, 1, 2), as SDP weighs the two texts
        similarity = [torch.einsum("bnc,bsc->bns", layer[:, 1:], pair) for layer in tokens]
        target = functional.avg_pool2d(coverage[:, None], 2).flatten(1)
        stages = torch.stack(
            [
                dense_loss(slope[index] * (s[..., 1] - s[..., 0]) + self.offset[index], target)
                for index, s in enumerate(similarity)
            ]
        ).mean()
        fused = sum((weight * s)[..., 1] - (weight * s)[..., 0] for s in similarity).unflatten(1, (side, side))
        fused = functional.interpolate(fused[:, None], scale_factor=2, mode="bilinear").flatten(1)
        logits = slope[-1] * fused + self.offset[-1]
        dense = dense_loss(logits, coverage.flatten(1))
        top = functional.binary_cross_entropy_with_logits(logits.topk(12).values.mean(1), anomalous.float())
        return {"contrastive": contrastive, "state": state, "stages": stages, "dense": dense, "top": top}


LOSS_WEIGHTS = {"contrastive": 0.3, "state": 0.5, "stages": 0.5, "dense": 1.0, "top": 0.5}


def dense_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy (defective cells count threefold) plus Dice over the batch, both (B, N)."""
    weight = logits.new_tensor(3.0)
    entropy = functional.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)
    probability = logits.sigmoid()
    dice = 1 - (2 * (probability * target).sum() + 1) / (probability.sum() + target.sum() + 1)
    return entropy + dice


def plain_attention(query: Tensor, key: Tensor, value: Tensor, **_: object) -> Tensor:
    """Attention by two matrix products: in bf16 on a CPU faster, with its gradient, than PyTorch's fused one."""
    query, key, value = query.contiguous() * query.shape[-1] ** -0.5, key.contiguous(), value.contiguous()
    return (query @ key.transpose(-1, -2)).softmax(-1) @ value


def losses_of(model: CLIP, objective: Objective, tokenizer, batch: dict, blank: Tensor) -> dict[str, Tensor]:
    """All losses of one batch of ``Photographs``."""
    image = (batch["image"].float() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.autocast("cpu", torch.bfloat16):
        with patch("torch.nn.functional.scaled_dot_product_attention", plain_attention):
            tokens = surgery_tokens(model.visual, image).surgery
        texts = encode_text(model, tokenizer(batch["prompts"]), blank)
    tokens = [functional.normalize(layer.float(), dim=-1) for layer in tokens]
    texts = functional.normalize(texts.unflatten(0, (-1, 2, 2)).mean(2), dim=-1)
    return objective(tokens, texts, batch["mask"], batch["known"])


def train(arguments: argparse.Namespace) -> None:
    """Train, log, checkpoint and export."""
    torch.manual_seed(arguments.seed)
    config = json.loads(CONFIG_PATH.read_text())
    size = config["vision_cfg"]["image_size"]
    model = CLIP(config["embed_dim"], CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"]))
    tokenizer = get_tokenizer("ViT-B-32", context_length=config["text_cfg"]["context_length"])
    blank = tokenizer(["xyzzy"])[0, 1:-1].unique()
    blank = blank[(blank != 0) & (blank < 49406)]
    objective = Objective()
    average = copy.deepcopy(model)

    parameters = [*model.named_parameters(), *objective.named_parameters()]
    decayed = [p for name, p in parameters if p.ndim > 1 and "embedding" not in name]
    others = [p for name, p in parameters if not (p.ndim > 1 and "embedding" not in name)]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=arguments.lr, betas=(0.9, 0.98), fused=True)
    warm_up = 200
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * step / arguments.steps)) + 0.005),
    )
    data = Photographs(arguments.steps, arguments.batch_size // 2, 2, size, arguments.seed)
    loader = DataLoader(
        data, batch_size=None, num_workers=arguments.workers, prefetch_factor=8 if arguments.workers else None
    )

    start, seen = time.perf_counter(), torch.zeros(config["text_cfg"]["vocab_size"], dtype=torch.bool)
    running: dict[str, float] = {}
    for step, batch in enumerate(loader):
        seen[tokenizer(batch["prompts"]).unique()] = True
        losses = losses_of(model, objective, tokenizer, batch, blank)
        total = sum(LOSS_WEIGHTS[name] * loss for name, loss in losses.items())
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        decay = min(0.998, (step + 1) / (step + 50))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        for name, loss in losses.items():
            running[name] = 0.98 * running.get(name, loss.item()) + 0.02 * loss.item()
        if step % 50 == 0:
            rate = (step + 1) * arguments.batch_size / (time.perf_counter() - start)
            print(step, f"{rate:.0f} images/s", {name: round(value, 3) for name, value in running.items()}, flush=True)
        if step % 500 == 499 or step + 1 == arguments.steps:
            export(average, seen, blank, arguments.output, arguments)


def export(model: CLIP, seen: Tensor, blank: Tensor, path: Path, arguments: argparse.Namespace) -> None:
    """Write half-precision weights; of the token rows only those that training has used, the rest are zero."""
    seen = seen.clone()
    seen[blank] = False
    rows = seen.nonzero().flatten()
    state = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items() if name != "attn_mask"}
    state["token_embedding.rows"] = rows.to(torch.int32)
    state["token_embedding.weight"] = model.token_embedding.weight.detach()[rows].half().contiguous()
    metadata = {"steps": str(arguments.steps), "batch_size": str(arguments.batch_size), "seed": str(arguments.seed)}
    temporary = path.with_suffix(".part")
    save_file(state, temporary, metadata)
    temporary.replace(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("clipad-tiny.safetensors"))
    parser.add_argument("--steps", type=int, default=8_500)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    train(parser.parse_args())
