"""A model's view of a picture, against Pillow's own BILINEAR and against whole pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from miad_cli.models.manifest import InputSpec
from miad_cli.models.view import view_for


def spec_for(rows: int, columns: int, fit: str) -> InputSpec:
    return InputSpec(tensor="picture", rows=rows, columns=columns, fit=fit)


def picture_of(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(rows * columns).integers(0, 256, (rows, columns, 3), np.uint8)


SIZES = [(97, 61, 32, 32), (20, 33, 64, 48), (64, 64, 64, 64), (300, 200, 37, 91), (15, 16, 16, 8)]


@pytest.mark.parametrize(("rows", "columns", "down", "across"), SIZES)
def test_stretched_view_is_what_pillow_makes(
    rows: int, columns: int, down: int, across: int
) -> None:
    pixels = picture_of(rows, columns)
    resized = Image.fromarray(pixels).resize((across, down), Image.Resampling.BILINEAR)
    view = view_for(spec_for(down, across, "stretch"), rows, columns).of(
        (pixels / 255).astype(np.float32)
    )
    assert view.shape == (3, down, across)
    assert np.abs(view.transpose(1, 2, 0) * 255 - np.asarray(resized)).max() <= 1.01


@pytest.mark.parametrize(("rows", "columns", "down", "across"), SIZES)
def test_padded_view_is_pillow_on_a_black_square(
    rows: int, columns: int, down: int, across: int
) -> None:
    pixels = picture_of(rows, columns)
    side = max(rows, columns)
    square = Image.new("RGB", (side, side))
    square.paste(Image.fromarray(pixels), ((side - columns) // 2, (side - rows) // 2))
    resized = square.resize((across, down), Image.Resampling.BILINEAR)
    view = view_for(spec_for(down, across, "pad"), rows, columns).of(
        (pixels / 255).astype(np.float32)
    )
    assert np.abs(view.transpose(1, 2, 0) * 255 - np.asarray(resized)).max() <= 1.01


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize(("rows", "columns", "down", "across"), SIZES)
def test_view_of_changed_pixels_is_the_view_of_the_changed_picture(
    fit: str, rows: int, columns: int, down: int, across: int
) -> None:
    before = (picture_of(rows, columns) / 255).astype(np.float32)
    after = before.copy()
    after[3:11, 5:9] = np.random.default_rng(1).random((8, 4, 3))
    view = view_for(spec_for(down, across, fit), rows, columns)
    start = view.of(before)
    kept = start.copy()
    moved = view.add_patch(start, (after - before)[3:11, 5:9], 3, 5)
    np.testing.assert_allclose(moved, view.of(after), atol=1e-5)
    assert np.abs(moved - start).max() > 1e-3
    np.testing.assert_array_equal(start, kept)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_heat_comes_back_to_the_pixels_it_came_from(fit: str) -> None:
    view = view_for(spec_for(16, 16, fit), 80, 48)
    spot = np.zeros((80, 48, 3), np.float32)
    spot[62, 11] = 1
    seen = view.of(spot)[0]
    back = view.back(seen)
    row, column = np.unravel_index(back.argmax(), back.shape)
    assert abs(row - 62) <= 5
    assert abs(column - 11) <= 5


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_even_heat_stays_even(fit: str) -> None:
    back = view_for(spec_for(16, 24, fit), 80, 48).back(np.full((16, 24), 7.0, np.float32))
    np.testing.assert_allclose(back, np.full((80, 48), 7.0), rtol=1e-4)
