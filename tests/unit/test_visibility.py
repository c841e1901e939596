"""The bound of a change follows the texture around it."""

from __future__ import annotations

import numpy as np
import pytest

from miad_cli.watermark.visibility import FULL, bounds, texture


def stripes(rows: int, columns: int, spread: float) -> np.ndarray:
    """Mid-grey on which every other column is `spread` brighter, the rest as much darker."""
    line = np.where(np.arange(columns) % 2, spread, -spread)
    return np.broadcast_to(0.5 + line, (rows, columns))[..., None].astype(np.float32)


def test_texture_is_what_seven_by_seven_neighbours_differ_by_from_their_means() -> None:
    windowed = np.random.default_rng(3).random((12, 9, 3)).astype(np.float32)

    def means(values: np.ndarray) -> np.ndarray:
        padded = np.pad(values, ((3, 3), (3, 3), (0, 0)), mode="edge")
        rows = [
            [padded[y : y + 7, x : x + 7].mean(axis=(0, 1)) for x in range(values.shape[1])]
            for y in range(values.shape[0])
        ]
        return np.array(rows)

    values = windowed.astype(np.float64)
    expected = np.sqrt(means((values - means(values)) ** 2))
    np.testing.assert_allclose(texture(windowed), expected, atol=1e-9)


def test_smooth_shading_is_no_texture() -> None:
    ramp = np.broadcast_to(np.linspace(0, 1, 56)[None, :, None], (56, 56, 1))
    wave = 0.5 + 0.25 * np.sin(np.arange(120) * 2 * np.pi / 60)
    wave = np.broadcast_to(wave[None, :, None], (40, 120, 1))
    for shaded, most in ((ramp, 0.02), (wave, 2.4)):
        reach = bounds(shaded.astype(np.float32), 8.0, shaped=True)
        assert reach[8:-8, 8:-8].max() <= most + 1e-6


@pytest.mark.parametrize(
    ("spread", "share"), [(0.0, 0.0), (FULL * 7 / 16, 0.5), (FULL * 7 / 8, 1.0), (0.3, 1.0)]
)
def test_bound_grows_with_texture_from_nothing_to_the_whole(spread: float, share: float) -> None:
    inner = bounds(stripes(20, 20, spread), 8.0, shaped=True)[10, 10, 0]
    assert inner == pytest.approx(8 * share, rel=0.03)


def test_bound_is_the_same_everywhere_where_it_is_not_shaped() -> None:
    windowed = np.random.default_rng(0).random((6, 7, 3)).astype(np.float32)
    assert (bounds(windowed, 8.0, shaped=False) == 8.0).all()


@pytest.mark.parametrize("shaped", [False, True])
def test_nothing_moves_where_it_may_not(shaped: bool) -> None:
    allowed = np.ones((9, 9), bool)
    allowed[2:5, 3:6] = False
    reach = bounds(stripes(9, 9, 0.2), 8.0, shaped, allowed)
    np.testing.assert_array_equal(reach[..., 0] > 0, allowed)


def test_a_single_pixel_wide_picture_has_bounds() -> None:
    assert bounds(np.full((5, 1, 1), 0.5, np.float32), 8.0, shaped=True).shape == (5, 1, 1)
