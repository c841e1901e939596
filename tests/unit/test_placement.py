"""Sizes, grids and steps against the paper's numbers; free places against brute force."""

from __future__ import annotations

from math import floor, sqrt

import numpy as np
import pytest
from helpers import noisy_logo, opaque_logo

from miad_cli.errors import NoRoomForLogo
from miad_cli.watermark.lesions import Box
from miad_cli.watermark.logo import UNCHANGED, Sit, resize, scaled_size, transform
from miad_cli.watermark.placement import Candidate, Placement, grid_corners, position_steps
from miad_cli.watermark.search import find_placement

SQUARE = opaque_logo(100, 100)
TILTED = Sit(degrees=25)


def placement_of(rows: int, columns: int, divisor: int = 2, boxes: tuple[Box, ...] = ()):
    return Placement(SQUARE, rows, columns, divisor, boxes)


@pytest.mark.parametrize(("divisor", "width", "height"), [(1, 224, 124), (2, 112, 62), (4, 56, 31)])
def test_logo_takes_the_sizes_of_eq_5(divisor: int, width: int, height: int) -> None:
    assert scaled_size(np.zeros((245, 441, 4), np.uint8), 224, 224, divisor) == (height, width)


@pytest.mark.parametrize(
    ("rows", "columns", "size"), [(512, 256, (128, 128)), (256, 512, (128, 128)), (3, 400, (1, 1))]
)
def test_shorter_side_decides_and_nothing_vanishes(
    rows: int, columns: int, size: tuple[int, int]
) -> None:
    assert scaled_size(SQUARE, rows, columns, 2) == size


def test_seeds_stand_14_pixels_apart_as_in_eq_9() -> None:
    corners = grid_corners(placement_of(224, 224), 0.005)
    axis = list(range(0, 113, 14))
    assert corners == [(x, y) for y in axis for x in axis]


def test_number_of_seeds_does_not_depend_on_resolution() -> None:
    small = grid_corners(placement_of(224, 224), 0.005)
    large = grid_corners(placement_of(2048, 2048), 0.005)
    assert len(small) == len(large) == 81
    assert max(large) == (1024, 1024)


def test_logo_as_wide_as_the_picture_has_one_column_of_seeds() -> None:
    wide = Placement(np.full((50, 200, 4), 255, np.uint8), 224, 224, 1, ())
    assert {x for x, _ in grid_corners(wide, 0.005)} == {0}
    assert len(grid_corners(wide, 0.005)) == floor((224 - 56) / 14) + 1


@pytest.mark.parametrize(("side", "step"), [(224, 4), (448, 8), (896, 16)])
def test_mutation_step_is_that_of_eq_10(side: int, step: int) -> None:
    assert position_steps(placement_of(side, side), 0.005, generations=2) == (step, step)


def test_mutation_step_of_a_wide_logo_follows_eq_10_on_each_axis() -> None:
    wide = Placement(np.zeros((245, 441, 4), np.uint8), 224, 224, 2, ())
    free_x, free_y, density, generations = 224 - 112, 224 - 62, 0.005, 3
    points = floor(density * free_x * free_y)
    expected = []
    for along, across in ((free_x, free_y), (free_y, free_x)):
        distance = along / floor(sqrt(points * along / across))
        assert distance > 2 * generations
        expected.append(floor(distance / (2 * generations)))
    assert position_steps(wide, density, generations) == tuple(expected)


def test_mutation_step_is_one_where_the_grid_is_dense() -> None:
    assert position_steps(placement_of(224, 224), 0.5, generations=2) == (1, 1)


def test_logo_without_freedom_still_has_a_step() -> None:
    assert min(position_steps(placement_of(224, 224, divisor=1), 0.005, 2)) >= 1


@pytest.mark.parametrize("sit", [UNCHANGED, TILTED], ids=["upright", "tilted"])
@pytest.mark.parametrize("seed", range(4))
def test_free_corners_are_those_whose_rectangle_covers_no_box_pixel(sit: Sit, seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows, columns = 20, 26
    boxes = tuple(
        Box(*(int(n) for n in (*generator.integers(0, 16, 2), *generator.integers(1, 6, 2))))
        for _ in range(2)
    )
    placement = placement_of(rows, columns, 4, boxes)
    height, width = transform(resize(SQUARE, 5, 5), sit).shape[:2]
    hot = np.zeros((rows, columns), bool)
    for box in boxes:
        hot[box.y : box.y + box.height, box.x : box.x + box.width] = True
    free = {
        (x, y)
        for y in range(rows - height + 1)
        for x in range(columns - width + 1)
        if not hot[y : y + height, x : x + width].any()
    }
    assert {tuple(corner) for corner in placement.feasible_corners(sit).tolist()} == free
    everywhere = {(x, y) for y in range(-2, rows + 2) for x in range(-2, columns + 2)}
    feasible = {at for at in everywhere if placement.is_feasible(Candidate(*at, 128, sit))}
    assert feasible == free


def test_rotation_counts_with_its_larger_rectangle() -> None:
    placement = placement_of(40, 40, 2, (Box(20, 0, 1, 1),))
    assert placement.is_feasible(Candidate(0, 0, 128))
    assert not placement.is_feasible(Candidate(0, 0, 128, TILTED))


def test_logo_too_wide_after_rotation_has_no_corner() -> None:
    assert not len(placement_of(30, 30, divisor=1).feasible_corners(TILTED))


def test_mark_carries_the_rendered_logo() -> None:
    logo = noisy_logo(40, 40)
    placement = Placement(logo, 40, 40, 2, ())
    mark = placement.mark(Candidate(3, 4, 77, TILTED))
    assert (mark.x, mark.y, mark.alpha) == (3, 4, 77)
    np.testing.assert_array_equal(mark.logo, transform(resize(logo, 20, 20), TILTED))


def test_logo_shrinks_until_it_fits_beside_the_boxes() -> None:
    boxes = (Box(0, 0, 64, 44),)
    assert find_placement(SQUARE, 64, 64, boxes, range(2, 9)).divisor == 4  # 16 high, 20 left


def test_largest_logo_is_taken_where_there_is_room() -> None:
    assert find_placement(SQUARE, 64, 64, (), range(2, 9)).divisor == 2


def test_no_room_is_said() -> None:
    with pytest.raises(NoRoomForLogo, match="no room"):
        find_placement(SQUARE, 64, 64, (Box(0, 0, 64, 64),), range(2, 9))


@pytest.mark.parametrize("aspect", [0.5, 1.0, 2.0, 3.7])
def test_logo_keeps_its_shape_on_pixels_that_are_not_square(aspect: float) -> None:
    logo = opaque_logo(120, 240)
    placement = Placement(logo, 200, 300, 2, (), aspect)
    seen = placement.height * aspect / placement.width
    assert seen == pytest.approx(0.5, rel=0.03)
    for sit in (Sit(), Sit(degrees=90), Sit(degrees=30)):
        rendered = placement.mark(Candidate(0, 0, 255, sit)).logo
        corners = placement.feasible_corners(sit)
        x, y = corners[-1]
        assert rendered.shape[:2] == (200 - y, 300 - x)
    turned = placement.mark(Candidate(0, 0, 255, Sit(degrees=90))).logo
    assert turned.shape[0] * aspect / turned.shape[1] == pytest.approx(2.0, rel=0.05)
