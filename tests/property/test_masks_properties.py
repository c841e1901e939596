"""Scaling a mask never loses a marked pixel, and marks nothing that covers none."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from miad_cli.imaging.masks import scaled_marks

SIDES = st.integers(1, 24)


@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 2**32 - 1))
def test_a_pixel_is_marked_where_it_covers_a_marked_one(
    rows: int, columns: int, new_rows: int, new_columns: int, seed: int
) -> None:
    marks = np.random.default_rng(seed).random((rows, columns)) < 0.15
    scaled = scaled_marks(marks, new_rows, new_columns)
    expected = np.zeros((new_rows, new_columns), bool)
    for i in range(new_rows):
        for j in range(new_columns):
            for y, x in np.argwhere(marks):
                # Cell y covers y..y+1 of `rows`, cell i covers i..i+1 of `new_rows`.
                down = y * new_rows < (i + 1) * rows and i * rows < (y + 1) * new_rows
                across = x * new_columns < (j + 1) * columns and j * columns < (x + 1) * new_columns
                expected[i, j] |= down and across
    np.testing.assert_array_equal(scaled, expected)
