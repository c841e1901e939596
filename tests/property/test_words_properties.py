"""Pixel words keep every bit, whatever their layout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from helpers import pixel_data_of
from hypothesis import given, settings
from hypothesis import strategies as st

from miad_cli.imaging.words import WordLayout


@st.composite
def layouts(draw: st.DrawFn) -> WordLayout:
    allocated = draw(st.sampled_from([8, 16, 32]))
    stored = draw(st.integers(1, allocated))
    big = draw(st.booleans())
    samples = draw(st.sampled_from([1, 3]))
    return WordLayout(
        frames=draw(st.integers(1, 3)),
        rows=draw(st.integers(1, 4)),
        columns=draw(st.integers(1, 4)),
        samples=samples,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=draw(st.integers(stored - 1, allocated - 1)),
        signed=draw(st.booleans()),
        big_endian=big,
        swapped=big and allocated == 8 and draw(st.booleans()),
        planar=samples > 1 and draw(st.booleans()),
    )


SEEDS = st.integers(0, 2**32)


def random_words(layout: WordLayout, seed: int) -> np.ndarray:
    shape = (layout.frames, layout.rows, layout.columns, layout.samples)
    width = layout.bits_allocated // 8
    count = int(np.prod(shape))
    return np.frombuffer(np.random.default_rng(seed).bytes(count * width), f"u{width}").reshape(
        shape
    )


def random_values(layout: WordLayout, seed: int) -> np.ndarray:
    """Values of the layout, in integers as wide as its words or, every other time, wider."""
    shape = (layout.frames, layout.rows, layout.columns, layout.samples)
    values = np.random.default_rng(seed).integers(*layout.bounds, shape, np.int64, endpoint=True)
    narrow = f"{'i' if layout.signed else 'u'}{layout.bits_allocated // 8}"
    return values.astype(narrow) if seed % 2 else values


def sign_extended(layout: WordLayout, seed: int) -> tuple[WordLayout, np.ndarray]:
    """A layout with bits above High Bit, and words in which they repeat the sign."""
    layout = replace(layout, signed=True)
    words = layout.with_values(random_words(layout, seed) * 0, random_values(layout, seed))
    above = ((1 << layout.bits_allocated) - 1) ^ ((1 << (layout.high_bit + 1)) - 1)
    extended = np.where(layout.values(words) < 0, words | words.dtype.type(above), words)
    return layout, extended.astype(words.dtype)


@settings(deadline=None, max_examples=60)
@given(layouts(), SEEDS)
def test_pixel_data_is_read_as_the_standard_lays_it_out(layout: WordLayout, seed: int) -> None:
    words = random_words(layout, seed)
    value = pixel_data_of(
        words, big_endian=layout.big_endian, planar=layout.planar, swapped=layout.swapped
    )
    np.testing.assert_array_equal(layout.words(value), words)
    assert layout.pixel_data(words) == value
    assert b"".join(layout.pixel_data_of(frame[None] for frame in words)) == value


@settings(deadline=None, max_examples=60)
@given(layouts(), SEEDS)
def test_values_are_the_stored_bits_of_each_word(layout: WordLayout, seed: int) -> None:
    words = random_words(layout, seed)
    bottom = layout.high_bit + 1 - layout.bits_stored
    expected = []
    for word in words.reshape(-1).tolist():
        value = (word >> bottom) % (1 << layout.bits_stored)
        if layout.signed and value >= 1 << (layout.bits_stored - 1):
            value -= 1 << layout.bits_stored
        expected.append(value)
    values = layout.values(words)
    assert values.reshape(-1).tolist() == expected
    assert values.dtype.itemsize == words.dtype.itemsize


@settings(deadline=None, max_examples=60)
@given(layouts(), SEEDS)
def test_new_values_leave_every_other_bit(layout: WordLayout, seed: int) -> None:
    words, values = random_words(layout, seed), random_values(layout, seed + 1)
    replaced = layout.with_values(words, values)
    np.testing.assert_array_equal(layout.values(replaced), values)
    bottom = layout.high_bit + 1 - layout.bits_stored
    field = ((1 << layout.bits_stored) - 1) << bottom
    np.testing.assert_array_equal(
        replaced.astype(np.int64) & ~field, words.astype(np.int64) & ~field
    )


@settings(deadline=None, max_examples=60)
@given(layouts(), SEEDS)
def test_own_values_put_back_change_no_bit(layout: WordLayout, seed: int) -> None:
    words = random_words(layout, seed)
    layout = layout.with_sign_of(words)
    changed = layout.with_values(words, random_values(layout, seed + 1))
    np.testing.assert_array_equal(layout.with_values(changed, layout.values(words)), words)


@settings(deadline=None, max_examples=60)
@given(layouts(), SEEDS)
def test_sign_extension_is_seen_kept_and_undone(layout: WordLayout, seed: int) -> None:
    layout, words = sign_extended(layout, seed)
    found = layout.with_sign_of(words)
    assert found.sign_extended == (layout.high_bit + 1 < layout.bits_allocated)
    values = random_values(layout, seed + 1)
    replaced = found.with_values(words, values)
    top = replaced.astype(np.int64) >> layout.high_bit
    spare = layout.bits_allocated - layout.high_bit
    assert set(top[values < 0].tolist()) <= {(1 << spare) - 1}
    assert set(top[values >= 0].tolist()) <= {0}
    np.testing.assert_array_equal(found.with_values(replaced, found.values(words)), words)


@settings(deadline=None, max_examples=60)
@given(layouts(), SEEDS)
def test_unused_bits_are_told_and_sign_extension_is_none_of_them(
    layout: WordLayout, seed: int
) -> None:
    words = random_words(layout, seed)
    bottom = layout.high_bit + 1 - layout.bits_stored
    field = ((1 << layout.bits_stored) - 1) << bottom
    outside = words.astype(np.int64) & ~field
    unused = layout.unused_bits(words)
    np.testing.assert_array_equal(np.zeros_like(outside) if unused is None else unused, outside)
    layout, extended = sign_extended(layout, seed)
    assert layout.with_sign_of(extended).unused_bits(extended) is None


@settings(deadline=None, max_examples=60)
@given(layouts(), SEEDS)
def test_words_that_hold_only_values_are_not_copied(layout: WordLayout, seed: int) -> None:
    layout = replace(layout, high_bit=layout.bits_stored - 1)
    words = layout.with_values(random_words(layout, 0) * 0, random_values(layout, 2 * seed + 1))
    layout, words = sign_extended(layout, seed) if layout.signed else (layout, words)
    layout = layout.with_sign_of(words)
    values = random_values(layout, 2 * seed + 1)
    assert np.shares_memory(layout.values(words), words)
    assert np.shares_memory(layout.with_values(words, values), values)
