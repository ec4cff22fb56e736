# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Which images are references: what a user names, shots of a datamodule, turned copies."""

import re

import pytest
import torch

import layouts
from anomalib_clipad import MVTec
from anomalib_clipad.data.references import Keeping, References, draw_shots


class TestArguments:
    def test_a_path_alone_will_do(self):
        assert References.of("good") == References(path="good")
        assert References.of({"nut": "a", "bolt": "b"}) == References(path={"nut": "a", "bolt": "b"})
        assert References.of({"k_shot": 4, "seed": 1}) == References(k_shot=4, seed=1)
        assert References.of({"path": "good", "turns": 4}) == References(path="good", turns=4)
        assert References.of(None) is None

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "Expected references to name either a path or a positive k_shot, but got path=None and k_shot=0."),
            ({"path": "a", "k_shot": 1}, "Expected references to name either a path or a positive k_shot"),
            ({"k_shot": -1}, "Expected references to name either a path or a positive k_shot"),
            ({"path": "a", "turns": 3}, "Expected references.turns to be one of 1, 2, 4, 8, but got 3."),
            ({"path": "a", "max_patches": 0}, "Expected references.max_patches to be at least 1, but got 0."),
        ],
    )
    def test_that_are_not_valid_are_refused(self, arguments, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            References(**arguments)


def test_folders_of_several_classes_are_listed(tmp_path):
    for name in ("a", "b"):
        layouts.write_images(tmp_path / name, 2)
    listed = References.of({"nut": str(tmp_path / "a"), "bolt": str(tmp_path / "b")}).listed()
    assert [(image.class_name, image.position) for image in listed] == [
        ("nut", 0),
        ("nut", 1),
        ("bolt", 2),
        ("bolt", 3),
    ]


class TestTurns:
    def test_first_is_the_image_itself_and_right_angles_are_exact(self):
        image = torch.rand(3, 4, 6)
        copies = Keeping(turns=4, flips=True).turned(image)

        assert len(copies) == 8
        assert torch.equal(copies[0], image)
        assert torch.equal(copies[1], torch.rot90(image, 1, (-2, -1)))
        assert torch.equal(copies[4], image.flip(-1))

    def test_at_45_degrees_the_size_stays_and_no_corner_is_black(self):
        copies = Keeping(turns=8).turned(torch.full((3, 40, 60), 0.5))
        assert copies[1].shape == (3, 40, 60)
        torch.testing.assert_close(copies[1], torch.full((3, 40, 60), 0.5))


class TestShots:
    @pytest.fixture(scope="class")
    def data(self, tmp_path_factory) -> MVTec:
        folder = tmp_path_factory.mktemp("data")
        layouts.write_mvtec_ad(folder, ("bottle", "cable"), n_train=5)
        data = MVTec(folder, categories=["bottle", "cable"], auxiliary=None, num_workers=0)
        data.setup("test")
        return data

    def draw(self, data: MVTec, k: int, seed: int) -> list[tuple[str, str]]:
        found = draw_shots(data, k, seed, lambda paths: [data.category_of(path) for path in paths])
        return [(image.class_name, image.path) for image in found]

    def test_are_so_many_normal_training_images_of_each_category(self, data):
        drawn = self.draw(data, 3, seed=0)
        assert [name for name, _ in drawn] == ["bottle"] * 3 + ["cable"] * 3
        assert all(f"{name}/train/good" in path for name, path in drawn)
        assert len(set(drawn)) == 6

    def test_depend_on_the_seed_alone(self, data):
        assert self.draw(data, 3, seed=0) == self.draw(data, 3, seed=0)
        assert len({tuple(self.draw(data, 3, seed=seed)) for seed in range(5)}) > 1

    def test_that_are_not_there_are_refused(self, data):
        with pytest.raises(ValueError, match=r"at least 6 normal training images of bottle .*k_shot=6, but got 5"):
            self.draw(data, 6, seed=0)
        with pytest.raises(ValueError, match=r"Expected a datamodule to draw references\.k_shot images from"):
            draw_shots(None, 1, 0, list)
