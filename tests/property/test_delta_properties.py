"""δ is undone exactly, whatever the integers, the grid, the padding and the logo over it are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from helpers import noisy_logo
from hypothesis import given, settings
from hypothesis import strategies as st

from miad_cli.watermark.blend import Mark, Tone, blend, corrections, tone_for, unblend_frames
from miad_cli.watermark.delta import (
    Delta,
    add,
    allowed_cells,
    doubts,
    grid_size,
    steps_of,
    subtract,
    subtract_frames,
)
from miad_cli.watermark.lesions import Box

DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "i8")


@dataclass(frozen=True, eq=False)
class Case:
    stored: np.ndarray
    delta: Delta
    tone: Tone
    mark: Mark
    boxes: tuple[Box, ...]

    @property
    def size(self) -> tuple[int, int]:
        return self.stored.shape[1], self.stored.shape[2]


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    """As large as the grid, or longer than it along one axis, and narrow along the other."""
    short, kind = draw(st.integers(1, 4)), draw(st.sampled_from(["own", "wide", "tall"]))
    long = draw(st.integers(1, 9) if kind == "own" else st.integers(225, 460))
    return (long, short) if kind == "tall" else (short, long)


@st.composite
def boxes_in(draw: st.DrawFn, rows: int, columns: int) -> tuple[Box, ...]:
    boxes = []
    for _ in range(draw(st.integers(0, 2))):
        x, y = draw(st.integers(0, columns - 1)), draw(st.integers(0, rows - 1))
        width, height = draw(st.integers(1, columns - x)), draw(st.integers(1, rows - y))
        boxes.append(Box(x, y, width, height))
    return tuple(boxes)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    bits = draw(st.integers(1, min(dtype.itemsize * 8, 32)))
    signed = dtype.kind == "i"
    bounds = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    rows, columns = draw(sizes())
    samples = draw(st.sampled_from([1, 3]))
    shape = (draw(st.integers(1, 3)), rows, columns, samples)
    span = bounds[1] - bounds[0]
    low = draw(st.integers(bounds[0] - span, bounds[1]))
    window = (low, low + draw(st.integers(1, 2 * span + 1)))
    first, last = sorted(draw(st.tuples(st.integers(*bounds), st.integers(*bounds))))
    padding = draw(st.sampled_from([None, (first, last), (bounds[0], bounds[0]), bounds]))
    tone = tone_for(window, bounds, draw(st.booleans()), padding)
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    largest = draw(st.sampled_from([0, 1, 8, 127]))
    cells = generator.integers(
        -largest - (largest > 8), largest + 1, (*grid_size(rows, columns), samples)
    )
    stored = generator.integers(*bounds, shape, np.int64, endpoint=True)
    ends = np.array([*bounds, tone.low, tone.high, *(padding or ())])
    near = np.clip(generator.choice(ends, shape) + generator.integers(-3, 4, shape), *bounds)
    stored = np.where(generator.random(shape) < 0.5, near, stored).astype(dtype)
    boxes = draw(boxes_in(rows, columns))
    delta = Delta((cells * allowed_cells(boxes, rows, columns)[..., None]).astype(np.int8))
    height, width = draw(st.integers(1, rows)), draw(st.integers(1, columns))
    mark = Mark(
        x=draw(st.integers(0, columns - width)),
        y=draw(st.integers(0, rows - height)),
        alpha=draw(st.sampled_from([1, 127, 204, 255])),
        logo=noisy_logo(height, width, draw(st.integers(0, 2**32))),
    )
    return Case(stored, delta, tone, mark, boxes)


def by_the_rule(value: int, step: int, tone: Tone) -> int:
    """One value, as it is said."""
    for one in (value, value + step):
        if not tone.low <= one <= tone.high:
            return value
        if tone.padding is not None and tone.padding[0] <= one <= tone.padding[1]:
            return value
    return value + step


def with_steps(case: Case) -> list[tuple[int, int]]:
    """Every value, as a Python integer, and its step."""
    steps = steps_of(case.delta, *case.size, case.tone)
    steps = np.broadcast_to(steps, case.stored.shape)
    return list(zip(case.stored.ravel().tolist(), steps.ravel().tolist(), strict=True))


@settings(deadline=None, max_examples=50)
@given(cases())
def test_what_was_added_comes_back_exactly(case: Case) -> None:
    perturbed = add(case.stored, case.delta, case.tone)
    kept = doubts(case.stored, case.delta, case.tone)
    restored = subtract(perturbed, case.delta, case.tone, kept)
    assert restored.dtype == case.stored.dtype
    np.testing.assert_array_equal(restored, case.stored)


@settings(deadline=None, max_examples=50)
@given(cases())
def test_what_was_added_comes_back_from_under_a_logo(case: Case) -> None:
    perturbed = add(case.stored, case.delta, case.tone)
    marked = blend(perturbed, case.mark, case.tone)
    stream = corrections(perturbed, marked, case.mark, case.tone)
    beneath = unblend_frames(marked, len(marked), case.mark, case.tone, stream)
    kept = doubts(case.stored, case.delta, case.tone)
    restored = subtract_frames((one[0] for one in beneath), case.delta, case.tone, kept)
    np.testing.assert_array_equal(np.concatenate([*restored]), case.stored)


@settings(deadline=None, max_examples=50)
@given(cases())
def test_every_value_follows_the_rule(case: Case) -> None:
    perturbed = add(case.stored, case.delta, case.tone)
    expected = [by_the_rule(value, step, case.tone) for value, step in with_steps(case)]
    assert perturbed.ravel().tolist() == expected


@settings(deadline=None, max_examples=50)
@given(cases())
def test_a_bit_is_kept_for_every_value_of_two_pasts_and_no_other(case: Case) -> None:
    bits = []
    for value, step in with_steps(case):
        found = by_the_rule(value, step, case.tone)
        pasts = {
            past for past in (found, found - step) if by_the_rule(past, step, case.tone) == found
        }
        assert value in pasts
        if len(pasts) == 2:
            bits.append(value != found)
    assert doubts(case.stored, case.delta, case.tone) == np.packbits(np.array(bits, bool)).tobytes()


@settings(deadline=None, max_examples=50)
@given(cases())
def test_pixels_in_boxes_stay_and_nothing_leaves_the_window(case: Case) -> None:
    perturbed = add(case.stored, case.delta, case.tone)
    for box in case.boxes:
        region = np.s_[:, box.y : box.y + box.height, box.x : box.x + box.width]
        np.testing.assert_array_equal(perturbed[region], case.stored[region])
    changed = perturbed != case.stored
    for values in (case.stored[changed].astype(np.int64), perturbed[changed].astype(np.int64)):
        assert ((values >= case.tone.low) & (values <= case.tone.high)).all()
        if case.tone.padding is not None:
            assert ((values < case.tone.padding[0]) | (values > case.tone.padding[1])).all()
