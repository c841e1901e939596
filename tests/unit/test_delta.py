"""δ on integers, against fractions and numbers worked by hand."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import floor
from pathlib import Path

import numpy as np
import pytest
from helpers import noisy_logo, opaque_logo, write_flat_model

from miad_cli.errors import InvisibleLogo
from miad_cli.imaging.image import MedicalImage, Window
from miad_cli.models import bank as bank_room
from miad_cli.models.bank import Bank, load_bank
from miad_cli.models.session import Device
from miad_cli.watermark.blend import Mark, Tone, blend
from miad_cli.watermark.delta import (
    Delta,
    UnfittingDoubts,
    add,
    allowed_cells,
    doubts,
    enlargement_matrices,
    grid_size,
    steps_of,
    subtract,
    subtract_frames,
)
from miad_cli.watermark.ensemble import Ensemble
from miad_cli.watermark.lesions import Box, Lesions
from miad_cli.watermark.logo import UNCHANGED
from miad_cli.watermark.marking import Decision, apply_mark
from miad_cli.watermark.recipe import delta_of, recipe_of

SHOWN = Tone(0, 255)


def delta_for(rows: int, columns: int, samples: int = 1, seed: int = 5) -> Delta:
    cells = np.random.default_rng(seed).integers(-8, 9, (*grid_size(rows, columns), samples))
    return Delta(cells.astype(np.int8))


def one_row(*cells: int) -> Delta:
    return Delta(np.array(cells, np.int8).reshape(1, -1, 1))


# --- Size and enlargement -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("picture", "grid"),
    [
        ((512, 512), (224, 224)),
        ((224, 224), (224, 224)),
        ((100, 30), (100, 30)),
        ((225, 1), (224, 1)),
        ((300, 400), (168, 224)),
        ((2000, 1), (224, 1)),
        ((448, 1), (224, 1)),  # 0.5 is 1
        ((448, 3), (224, 2)),  # 1.5 is 2
        ((448, 5), (224, 3)),  # 2.5 is 3, where Python's round says 2
        ((5, 448), (3, 224)),
    ],
)
def test_grid_has_224_cells_along_the_longer_side_at_most(picture, grid) -> None:
    assert grid_size(*picture) == grid


def weights_of(cells: int, pixels: int) -> list[dict[int, Fraction]]:
    """By the rule, in fractions: what each pixel takes of which cell."""
    rows = []
    for pixel in range(pixels):
        place = Fraction((2 * pixel + 1) * cells - pixels, 2 * pixels)
        place = min(max(place, Fraction(0)), Fraction(cells - 1))
        part = Fraction(floor((place - floor(place)) * 256 + Fraction(1, 2)), 256)
        row = {floor(place): 1 - part}
        if part:
            row[floor(place) + 1] = part
        rows.append(row)
    return rows


@pytest.mark.parametrize("size", [(225, 2), (230, 7), (3, 449), (1, 600), (226, 226)])
@pytest.mark.parametrize("tone", [Tone(0, 255), Tone(-1000, 3095), Tone(0, 9000, inverted=True)])
def test_steps_are_those_of_the_rule_in_fractions(size: tuple[int, int], tone: Tone) -> None:
    delta = delta_for(*size)
    down, across = (weights_of(*pair) for pair in zip(delta.grid.shape, size, strict=False))
    sign = -1 if tone.inverted else 1
    steps = steps_of(delta, *size, tone)
    generator = np.random.default_rng(1)
    some = zip(
        generator.integers(0, size[0], 300), generator.integers(0, size[1], 300), strict=True
    )
    for row, column in [*some, (0, 0), (size[0] - 1, size[1] - 1)]:
        taken = product(down[row].items(), across[column].items())
        cells = sum(int(delta.grid[i, j, 0]) * a * b for (i, a), (j, b) in taken)
        exact = sign * cells * Fraction(tone.high - tone.low, 255)
        assert steps[row, column, 0] == floor(exact + Fraction(1, 2))


@pytest.mark.parametrize("size", [(226, 225), (7, 9), (300, 3), (512, 512)])
def test_matrices_are_the_integer_weights(size: tuple[int, int]) -> None:
    down, across = enlargement_matrices(*size)
    assert (down.shape, across.shape) == tuple(zip(size, grid_size(*size), strict=True))
    assert down.dtype == across.dtype == np.float32
    for matrix, cells, pixels in zip((down, across), grid_size(*size), size, strict=True):
        expected = np.zeros((pixels, cells))
        for pixel, row in enumerate(weights_of(cells, pixels)):
            for cell, weight in row.items():
                expected[pixel, cell] = weight
        np.testing.assert_array_equal(matrix, expected)


def test_cell_of_a_picture_that_is_not_larger_is_a_pixel() -> None:
    delta = delta_for(7, 224, samples=3)
    np.testing.assert_array_equal(steps_of(delta, 7, 224, SHOWN), delta.grid)


def test_unit_is_a_255th_of_the_window() -> None:
    delta = one_row(1, -1, 3, -3)
    assert steps_of(delta, 1, 4, Tone(0, 2550)).ravel().tolist() == [10, -10, 30, -30]
    assert steps_of(delta, 1, 4, Tone(-100, -15)).ravel().tolist() == [0, 0, 1, -1]


@pytest.mark.parametrize(("cell", "steps"), [(2, [0, 1, 2, 2]), (-2, [0, 0, -1, -2])])
def test_halves_are_rounded_up(cell: int, steps: list[int]) -> None:
    """Pixels of twice as many stand at -1/4 (that is 0), 1/4, 3/4, 5/4 of a cell."""
    cells = np.full((1, 224, 1), cell, np.int8)
    cells[0, 0] = 0
    assert steps_of(Delta(cells), 1, 448, SHOWN).ravel()[:4].tolist() == steps


def test_what_is_positive_looks_brighter() -> None:
    bright, dark = one_row(4, -4), np.array([100, 100], np.uint8).reshape(1, 1, 2, 1)
    assert add(dark, bright, SHOWN).ravel().tolist() == [104, 96]
    assert add(dark, bright, Tone(0, 255, inverted=True)).ravel().tolist() == [96, 104]


# --- Adding and subtracting ---------------------------------------------------------------------


def test_value_changes_only_within_the_window_and_beside_padding() -> None:
    values = np.array([0, 9, 10, 17, 18, 50, 57, 58, 60, 100], np.int16).reshape(1, 1, 10, 1)
    tone = Tone(10, 60, padding=(57, 57), beside=58)
    delta = one_row(*[41] * 10)
    assert steps_of(delta, 1, 10, tone).ravel().tolist() == [8] * 10
    moved = add(values, delta, tone)
    assert moved.ravel().tolist() == [0, 9, 18, 25, 26, 58, 57, 58, 60, 100]
    kept = doubts(values, delta, tone)
    np.testing.assert_array_equal(subtract(moved, delta, tone, kept), values)


def test_a_bit_is_kept_only_where_both_pasts_can_be() -> None:
    """+20 from 0 to 255: what is 236 or more may have been left; of that it came from 216 on."""
    delta = one_row(*[20] * 9)
    values = np.array([0, 100, 216, 235, 236, 250, 255, 230, 19], np.uint8).reshape(1, 1, 9, 1)
    moved = add(values, delta, SHOWN)
    assert moved.ravel().tolist() == [20, 120, 236, 255, 236, 250, 255, 250, 39]
    # in doubt are 236, 255, 236, 250, 255, 250: changed, changed, left, left, left, changed
    assert doubts(values, delta, SHOWN) == bytes([0b11000100])
    np.testing.assert_array_equal(subtract(moved, delta, SHOWN, bytes([0b11000100])), values)
    other = subtract(moved, delta, SHOWN, bytes([0b01000100])).ravel().tolist()
    assert other == [0, 100, 236, 235, 236, 250, 255, 230, 19]


def test_bits_follow_each_other_over_frames_and_bands() -> None:
    """Nine bits, then nine more: no frame ends with a byte."""
    delta = one_row(*[1] * 9)
    values = np.full((2, 1, 9, 1), 255, np.uint8)
    values[0, 0, :4], values[1, 0, 7:] = 254, 254
    kept = doubts(values, delta, SHOWN)
    assert kept == np.packbits((values == 254).ravel()).tobytes()
    np.testing.assert_array_equal(subtract(add(values, delta, SHOWN), delta, SHOWN, kept), values)


@pytest.mark.parametrize("wrong", [b"", bytes([0b11000100, 0]), bytes([0b11000101])], ids=repr)
def test_bits_that_do_not_fit_are_refused(wrong: bytes) -> None:
    delta = one_row(*[20] * 9)
    values = np.array([0, 100, 216, 235, 236, 250, 255, 230, 19], np.uint8).reshape(1, 1, 9, 1)
    with pytest.raises(UnfittingDoubts):
        subtract(add(values, delta, SHOWN), delta, SHOWN, wrong)


def test_frames_are_undone_one_by_one() -> None:
    stored = np.random.default_rng(2).integers(0, 256, (3, 300, 250, 3), np.uint8)
    delta = delta_for(300, 250, samples=3)
    moved, kept = add(stored, delta, SHOWN), doubts(stored, delta, SHOWN)
    assert (moved != stored).mean() > 0.7
    asked: list[int] = []

    def frames():
        for number, frame in enumerate(moved):
            asked.append(number)
            yield frame

    for number, restored in enumerate(subtract_frames(frames(), delta, SHOWN, kept)):
        assert asked == [*range(number + 1)]
        np.testing.assert_array_equal(restored[0], stored[number])


def test_what_was_not_made_with_this_delta_is_left() -> None:
    """5 cannot be 5 - 20 with 20 added, and as 5 it would have become 25."""
    delta = one_row(20)
    impossible = np.array([5], np.uint8).reshape(1, 1, 1, 1)
    assert subtract(impossible, delta, SHOWN, b"").item() == 5


# --- Lesions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 60), (300, 500), (512, 512), (230, 3)])
@pytest.mark.parametrize("boxes", [[Box(1, 11, 2, 9)], [Box(0, 0, 1, 1), Box(2, 20, 1, 20)], []])
def test_allowed_cells_are_those_that_reach_no_box(size: tuple[int, int], boxes: list[Box]) -> None:
    inside = np.zeros(size, bool)
    for box in boxes:
        inside[box.y : box.y + box.height, box.x : box.x + box.width] = True
    down, across = enlargement_matrices(*size)
    reaching = (down.T @ inside.astype(np.float32) @ across) > 0
    allowed = allowed_cells(boxes, *size)
    np.testing.assert_array_equal(allowed, ~reaching)
    grid = np.where(allowed[..., None], np.int8(127), np.int8(0))
    stored = np.random.default_rng(3).integers(0, 4096, (1, *size, 1)).astype(np.uint16)
    moved = add(stored, Delta(grid), Tone(0, 4095))
    np.testing.assert_array_equal(moved[0, inside], stored[0, inside])
    assert (moved != stored).mean() > 0.2


def test_box_beyond_the_picture_counts_as_far_as_it_is_in_it() -> None:
    beyond, within = (
        allowed_cells([Box(-4, 8, 6, 9)], 10, 10),
        allowed_cells([Box(0, 8, 2, 2)], 10, 10),
    )
    np.testing.assert_array_equal(beyond, within)
    assert allowed_cells([Box(-9, -9, 3, 3)], 10, 10).all()


# --- What cannot be -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "grid",
    [
        np.zeros((3, 3), np.int8),
        np.zeros((3, 3, 2), np.int8),
        np.zeros((3, 3, 1), np.int16),
        np.zeros((0, 3, 1), np.int8),
        np.zeros((225, 3, 1), np.int8),
    ],
    ids=lambda grid: f"{grid.shape}{grid.dtype}",
)
def test_grid_that_cannot_be_is_refused(grid: np.ndarray) -> None:
    with pytest.raises(ValueError, match="perturbation"):
        Delta(grid)


@pytest.mark.parametrize("shape", [(1, 7, 9, 3), (1, 9, 7, 1), (1, 8, 9, 1)])
def test_grid_of_another_picture_is_refused(shape: tuple[int, ...]) -> None:
    delta, other = delta_for(7, 9), np.zeros(shape, np.uint8)
    for work in (
        lambda: add(other, delta, SHOWN),
        lambda: doubts(other, delta, SHOWN),
        lambda: subtract(other, delta, SHOWN, b""),
    ):
        with pytest.raises(ValueError, match="size"):
            work()


@pytest.mark.parametrize("tone", [Tone(5, 4), Tone(0, 1 << 32), Tone(-(1 << 53), 1 << 53)])
def test_window_that_cannot_be_is_refused(tone: Tone) -> None:
    with pytest.raises(ValueError, match="window"):
        add(np.zeros((1, 7, 9, 1), np.uint8), delta_for(7, 9), tone)


# --- Under a mark -------------------------------------------------------------------------------


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bank:
    write_flat_model(tmp_path / "flat", layout="NCHW", channels=3, kind="logits")
    monkeypatch.setattr(bank_room, "models_directory", lambda: tmp_path)
    return load_bank("toy", (), None, Device())


def decision_for(mark: Mark, delta: Delta | None) -> Decision:
    return Decision(mark, UNCHANGED, 2, Lesions((), "none"), queries=1, delta=delta)


def test_mark_is_put_over_the_perturbation_of_every_frame(bank: Bank) -> None:
    stored = np.random.default_rng(7).integers(0, 4096, (3, 40, 50, 1), np.uint16)
    image, tone = MedicalImage(stored, (0, 4095), Window(200, 3000)), Tone(200, 3000)
    delta, mark = delta_for(40, 50), Mark(5, 3, 150, noisy_logo(12, 20))
    marking = apply_mark(decision_for(mark, delta), image, bank)
    np.testing.assert_array_equal(marking.stored, blend(add(stored, delta, tone), mark, tone))
    assert marking.delta is delta
    before, after = Ensemble(bank, image).clean, Ensemble(bank, image).opinion_of(marking.stored[1])
    np.testing.assert_array_equal(marking.clean.probabilities, before.probabilities)
    np.testing.assert_array_equal(marking.marked.probabilities, after.probabilities)


@pytest.mark.parametrize(
    ("picture", "cell", "seen"), [(100, 0, False), (100, 10, True), (90, 10, False)]
)
def test_logo_must_show_on_what_lies_beneath_it(
    bank: Bank, picture: int, cell: int, seen: bool
) -> None:
    image = MedicalImage(np.full((1, 8, 9, 1), picture, np.uint8), (0, 255), Window(0, 255))
    delta = Delta(np.full((8, 9, 1), cell, np.int8))
    decision = decision_for(Mark(1, 1, 255, opaque_logo(4, 4, (100, 100, 100))), delta)
    if seen:
        assert apply_mark(decision, image, bank).stored[0, 1, 1, 0] == 100
    else:
        with pytest.raises(InvisibleLogo):
            apply_mark(decision, image, bank)


# --- The recipe ---------------------------------------------------------------------------------


def recipe_with(delta: Delta | None) -> dict:
    return recipe_of(Mark(0, 0, 200, noisy_logo(2, 2)), SHOWN, UNCHANGED, delta)


@pytest.mark.parametrize("samples", [1, 3])
def test_recipe_brings_the_grid_back(samples: int) -> None:
    delta = delta_for(30, 300, samples)
    read = delta_of(recipe_with(delta), delta.grid.tobytes())
    assert read is not None
    np.testing.assert_array_equal(read.grid, delta.grid)
    assert delta_of(recipe_with(None), None) is None


@pytest.mark.parametrize(
    ("change", "cells"),
    [
        (None, bytes(63)),
        ({}, bytes(63)),
        ({"rows": 7, "columns": 9}, bytes(63)),
        ({"rows": 7, "columns": 9, "samples": 1, "more": 1}, bytes(63)),
        ({"rows": 7, "columns": 9, "samples": 1}, None),
        ({"rows": 7, "columns": 9, "samples": 1}, bytes(62)),
        ({"rows": 7, "columns": 9, "samples": 1}, bytes(64)),
        ({"rows": 7, "columns": 9, "samples": 2}, bytes(126)),
        ({"rows": -7, "columns": -9, "samples": 1}, bytes(63)),
        ({"rows": 7, "columns": 9, "samples": True}, bytes(63)),
        ({"rows": "7", "columns": 9, "samples": 1}, bytes(63)),
        ({"rows": 225, "columns": 1, "samples": 1}, bytes(225)),
        ({"rows": 0, "columns": 9, "samples": 1}, b""),
        ([7, 9, 1], bytes(63)),
        (False, None),
    ],
    ids=repr,
)
def test_recipe_of_a_perturbation_that_cannot_be_is_refused(change, cells) -> None:
    with pytest.raises(ValueError, match=r"perturbation|cells"):
        delta_of({**recipe_with(None), "delta": change}, cells)


def test_recipe_that_does_not_say_is_refused() -> None:
    recipe = recipe_with(None)
    del recipe["delta"]
    with pytest.raises(ValueError, match="does not say"):
        delta_of(recipe, None)
