# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Captioned crops to train ``clipad-tiny`` on, drawn afresh from a seed and their index.

Each product is drawn with a defect and, by an equal generator, without it. Both are cropped at the same places and
captioned by what a crop shows. Only ``TRAINING_CATEGORIES`` and ``TRAINING_DEFECTS`` are drawn. Some products are real
textures instead: brick, grass and gravel as scikit-image ships them (CC0), with drawn defects.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import skimage.data
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch.utils.data import Dataset

from anomalib_clipad.clip.prompts import ANOMALOUS_STATES, NORMAL_STATES, TEMPLATES
from anomalib_clipad.data.synthetic.patterns import any_colour
from anomalib_clipad.data.synthetic.render import TRAINING_CATEGORIES, TRAINING_DEFECTS, camera, damage, photograph

Image, Mask = NDArray[np.uint8], NDArray[np.bool_]

SIDE = 240
"""Pixels of a drawing."""
PATCH = 8
"""Pixels of the model's patches."""
GROUPS = 8
"""Products in a batch."""
SEEN, SEEN_IN_WHOLE, UNSEEN = 0.012, 0.003, 1e-4
"""Share of a crop, or of a whole drawing, from which a defect counts as seen, and up to which it does not."""
OTHER_KINDS = 3
REAL_TEXTURES = ("brick", "grass", "gravel")

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
    "brick": ("brick", "brick wall", "masonry"),
    "grass": ("grass", "lawn", "turf"),
    "gravel": ("gravel", "pebbles", "stones"),
}
KINDS = {
    "scratch": ("{} with a scratch", "scratched {}"),
    "hole": ("{} with a hole", "punctured {}"),
    "stain": ("{} with a stain", "stained {}"),
    "dent": ("{} with a dent", "dented {}"),
    "discoloration": ("{} with a discoloration", "discolored {}", "faded {}"),
    "thread": ("{} with a loose thread", "{} with a fibre"),
    "scuff": ("scuffed {}", "{} with a worn spot", "worn {}"),
    "blister": ("{} with blisters", "{} with bubbles"),
    "ink": ("{} with an ink mark", "{} with a pen mark"),
    "patch": ("{} with a misplaced piece", "{} with a wrong patch"),
    "chip": ("chipped {}", "{} with a missing piece"),
    "particles": ("dirty {}", "{} with dirt", "{} with particles"),
}
"""What a defect is called in captions. The held-out kinds, crack and burn, are not among them."""

# Names that say nothing about the image. They teach the model to judge objects that it has no word for.
OTHER_NAMES = """
object item product thing piece sample specimen article good material unit device machine tool instrument engine
board circuit cable wire connector transistor chip battery lamp bulb switch plug socket sensor motor pump valve
pipe tube hose bolt nail rivet pin spring chain belt wheel tyre disc lens mirror glass bottle can jar box carton bag
package label zipper hazelnut candle cashew gum macaroni fryum toothbrush brush comb pen pencil ruler coin key
lock handle knob hinge door window floor wall roof sand rubber plastic foam sponge wool silk cotton
denim steel iron copper aluminium brass silver gold film foil wafer panel solar cell rail track beam frame shaft rod
bar sheet strip coil magnet food bread biscuit cake fruit apple orange leaf seed egg meat fish skin bone brain lung
liver colon eye tooth hand shoe glove hat shirt toy ball block card book phone screen keyboard camera watch
"""


class Phase(NamedTuple):
    """A part of the training: side of the crops in pixels, crops a product, range of their sides in a drawing, steps.

    Of the patches of a crop the model is shown the share ``kept``, drawn at random (https://arxiv.org/abs/2212.00794),
    and the caption is about them alone. Every second pair of crops may come from ``anywhere``, with sides of its own;
    the others show the defect. ``real`` is the share of products that are photographs of textures.
    """

    size: int
    crops: int
    sides: tuple[int, int]
    steps: int
    kept: float = 1.0
    anywhere: tuple[int, int] | None = None
    real: float = 0.2


