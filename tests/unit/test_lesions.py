"""Grad-CAM heat and boxes, against examples worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from miad_cli.watermark.lesions import Box, boxes_above, enlarge, heat_map, runs_of


def test_heat_is_the_rectified_sum_scaled_to_255() -> None:
    weighted = np.array([[[1.0, 2.0], [3.0, -4.0]], [[0.0, 1.0], [-2.0, 1.0]]], np.float32)
    heat = heat_map(weighted, 1.0)  # sum: 1 3 / 1 -3, rectified: 1 3 / 1 0
    np.testing.assert_allclose(heat, [[85, 255], [85, 0]])
    assert heat.dtype == np.float32


def test_top_share_keeps_the_channels_that_weigh_most() -> None:
    weighted = np.array(
        [[[0.0, 0.1]], [[-5.0, 1.0]], [[0.3, 0.0]], [[2.0, 2.0]]], np.float32
    )  # weights 0.1, 6, 0.3, 4
    np.testing.assert_allclose(heat_map(weighted, 0.5), [[0, 255]])  # sum of two: -3 3
    np.testing.assert_allclose(heat_map(weighted, 0.01), [[0, 255]])  # never none: -5 1


@pytest.mark.parametrize("weighted", [np.full((2, 3, 3), -1.0), np.full((2, 3, 3), 2.0)])
def test_heat_without_a_peak_is_zero(weighted: np.ndarray) -> None:
    assert not heat_map(weighted.astype(np.float32), 1.0).any()


def test_enlarging_interpolates_between_centres() -> None:
    heat = np.array([[0.0, 100.0]], np.float32)
    np.testing.assert_allclose(enlarge(heat, 1, 4), [[0, 25, 75, 100]])
    np.testing.assert_allclose(enlarge(heat, 2, 2), [[0, 100], [0, 100]])
    np.testing.assert_allclose(enlarge(heat.T, 4, 1).reshape(-1), [0, 25, 75, 100])


def test_each_connected_region_has_its_box_largest_first() -> None:
    heat = np.zeros((8, 10), np.float32)
    heat[0, 9] = 255
    heat[2:5, 1:4] = 200
    heat[6, 6:9] = 190
    assert boxes_above(heat, 190) == (Box(1, 2, 3, 3), Box(6, 6, 3, 1), Box(9, 0, 1, 1))


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    heat = np.zeros((5, 5), np.float32)
    heat[1, 1] = heat[2, 2] = heat[3, 3] = 255
    assert boxes_above(heat, 190) == (Box(1, 1, 3, 3),)


def test_heat_just_below_the_threshold_has_no_box() -> None:
    assert boxes_above(np.full((4, 4), 189.9, np.float32), 190) == ()


@pytest.mark.parametrize(
    ("other", "meets"),
    [
        (Box(4, 4, 1, 1), True),
        (Box(5, 2, 3, 3), False),
        (Box(2, 5, 3, 3), False),
        (Box(0, 0, 2, 9), False),
        (Box(0, 0, 3, 3), True),
        (Box(0, 0, 20, 20), True),
        (Box(3, 3, 1, 1), True),
    ],
)
def test_boxes_meet_where_they_share_a_pixel(other: Box, meets: bool) -> None:
    box = Box(2, 2, 3, 3)
    assert box.meets(other) is meets
    assert other.meets(box) is meets


def test_runs_cover_what_is_marked_and_nothing_else() -> None:
    for seed in range(20):
        marks = np.random.default_rng(seed).random((9, 13)) < 0.4
        covered = np.zeros((9, 13), int)
        for box in runs_of(marks):
            covered[box.y : box.y + box.height, box.x : box.x + box.width] += 1
        np.testing.assert_array_equal(covered, marks.astype(int))
    block = np.zeros((9, 13), bool)
    block[2:7, 3:9] = True
    assert runs_of(block) == (Box(3, 2, 6, 5),)
    assert runs_of(np.zeros((4, 4), bool)) == ()
