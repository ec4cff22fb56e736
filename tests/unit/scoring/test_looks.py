# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Several looks at an image: scales, tiles, and one map of them all."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from anomalib_clipad.scoring.looks import Look, Looks, Tiles, combine, look_at_tiles, tile_starts, without_padding
from anomalib_clipad.scoring.torch_model import SDPModel

TILES = Tiles(size=16, overlap=0.25, batch_size=4)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def brightness(pixels: Tensor, places: int) -> Look:
    """A look whose map is the mean over channels, so that all tiles agree where they overlap."""
    del places
    maps = pixels.mean(dim=1)
    return Look(maps[None], maps.amax(dim=(-2, -1))[None])


@pytest.fixture
def make_model(tiny_clip) -> Callable[..., SDPModel]:
    def make(looks: Looks | None = None) -> SDPModel:
        model = SDPModel(tiny_clip.visual, sigma=1, looks=looks)
        generator = torch.Generator().manual_seed(0)
        for name in ("nut", "bolt"):
            model.texts.add(name, torch.randn(24, 2, generator=generator))
        return model.eval()

    return make


@pytest.mark.parametrize("side", [16, 17, 28, 29, 100, 957])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
def test_the_fewest_tiles_cover_a_side_with_the_overlap(side: int, overlap: float):
    starts = tile_starts(side, 16, overlap)

    assert (starts[0], starts[-1]) == (0, side - 16)
    steps = [after - before for before, after in pairwise(starts)]
    assert all(step <= 16 * (1 - overlap) + 1 for step in steps)  # pixels are whole
    assert len(starts) == 1 or (len(starts) - 2) * 16 * (1 - overlap) < side - 16  # one less would not do


class TestTiles:
    def test_where_tiles_agree_their_map_is_that_of_the_whole(self):
        image = images(2, 3, 50, 70)
        found = look_at_tiles(image, TILES, brightness)
        torch.testing.assert_close(found.maps[0], image.mean(dim=1), atol=1e-6, rtol=0)
        torch.testing.assert_close(found.scores[0], image.mean(dim=1).amax(dim=(-2, -1)))

    def test_blending_equals_an_explicit_loop(self):
        image = images(1, 3, 23, 30)
        tiles = iter(images(100, 16, 16, seed=1))
        drawn = []

        def look(pixels: Tensor, places: int) -> Look:
            del places
            maps = torch.stack([next(tiles) for _ in pixels])
            drawn.extend(maps)
            return Look(maps[None], torch.zeros(1, len(maps)))

        found = look_at_tiles(image, TILES, look).maps[0, 0]

        corners = [(top, left) for top in tile_starts(23, 16, 0.25) for left in tile_starts(30, 16, 0.25)]
        for y, x in [(0, 0), (22, 29), (8, 15), (11, 3), (15, 14)]:
            total = weights = 0.0
            for (top, left), tile in zip(corners, drawn, strict=True):
                if top <= y < top + 16 and left <= x < left + 16:
                    borders = (y - top + 0.5, top + 16 - y - 0.5, x - left + 0.5, left + 16 - x - 0.5)
                    weight = min(borders[:2]) * min(borders[2:])
                    total, weights = total + weight * float(tile[y - top, x - left]), weights + weight
            assert float(found[y, x]) == pytest.approx(total / weights, abs=1e-6)

    def test_no_seam_shows_where_tiles_differ(self):
        levels = iter([0.0, 1.0])
        image = torch.zeros(1, 3, 16, 28)  # two tiles that overlap by 4 pixels

        def look(pixels: Tensor, places: int) -> Look:
            del places
            return Look(torch.stack([torch.full((16, 16), next(levels)) for _ in pixels])[None], torch.zeros(1, 2))

        row = look_at_tiles(image, TILES, look).maps[0, 0, 8]
        assert (row[:12] == 0).all()
        assert (row[16:] == 1).all()
        assert row.diff().max() < 0.5  # not the whole step at once
        assert (row.diff() >= 0).all()

    @pytest.mark.parametrize("batch_size", [1, 3, 1000])
    def test_neither_tiles_in_flight_nor_the_order_of_images_matter(self, make_model, batch_size: int):
        image, index = images(3, 3, 50, 41), torch.tensor([0, 1, 0])
        expected = make_model(Looks(tiles=replace(TILES, whole=False)))(image, index)
        other = make_model(Looks(tiles=replace(TILES, whole=False, batch_size=batch_size)))
        order = torch.tensor([2, 0, 1])

        found = other(image[order], index[order])

        torch.testing.assert_close(found.anomaly_map, expected.anomaly_map[order], atol=1e-5, rtol=0)
        torch.testing.assert_close(found.pred_score, expected.pred_score[order], atol=1e-5, rtol=0)

    def test_the_tower_sees_no_more_tiles_at_once_than_it_is_asked_to(self):
        seen = []

        def look(pixels: Tensor, places: int) -> Look:
            seen.append(len(pixels))
            return brightness(pixels, places)

        look_at_tiles(images(1, 3, 100, 300), TILES, look)
        assert max(seen) == TILES.batch_size

    def test_one_tile_that_covers_the_image_is_the_plain_result(self, make_model):
        image, index = images(2, 3, 32, 32), torch.tensor([1, 0])
        expected = make_model()(image, index)
        for tiles in (Tiles(size=32, whole=False), Tiles(size=32)):
            found = make_model(Looks(tiles=tiles))(image, index)
            torch.testing.assert_close(found.anomaly_map, expected.anomaly_map, atol=1e-6, rtol=0)
            torch.testing.assert_close(found.pred_score, expected.pred_score, atol=1e-6, rtol=0)

    def test_a_flipped_image_has_the_flipped_map(self):
        image = images(1, 3, 41, 57)
        for axis in (-1, -2):
            flipped = look_at_tiles(image.flip(axis), TILES, brightness).maps
            torch.testing.assert_close(flipped, look_at_tiles(image, TILES, brightness).maps.flip(axis))

    def test_a_defect_that_one_tile_shows_raises_the_image_score(self):
        def look(pixels: Tensor, places: int) -> Look:
            del places
            return Look(pixels.mean(dim=1)[None], pixels.amax(dim=(1, 2, 3))[None])

        image = torch.zeros(2, 3, 64, 64)
        image[1, :, 40:42, 10:12] = 1
        whole = Look(torch.zeros(1, 2, 64, 64), torch.zeros(1, 2))
        assert combine([whole], look_at_tiles(image, TILES, look), (64, 64)).scores.tolist() == [[0.0, 0.5]]

    def test_an_image_smaller_than_a_tile_is_refused(self):
        with pytest.raises(ValueError, match="Expected images of at least 16 pixels a side for tiles of 16"):
            look_at_tiles(images(1, 3, 8, 40), TILES, brightness)

    @pytest.mark.parametrize(
        ("argument", "value"), [("overlap", -0.1), ("overlap", 1.0), ("size", 0), ("batch_size", 0)]
    )
    def test_what_is_not_valid_is_refused(self, argument: str, value: float):
        with pytest.raises(ValueError, match=rf"Expected tiles\.{argument} to be .*, but got {value}"):
            Tiles(**{argument: value})