class Crop(NamedTuple):
    """A crop (S, S, 3), its label, and which of its patches are shown (K,), numbered by rows."""

    image: Image
    label: int
    kept: NDArray[np.int64]


class Crops(Dataset):
    """Batches of captioned crops of one phase, determined by seed and index.

    A batch holds, of ``GROUPS`` products: ``image`` (B, 3, S, S) of bytes, the crops of a product side by side;
    ``label`` (B,), 1 where the defect is seen, 0 where there is none, -1 where it cannot be told; ``kept`` (B, K), the
    patches that are shown; ``prompts``, eight captions a product: two normal, two anomalous, one of its own kind of
    defect and three of other kinds; and ``known`` (G,), whether the name in a product's captions means it.
    """

    def __init__(self, phase: Phase, seed: tuple[int, ...]) -> None:
        self.phase, self.seed = phase, seed

    def __len__(self) -> int:
        return self.phase.steps

    def __getitem__(self, step: int) -> dict[str, Any]:
        cv2.setNumThreads(0)
        rng = np.random.default_rng((*self.seed, step))
        drawn = rng.choice(TRAINING_CATEGORIES, GROUPS, replace=False).tolist()
        categories = [str(rng.choice(REAL_TEXTURES)) if rng.random() < self.phase.real else name for name in drawn]
        kinds = rng.choice(TRAINING_DEFECTS, GROUPS).tolist()
        crops = [
            crop
            for category, kind in zip(categories, kinds, strict=True)
            for crop in self._crops(rng, *draw_pair(rng, category, kind))
        ]
        names, known = zip(*(_name(rng, category) for category in categories), strict=True)
        texts = []
        for name, kind in zip(names, kinds, strict=True):
            anomalous = KINDS[kind] if rng.random() < 0.5 else ANOMALOUS_STATES
            texts += [_prompt(rng, states, name) for states in (NORMAL_STATES, anomalous) for _ in range(2)]
            others = rng.choice([other for other in TRAINING_DEFECTS if other != kind], OTHER_KINDS, replace=False)
            texts += [_prompt(rng, KINDS[other], name) for other in (kind, *others.tolist())]
        return {
            "image": torch.from_numpy(np.stack([crop.image for crop in crops])).permute(0, 3, 1, 2).contiguous(),
            "label": torch.tensor([crop.label for crop in crops]),
            "kept": torch.from_numpy(np.stack([crop.kept for crop in crops])),
            "prompts": texts,
            "known": torch.tensor(known),
        }

    def _crops(self, rng: Generator, damaged: Image, mask: Mask, good: Image) -> Iterator[Crop]:
        """Cut equal places out of both drawings, and label them; -1 where too little of the defect is seen."""
        phase, grid = self.phase, self.phase.size // PATCH
        for number in range(phase.crops // 2):
            whole = phase.sides[1] == SIDE and number == 0
            anywhere = phase.anywhere if number % 2 else None
            enough = SEEN_IN_WHOLE if whole else SEEN
            turn, flip = int(rng.integers(4)), rng.random() < 0.5
            for _ in range(8):
                side = SIDE if whole else int(np.exp(rng.uniform(*np.log(anywhere or phase.sides))))
                place = _place(rng, None if anywhere else mask, side)
                kept = np.sort(rng.permutation(grid**2)[: round(phase.kept * grid**2)])
                coverage = _cut(np.float32(mask[place]), grid, turn, flip=flip).ravel()[kept].sum() / grid**2
                if anywhere or coverage > enough:
                    break
            unseen = 0 if anywhere and coverage < UNSEEN else -1
            for image, label in ((damaged, 1 if coverage > enough else unseen), (good, 0)):
                yield Crop(_cut(image[place], phase.size, turn, flip=flip), label, kept)


def _place(rng: Generator, mask: Mask | None, side: int) -> tuple[slice, slice]:
    """A square of this side in a drawing: round a pixel of the mask, or anywhere."""
    if mask is None:
        y, x = rng.integers(0, SIDE - side + 1, 2).tolist()
    else:
        rows, columns = np.nonzero(mask)
        seen = rng.integers(len(rows))
        middle = [int(at[seen] + rng.integers(-side // 3, side // 3 + 1)) for at in (rows, columns)]
        y, x = (int(np.clip(at - side // 2, 0, SIDE - side)) for at in middle)
    return np.s_[y : y + side, x : x + side]


def _cut(image: NDArray[Any], size: int, turn: int, *, flip: bool) -> NDArray[Any]:
    """Resize, turn and mirror a square piece."""
    way = cv2.INTER_AREA if len(image) > size else cv2.INTER_CUBIC
    piece = np.rot90(cv2.resize(image, (size, size), interpolation=way), turn)
    return np.ascontiguousarray(piece[:, ::-1] if flip else piece)


def draw_pair(rng: Generator, category: str, kind: str) -> tuple[Image, Mask, Image]:
    """Draw a product with a defect, the mask by which crops are placed and captioned, and the product without it."""
    seed = int(rng.integers(2**31))
    pair = [_photograph(np.random.default_rng(seed), category, defect) for defect in (kind, None)]
    (damaged, mask), (good, _) = pair
    damaged, good = _other_camera(rng, [damaged, good])
    return damaged, mask if mask.any() else np.ones_like(mask), good


def _other_camera(rng: Generator, images: list[Image]) -> list[Image]:
    """Make some pairs grey, and give some a tone curve or traces of compression, equal for all images."""
    grey, curve, jpeg = rng.random(3) < (0.25, 0.3, 0.15)
    levels, quality = np.arange(256) / 255, int(rng.integers(40, 90))
    levels = rng.uniform(0, 0.35) + rng.uniform(0.35, 0.9) * levels ** np.exp(rng.uniform(-0.7, 0.7))
    table = np.round(np.clip(levels, 0, 1) * 255).astype(np.uint8)
    seen = []
    for image in images:
        turned = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, -1) if grey else image
        turned = table[turned] if curve else turned
        if jpeg:
            _, code = cv2.imencode(".jpg", turned, [cv2.IMWRITE_JPEG_QUALITY, quality])
            turned = cv2.imdecode(code, cv2.IMREAD_COLOR)
        seen.append(turned)
    return seen


def _photograph(rng: Generator, category: str, kind: str | None) -> tuple[Image, Mask]:
    if category not in REAL_TEXTURES:
        return photograph(rng, category, kind, SIDE)
    image, mask = _real_texture(rng, category), np.zeros((SIDE, SIDE), bool)
    if kind is not None:
        image, mask = damage(rng, image, np.ones((SIDE, SIDE), np.float32), kind)
    return camera(rng, image), mask


@cache
def _photo(name: str) -> Image:
    """A grey photograph, 512×512, in the wheel of scikit-image: CC0."""
    return np.asarray(getattr(skimage.data, name)())


def _real_texture(rng: Generator, name: str) -> NDArray[np.float32]:
    """A piece of a grey photograph, turned, scaled, of a random contrast, half of them tinted."""
    photo = _photo(name)
    side = int(rng.integers(120, 512))
    y, x = rng.integers(0, len(photo) - side + 1, 2)
    piece = np.rot90(photo[y : y + side, x : x + side], int(rng.integers(4)))
    grey = cv2.resize(piece.astype(np.float32) / 255, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    grey = np.clip(0.5 + rng.uniform(0.25, 1.1) * (grey - grey.mean()) + rng.uniform(-0.25, 0.25), 0, 1)
    tint = any_colour(rng) if rng.random() < 0.5 else np.ones(3, np.float32)
    return (grey[..., None] * (0.4 + 0.6 * tint)).astype(np.float32)


def _name(rng: Generator, category: str) -> tuple[str, bool]:
    """A word for the category and True; for four in ten an unrelated or an unknown word, and False."""
    draw = rng.random()
    if draw < 0.6:
        return str(rng.choice(NAMES[category])), True
    return (str(rng.choice(OTHER_NAMES.split())), False) if draw < 0.85 else ("xyzzy", False)


def _prompt(rng: Generator, states: tuple[str, ...], name: str) -> str:
    return str(rng.choice(TEMPLATES)).format(str(rng.choice(states)).format(name))
