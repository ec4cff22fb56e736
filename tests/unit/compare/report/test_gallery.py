# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Which images the gallery shows, in which order, and what it does about files that are gone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomalib_clipad.compare.records import IMAGES_FILE, Record, job_folder, read_images, write_images
from anomalib_clipad.compare.report.gallery import GalleryRow, worst_misses
from anomalib_clipad.compare.report.tables import DatasetResults
from comparisons import failed_job, job, write_comparison

GRID = [(model, category) for model in ("SDP", "WinCLIP") for category in ("bottle", "cable")]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return write_comparison(tmp_path / "output", [job(*place) for place in GRID])


def gallery(output: Path, records: list[Record] | None = None, pictures: int = 400, rows: int = 48) -> list[GalleryRow]:
    records = [job(*place) for place in GRID] if records is None else records
    return worst_misses(output, DatasetResults("MVTec", records), pictures, rows)


def set_score(output: Path, name: str, index: int, score: float) -> None:
    images = read_images(output, name)
    scores = images.pred_score.copy()
    scores[index] = score
    write_images(output, name, replace(images, pred_score=scores))


def test_the_image_that_is_ranked_worst_comes_first(output: Path) -> None:
    for model in ("SDP", "WinCLIP"):
        set_score(output, f"{model}-cable-0", 4, 0.0)  # the second broken one, below all good ones
    rows = gallery(output)
    assert len(rows) == 12
    assert (rows[0].category, rows[0].name) == ("cable", "broken/004.png")
    assert [tile.image_error for tile in rows[0].tiles] == [1.0, 1.0]
    assert rows[0].miss == pytest.approx(np.mean([np.mean([1.0, tile.pixel_error]) for tile in rows[0].tiles]))
    assert [row.miss for row in rows] == sorted((row.miss for row in rows), reverse=True)


def test_the_miss_is_averaged_over_models(output: Path) -> None:
    set_score(output, "SDP-bottle-0", 0, 1.0)  # a good image above all broken ones, for one model of two
    (row,) = [row for row in gallery(output) if (row.category, row.name) == ("bottle", "good/000.png")]
    assert [tile.image_error for tile in row.tiles] == [1.0, 0.0]
    assert row.miss == pytest.approx(0.5)
    assert not row.anomalous
    assert row.mask_uri is None


def test_the_page_is_bounded_and_categories_take_turns(output: Path) -> None:
    for index in (3, 4, 5):
        set_score(output, "SDP-cable-0", index, 0.0)  # the three worst are all cables
    rows = gallery(output, pictures=4 * 4)
    assert len(rows) == 4  # an image, its mask and two maps each
    assert sorted(row.category for row in rows) == ["bottle", "bottle", "cable", "cable"]
    assert len(gallery(output, rows=3)) == 3


def test_a_model_that_failed_has_an_empty_tile(output: Path) -> None:
    records = [job(*place) for place in GRID[:3]] + [failed_job(*GRID[3])]
    row = next(row for row in gallery(output, records) if row.category == "cable")
    assert [(tile.model, tile.uri is None) for tile in row.tiles] == [("SDP", False), ("WinCLIP", True)]


def test_files_that_are_gone_leave_gaps(output: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in (output.parent / "data" / "bottle").rglob("004*.png"):
        path.unlink()
    (job_folder(output, "WinCLIP-cable-0") / IMAGES_FILE).unlink()
    rows = {(row.category, row.name): row for row in gallery(output)}
    gone = rows["bottle", "broken/004.png"]
    assert (gone.image_uri, gone.mask_uri) == (None, None)
    assert all(tile.uri and np.isnan(tile.pixel_error) for tile in gone.tiles)
    assert [tile.uri is None for tile in rows["cable", "broken/004.png"].tiles] == [False, True]
    assert "WinCLIP-cable-0" in caplog.text


def test_a_model_without_maps_is_rated_by_its_scores(output: Path) -> None:
    images = read_images(output, "SDP-bottle-0")
    scores = images.pred_score.copy()
    scores[3] = 0.0
    write_images(output, "SDP-bottle-0", replace(images, pred_score=scores, maps=np.zeros((6, 1, 1), np.uint8)))
    row = next(row for row in gallery(output) if (row.category, row.name) == ("bottle", "broken/003.png"))
    scores_only, with_map = row.tiles
    assert (scores_only.uri, scores_only.score, scores_only.image_error) == (None, 0.0, 1.0)
    assert np.isnan(scores_only.pixel_error)
    assert with_map.uri is not None
    assert row.miss == pytest.approx(np.mean([1.0, np.mean([with_map.image_error, with_map.pixel_error])]))


def test_the_first_finished_seed_is_shown(tmp_path: Path) -> None:
    records = [failed_job(seed=0), job(seed=1), job(seed=2)]
    output = write_comparison(tmp_path / "output", records)
    set_score(output, "SDP-bottle-1", 3, 0.0)
    assert gallery(output, records)[0].tiles[0].image_error == 1.0


def test_no_results_are_no_rows(tmp_path: Path) -> None:
    records = [failed_job()]
    assert gallery(write_comparison(tmp_path / "output", records), records) == []
