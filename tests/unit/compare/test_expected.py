# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What a config may expect of a grid."""

import pytest

from anomalib_clipad.compare.expected import Expectation, expectations, read_expected, write_expected

JOBS = {"SDP": {"MVTec AD": ["a", "b"], "VisA": ["c"]}, "SDP+": {"MVTec AD": ["d", "e"], "VisA": ["f"]}}
METRICS = ["image_AUROC", "pixel_F1Max"]


def expect(tolerance: float = 1.0, **given) -> list[Expectation]:
    return expectations({"SDP": {"MVTec AD": {"source": "a paper", **given}}}, tolerance, JOBS, METRICS)


def test_figures_are_expected_of_all_jobs_of_a_model_on_a_dataset(tmp_path):
    found = expect(image_AUROC=91, pixel_F1Max=35.9)

    assert found == [
        Expectation("SDP", "MVTec AD", "image_AUROC", 91.0, "a paper", 1.0, ["a", "b"]),
        Expectation("SDP", "MVTec AD", "pixel_F1Max", 35.9, "a paper", 1.0, ["a", "b"]),
    ]
    write_expected(tmp_path, found)
    assert read_expected(tmp_path) == found


def test_nothing_is_expected_by_default(tmp_path):
    assert expectations({}, 1.0, JOBS, METRICS) == []
    assert read_expected(tmp_path) == []


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"SDPP": {}}, r"Expected expected to name models of the grid, but got SDPP\. Known: SDP, SDP\+\."),
        (
            {"SDP": {"MVTec": {}}},
            r"Expected expected\.SDP to name datasets of .* but got MVTec\. Known: MVTec AD, VisA\.",
        ),
        ({"SDP": {"VisA": {"image_AUROC": 9}}}, r"expected\.SDP\.VisA to have a source, but got None\. Say where"),
        ({"SDP": {"VisA": 35.9}}, r"expected\.SDP\.VisA to have a source, but got None\."),
        ({"SDP": {"VisA": {"image_AUROC": 9, "source": " "}}}, r"expected\.SDP\.VisA to have a source, but got ' '"),
        ({"SDP": {"VisA": {"source": "x"}}}, r"VisA to have a figure, but got its source alone\. Metrics: image_AUROC"),
        (
            {"SDP": {"VisA": {"source": "x", "pixel_F1": 9}}},
            r"expected\.SDP\.VisA to name metrics of the grid, but got pixel_F1\. Known: image_AUROC, pixel_F1Max\.$",
        ),
        (
            {"SDP": {"VisA": {"source": "x", "pixel_ReferencePRO": 75.3}}},
            r"but got pixel_ReferencePRO\. Known: .* It needs reference_pro: true\.",
        ),
    ],
)
def test_names_are_those_of_the_grid_and_figures_have_a_source(expected, message):
    with pytest.raises(ValueError, match=message):
        expectations(expected, 1.0, JOBS, METRICS)


@pytest.mark.parametrize("figure", [-0.1, 100.1, float("nan"), "35.9", True, None])
def test_a_figure_is_one_of_a_table(figure):
    with pytest.raises(ValueError, match=r"VTec AD\.pixel_F1Max to be a figure × 100, from 0 to 100, but got"):
        expect(pixel_F1Max=figure)
    assert [each.figure for each in expect(image_AUROC=0, pixel_F1Max=100)] == [0, 100]


@pytest.mark.parametrize("tolerance", [-1.0, float("nan")])
def test_a_tolerance_is_not_negative(tolerance):
    with pytest.raises(ValueError, match=r"Expected tolerance to be 0 or more points × 100, but got"):
        expect(tolerance, image_AUROC=91)
    assert expect(0, image_AUROC=91)
