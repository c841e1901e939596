"""Blending is undone exactly, whatever the integers, the logo and the padding are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from helpers import noisy_logo
from hypothesis import given, settings
from hypothesis import strategies as st

from miad_cli.watermark.blend import Mark, Tone, blend, corrections, tone_for, unblend

DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "i8")


@dataclass(frozen=True, eq=False)
class Case:
    stored: np.ndarray
    mark: Mark
    tone: Tone
    bounds: tuple[int, int]

    @property
    def is_padding(self) -> np.ndarray:
        if self.tone.padding is None:
            return np.zeros(self.stored.shape, bool)
        return (self.stored >= self.tone.padding[0]) & (self.stored <= self.tone.padding[1])


@st.composite
def paddings(draw: st.DrawFn, bounds: tuple[int, int]) -> tuple[int, int] | None:
    """None, or a range: anywhere, at either end of the bounds, or all of them."""
    kind = draw(st.sampled_from(["none", "anywhere", "low end", "high end", "everything"]))
    first, last = sorted(draw(st.tuples(st.integers(*bounds), st.integers(*bounds))))
    short = draw(st.integers(0, 3))
    return {
        "none": None,
        "anywhere": (first, last),
        "low end": (bounds[0], min(bounds[0] + short, bounds[1])),
        "high end": (max(bounds[1] - short, bounds[0]), bounds[1]),
        "everything": bounds,
    }[kind]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    width = min(dtype.itemsize * 8, 32)
    bits = draw(st.integers(1, width))
    signed = dtype.kind == "i"
    bounds = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    rows, columns = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    shape = (draw(st.integers(1, 3)), rows, columns, draw(st.sampled_from([1, 3])))
    padding = draw(paddings(bounds))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    stored = generator.integers(*bounds, shape, np.int64, endpoint=True)
    ends = np.array([*bounds, *(padding or ())])
    edge = generator.random(shape) < 0.4
    stored = np.where(edge, generator.choice(ends, shape), stored).astype(dtype)
    span = bounds[1] - bounds[0]
    low = draw(st.integers(bounds[0] - span, bounds[1]))
    window = (low, low + draw(st.integers(1, 2 * span + 1)))
    height, across = draw(st.integers(1, rows)), draw(st.integers(1, columns))
    mark = Mark(
        x=draw(st.integers(0, columns - across)),
        y=draw(st.integers(0, rows - height)),
        alpha=draw(st.sampled_from([1, 127, 254, 255]) | st.integers(1, 255)),
        logo=noisy_logo(height, across, draw(st.integers(0, 2**32))),
    )
    return Case(stored, mark, tone_for(window, bounds, draw(st.booleans()), padding), bounds)


@settings(deadline=None, max_examples=60)
@given(cases())
def test_what_was_blended_comes_back_exactly(case: Case) -> None:
    marked = blend(case.stored, case.mark, case.tone)
    stream = corrections(case.stored, marked, case.mark, case.tone)
    restored = unblend(marked, case.mark, case.tone, stream)
    assert restored.dtype == case.stored.dtype
    np.testing.assert_array_equal(restored, case.stored)


@settings(deadline=None, max_examples=60)
@given(cases())
def test_blended_values_can_be_stored(case: Case) -> None:
    marked = blend(case.stored.astype(np.int64), case.mark, case.tone)
    assert case.bounds[0] <= marked.min()
    assert marked.max() <= case.bounds[1]


@settings(deadline=None, max_examples=60)
@given(cases())
def test_padding_stays_and_nothing_becomes_padding(case: Case) -> None:
    marked = blend(case.stored, case.mark, case.tone)
    np.testing.assert_array_equal(marked[case.is_padding], case.stored[case.is_padding])
    if case.tone.padding is not None:
        low, high = case.tone.padding
        drawn = marked[~case.is_padding].astype(np.int64)
        assert not ((drawn >= low) & (drawn <= high)).any()


@settings(deadline=None, max_examples=60)
@given(cases())
def test_only_pixels_that_the_logo_covers_change(case: Case) -> None:
    marked = blend(case.stored, case.mark, case.tone)
    covered = np.zeros(case.stored.shape[1:3], bool)
    top, left = case.mark.y, case.mark.x
    height, width = case.mark.logo.shape[:2]
    covered[top : top + height, left : left + width] = case.mark.logo[..., 3] > 0
    np.testing.assert_array_equal(marked[:, ~covered], case.stored[:, ~covered])
