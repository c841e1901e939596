"""The bound of a change follows the texture around it."""

from __future__ import annotations

import numpy as np
import pytest

from miad_cli.watermark.visibility import FLOOR, FULL, bounds, deviation


def texture(rows: int, columns: int, spread: float) -> np.ndarray:
    """Mid-grey on which every other column is `spread` brighter, the rest as much darker."""
    stripes = np.where(np.arange(columns) % 2, spread, -spread)
    return np.broadcast_to(0.5 + stripes, (rows, columns))[..., None].astype(np.float32)


def test_deviation_is_that_of_seven_by_seven_neighbours() -> None:
    windowed = np.random.default_rng(3).random((12, 9, 3)).astype(np.float32)
    padded = np.pad(windowed.astype(np.float64), ((3, 3), (3, 3), (0, 0)), mode="edge")
    found = deviation(windowed)
    for y, x in ((0, 0), (5, 4), (11, 8), (2, 7)):
        expected = padded[y : y + 7, x : x + 7].std(axis=(0, 1))
        np.testing.assert_allclose(found[y, x], expected, atol=1e-9)


@pytest.mark.parametrize(
    ("spread", "share"), [(0.0, FLOOR), (FULL / 2, 0.5), (FULL, 1.0), (0.3, 1.0)]
)
def test_bound_grows_with_texture_from_its_floor_to_the_whole(spread: float, share: float) -> None:
    inner = bounds(texture(20, 20, spread), 8.0, shaped=True)[10, 10, 0]
    assert inner == pytest.approx(8 * share, rel=0.03)


def test_bound_is_the_same_everywhere_where_it_is_not_shaped() -> None:
    windowed = np.random.default_rng(0).random((6, 7, 3)).astype(np.float32)
    assert (bounds(windowed, 8.0, shaped=False) == 8.0).all()


@pytest.mark.parametrize("shaped", [False, True])
def test_nothing_moves_where_it_may_not(shaped: bool) -> None:
    allowed = np.ones((9, 9), bool)
    allowed[2:5, 3:6] = False
    reach = bounds(texture(9, 9, 0.2), 8.0, shaped, allowed)
    np.testing.assert_array_equal(reach[..., 0] > 0, allowed)


def test_a_single_pixel_wide_picture_has_bounds() -> None:
    assert bounds(np.full((5, 1, 1), 0.5, np.float32), 8.0, shaped=True).shape == (5, 1, 1)