class TestScales:
    def test_the_map_is_the_mean_of_those_of_all_sizes(self, make_model):
        image, index = images(2, 3, 64, 64), torch.tensor([0, 1])
        small = functional.interpolate(image, (32, 32), mode="bicubic", antialias=True)
        first, second = make_model()(small, index), make_model()(image, index)
        upsampled = functional.interpolate(first.anomaly_map[:, None], (64, 64), mode="bilinear")[:, 0]

        found = make_model(Looks(scales=((32, 32), (64, 64))))(image, index)

        torch.testing.assert_close(found.anomaly_map, (upsampled + second.anomaly_map) / 2, atol=1e-5, rtol=0)
        torch.testing.assert_close(found.pred_score, first.pred_score, atol=1e-5, rtol=0)

    def test_references_are_compared_at_all_of_them(self, make_model):
        model, image = make_model(Looks(scales=((32, 32), (64, 64)))), images(2, 3, 64, 64)
        index = torch.tensor([0, 0])
        patches = model.reference_patches(image)
        assert patches[0].shape[:2] == (2, 4 * 4 + 8 * 8)
        model.memory.add(0, patches)
        model.weights = replace(model.weights, text=0.0)

        found = model(image, index)

        torch.testing.assert_close(found.anomaly_map, torch.zeros(2, 64, 64), atol=1e-5, rtol=0)

    def test_where_the_aspect_ratio_is_kept_so_it_is_at_all_sizes(self):
        looks = Looks(scales=((32, 32), (64, 64)), box=(64, 64), patch=(8, 8))
        assert [each.shape[-2:] for each in looks.wholes(images(1, 3, 64, 48))] == [(32, 24), (64, 48)]


def test_padding_is_no_place_for_an_anomaly():
    image, maps = torch.zeros(2, 3, 8, 8), images(2, 8, 8)
    image[0, :, 2:6] = 1
    image[1] = 1
    found = without_padding(maps, image)
    torch.testing.assert_close(found[0, 2:6], maps[0, 2:6])
    assert (found[0, [0, 1, 6, 7]] == maps[0, 2:6].min()).all()
    torch.testing.assert_close(found[1], maps[1])
