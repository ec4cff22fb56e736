# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Files that were cut, overwritten or made to do harm: each reader gives something sound or the package's own error."""

import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageCms

import layouts
from anomalib_clipad import SDP, ImageList, SDPPlus
from anomalib_clipad.checkpoint.head_files import load_heads
from anomalib_clipad.clip import embedded
from anomalib_clipad.clip.prompt_ensemble import PromptEnsemble
from anomalib_clipad.clip.text_cache import TextCache
from anomalib_clipad.clip.weights import read_weights
from anomalib_clipad.data.image_files import Unreadable, image_size, read_image
from anomalib_clipad.data.image_list import read_labels, read_list
from anomalib_clipad.pages.pictures import open_image, open_mask
from tiny import BACKBONE, make_engine, sdp

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[1] / "golden"
PER_KIND = 200
"""Damaged versions of each of 16 files."""

DESCRIPTION = {"class_name": "nut"}
MARKUP = b"</script><script>"


def damaged(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Versions of a file: cut off, with bits turned, parts overwritten, doubled or left out, and with huge numbers."""
    chance = random.Random(seed)
    pieces = (b"\x00", b"\xff\xff\xff\xff", b"-1", b"9" * 40, b"../../../x", b'"', b"\n", MARKUP, b"{", b"\xf0\x9f")
    for _ in range(count):
        data = bytearray(content)
        for _ in range(chance.choice((1, 1, 2, 8))):
            # Headers, which lengths and names are in, are hit as often as all the rest.
            end = chance.choice((min(len(data), 200), len(data))) or 1
            at = chance.randrange(end)
            kind = chance.randrange(6)
            if kind == 0:
                del data[at:]
            elif kind == 1:
                data[at : at + 1] = bytes([data[at] ^ 1 << chance.randrange(8)]) if data else b""
            elif kind == 2:
                piece = chance.choice(pieces)
                data[at : at + len(piece)] = piece
            elif kind == 3:
                data[at:at] = chance.choice(pieces)
            elif kind == 4:
                data[at : at + chance.randrange(1, 64)] = b""
            else:
                data[at : at + 8] = struct.pack("<Q", chance.getrandbits(64))
            if not data:
                break
        yield bytes(data)


def images(folder: Path) -> dict[str, bytes]:
    """A picture in each format that the host lists."""
    picture, _ = layouts.draw(0, anomalous=True, size=40)
    for suffix in (".png", ".jpg", ".bmp", ".tiff", ".webp"):
        picture.save(folder / f"image{suffix}")
    picture.quantize(16).save(folder / "palette.png")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read_heads(path: Path) -> Any:
    heads, _ = load_heads(path)
    assert all(value.isfinite().all() for value in heads.state_dict().values())


def read_cached(path: Path) -> Any:
    cache = TextCache(path.parent)
    target = cache.path(DESCRIPTION)
    assert target is not None
    path.replace(target)
    found = cache.load(DESCRIPTION)
    assert found is None or found.norm(dim=0).sub(1).abs().max() < 1e-2


def read_picture(path: Path) -> Any:
    found = read_image(path)
    if not isinstance(found, Unreadable):
        assert found.shape[0] == 3
        assert 0 <= found.min() <= found.max() <= 1
    image_size(path)
    open_image(str(path))
    open_mask(str(path), (8, 8))


def valid_files(folder: Path) -> dict[str, tuple[bytes, Callable[[Path], Any]]]:
    """Files as they should be, and what reads them."""
    model = sdp(class_name="nut")
    cache = TextCache(folder / "cache")
    cache.save(DESCRIPTION, model.collaborators.text_engine.text_embeddings("nut"))
    cached = cache.path(DESCRIPTION)
    assert cached is not None
    heads, _ = load_heads(embedded.heads_file(BACKBONE))
    torch.save({"linear_layers": heads.state_dict()}, folder / "authors.pth")
    torch.save(dict(list(model.model.visual.state_dict().items())[:4]), folder / "weights.pt")
    (folder / "pictures").mkdir()
    listing = 'path,class_name,label\na.png,nut,good\nb/c.png,nut,bad\n"d,e.png",nut,good\n'
    prompts = "extends: industrial\nanomalous_states: ['torn {}', '{} with a burr']\nclass_names: {xy-7: rubber seal}\n"
    return {
        "heads.safetensors": (embedded.heads_file(BACKBONE).read_bytes(), read_heads),
        "old.safetensors": ((GOLDEN / "heads_0_1.safetensors").read_bytes(), read_heads),
        "authors.pth": ((folder / "authors.pth").read_bytes(), read_heads),
        "model.ckpt": ((GOLDEN / "sdp_0_1.ckpt").read_bytes(), SDP.load),
        "weights.pt": ((folder / "weights.pt").read_bytes(), read_weights),
        "weights.safetensors": (embedded.heads_file(BACKBONE).read_bytes(), read_weights),
        "cached.safetensors": (cached.read_bytes(), read_cached),
        "prompts.yaml": (prompts.encode(), lambda path: PromptEnsemble.from_yaml(path).prompts("nut")),
        "list.csv": (listing.encode(), read_list),
        "marked.csv": (listing.encode(), read_labels),
        **{name: (content, read_picture) for name, content in images(folder / "pictures").items()},
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, Callable[[Path], Any]]]:
    return valid_files(tmp_path_factory.mktemp("valid"))


NAMES = (
    *("heads.safetensors", "old.safetensors", "authors.pth", "model.ckpt", "weights.pt"),
    *("weights.safetensors", "cached.safetensors", "prompts.yaml", "list.csv", "marked.csv"),
    *("image.png", "image.jpg", "image.bmp", "image.tiff", "image.webp", "palette.png"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_read_soundly_or_refused_in_the_packages_words(files, name: str, tmp_path: Path) -> None:
    content, read = files[name]
    path = tmp_path / "in" / name
    path.parent.mkdir()
    path.write_bytes(content)
    read(path)  # as it should be, it is read
    path.write_bytes(content)
    refused = []
    for data in damaged(content, PER_KIND, seed=len(name)):
        path.write_bytes(data)
        try:
            read(path)
        except (ValueError, FileNotFoundError) as error:  # any other ends the test
            refused.append(str(error))
    assert [error for error in refused if not error.startswith("Expected ")] == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in"]  # nothing is written elsewhere
    if "image" not in name and name not in {"palette.png", "cached.safetensors"}:
        assert len(refused) > PER_KIND // 10


class Harmful:
    """A pickle of it makes a folder when it is opened without care."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize(
    "read",
    [load_heads, SDP.load, SDPPlus.load, read_weights, lambda path: SDP(BACKBONE, pretrained=str(path))],
    ids=["heads", "SDP", "SDP+", "weights", "pretrained"],
)
@pytest.mark.parametrize("place", ["alone", "among weights"])
def test_nothing_in_a_file_is_executed(tmp_path: Path, read: Callable[[Path], Any], place: str) -> None:
    harmful = Harmful(tmp_path / "harm")
    torch.save(harmful if place == "alone" else {"state_dict": {"a": torch.zeros(2), "b": harmful}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="Expected "):
        read(tmp_path / "a.pth")
    assert not (tmp_path / "harm").exists()


def test_a_folder_of_everything(tmp_path: Path) -> None:
    """Every file is scored or listed with its error; what is written lies in the results."""
    photos = tmp_path / "photos"
    layouts.write_images(photos, 2)
    picture, _ = layouts.draw(3, anomalous=True, size=60)
    picture.convert("CMYK").save(photos / "cmyk.jpg")
    picture.quantize(8).save(photos / "palette.png")
    picture.convert("LA").save(photos / "alpha.png")
    picture.convert("1").save(photos / "bits.png")
    picture.convert("I;16").save(photos / "deep.tiff")
    picture.save(photos / "really_a_png.jpg", format="PNG")
    picture.save(photos / "moving.webp", save_all=True, append_images=[picture.rotate(90)], duration=50)
    picture.save(photos / "profile.jpg", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(photos / "turned.jpg", exif=exif)
    Image.new("1", (10_000, 10_000)).save(photos / "hundred_megapixels.png")
    Image.new("1", (20_000, 10_000)).save(photos / "two_hundred_megapixels.png")
    (photos / "empty.png").touch()
    (photos / "words.png").write_text("no image")
    (photos / "folder.png").mkdir()
    (photos / "loop").symlink_to(photos, target_is_directory=True)
    (photos / "nowhere.png").symlink_to("gone.png")
    (photos / "self.png").symlink_to("self.png")
    (photos / "outside.png").symlink_to(GOLDEN / "README.md")
    before = {path for path in tmp_path.rglob("*") if "results" not in path.parts}

    make_engine(tmp_path / "results").predict(sdp(class_name="nut"), data_path=photos)
    predictions = sdp().predict(photos, class_name="nut")

    assert {path for path in tmp_path.rglob("*") if "results" not in path.parts} == before
    scored = {Path(item.path).name for item in predictions}
    refused = {Path(row.path).name for row in predictions.skipped}
    assert scored >= {
        *("000.png", "001.png", "cmyk.jpg", "palette.png", "alpha.png", "bits.png", "really_a_png.jpg"),
        *("moving.webp", "profile.jpg", "turned.jpg", "hundred_megapixels.png"),
    }
    assert refused >= {"deep.tiff", "two_hundred_megapixels.png", "empty.png", "words.png", "nowhere.png", "self.png"}
    [table] = (tmp_path / "results").rglob("predictions.csv")
    assert len(table.read_text("utf-8").splitlines()) == 1 + len(predictions) + len(predictions.skipped)


def test_paths_of_a_list_that_lead_out_are_read_but_nothing_is_written_there(tmp_path: Path) -> None:
    layouts.write_images(tmp_path / "work/photos", 1)
    layouts.write_images(tmp_path / "elsewhere", 1)
    (tmp_path / "work/link.png").symlink_to(tmp_path / "elsewhere/000.png")
    (tmp_path / "work/list.csv").write_text(f"photos/000.png\n../elsewhere/000.png\nlink.png\n{GOLDEN}/none.png\n")
    before = {*tmp_path.rglob("*")}
    make_engine(tmp_path / "results").predict(sdp(class_name="nut"), datamodule=ImageList(tmp_path / "work/list.csv"))
    written = {*tmp_path.rglob("*")} - before
    assert all(path.is_relative_to(tmp_path / "results") for path in written)
    assert len([path for path in written if path.suffix == ".png"]) == 3
