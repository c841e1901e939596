"""Pixel words: the integers of native Pixel Data, bit for bit (PS3.5 8.1.1, PS3.3 C.7.6.3).

A word of Bits Allocated holds a value of Bits Stored ending at High Bit; whatever else it holds
(overlays in the high bits, sign extension) is carried along so that it comes back unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.unsignedinteger[Any]]
Values = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class WordLayout:
    """How native Pixel Data is laid out.

    Attributes:
        planar: Planar Configuration 1 (PS3.3 C.7.6.3.1.3).
        big_endian: Explicit VR Big Endian; `swapped`: 8-bit words in a big endian OW value, whose
            bytes lie in swapped pairs (PS3.5 8.1.1).
        sign_extended: every word's bits above High Bit repeat the sign of its value, and new
            values are written so.
    """

    frames: int
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    big_endian: bool = False
    swapped: bool = False
    planar: bool = False
    sign_extended: bool = False

    def __post_init__(self) -> None:
        fits = 1 <= self.bits_stored <= self.high_bit + 1 <= self.bits_allocated
        if self.bits_allocated not in (8, 16, 32) or not fits:
            raise ValueError("no layout of pixel words")
        if min(self.frames, self.rows, self.columns, self.samples) < 1:
            raise ValueError("no layout of a picture")

    @property
    def word_count(self) -> int:
        return self.frames * self.rows * self.columns * self.samples

    @property
    def byte_length(self) -> int:
        """Length of the Pixel Data value without its pad byte."""
        return self.word_count * self.bits_allocated // 8

    @property
    def bounds(self) -> tuple[int, int]:
        """Smallest and largest value that Bits Stored and the sign allow."""
        if self.signed:
            return -(1 << (self.bits_stored - 1)), (1 << (self.bits_stored - 1)) - 1
        return 0, (1 << self.bits_stored) - 1

    @property
    def _shift(self) -> int:
        return self.high_bit + 1 - self.bits_stored

    @property
    def _value_mask(self) -> int:
        return ((1 << self.bits_stored) - 1) << self._shift

    @property
    def _sign_mask(self) -> int:
        """The bits above High Bit."""
        return ((1 << self.bits_allocated) - 1) & ~((1 << (self.high_bit + 1)) - 1)

    @property
    def _wide(self) -> type[np.signedinteger[Any]]:
        return np.int64 if self.bits_allocated > 16 else np.int32

    def words(self, pixel_data: bytes) -> Words:
        """Words (frames, rows, columns, samples), native byte order, of a Pixel Data value."""
        if self.swapped:
            pixel_data = _swap_pairs(pixel_data, self.byte_length)
        order = ">" if self.big_endian else "<"
        flat = np.frombuffer(pixel_data, f"{order}u{self.bits_allocated // 8}", self.word_count)
        if self.planar:
            shaped = flat.reshape(self.frames, self.samples, self.rows, self.columns)
            shaped = shaped.transpose(0, 2, 3, 1)
        else:
            shaped = flat.reshape(self.frames, self.rows, self.columns, self.samples)
        return shaped.astype(f"=u{self.bits_allocated // 8}")

    def pixel_data(self, words: Words) -> bytes:
        """The Pixel Data value of `words`, padded to even length with a zero byte."""
        order = ">" if self.big_endian else "<"
        laid = words.transpose(0, 3, 1, 2) if self.planar else words
        value = np.ascontiguousarray(laid, dtype=f"{order}u{self.bits_allocated // 8}").tobytes()
        value += b"\0" * (len(value) % 2)
        return _swap_pairs(value, len(value)) if self.swapped else value

    def values(self, words: Words) -> Values:
        """The values in `words`, sign extended; int32, or int64 for 32-bit words."""
        values = (words.astype(self._wide) & self._value_mask) >> self._shift
        if self.signed:
            sign = 1 << (self.bits_stored - 1)
            values = (values ^ sign) - sign
        return values

    def with_values(self, words: Words, values: Values) -> Words:
        """`words` with their values replaced, every other bit kept (sign extension follows)."""
        all_bits = (1 << self.bits_allocated) - 1
        kept = words.astype(self._wide) & (all_bits & ~self._value_mask)
        if self.sign_extended:
            kept = (kept & ~self._sign_mask) | np.where(values < 0, self._sign_mask, 0)
        field = (values.astype(self._wide) << self._shift) & self._value_mask
        return (field | kept).astype(words.dtype)

    def with_sign_of(self, words: Words) -> WordLayout:
        """This layout with `sign_extended` as `words` have it."""
        if not self.signed or not self._sign_mask:
            return replace(self, sign_extended=False)
        if self.high_bit + 1 == self.bits_stored:
            low, high = self.bounds
            extended = words.view(f"i{words.dtype.itemsize}")
            within = low <= int(extended.min()) and int(extended.max()) <= high
            return replace(self, sign_extended=within)
        above = words.astype(self._wide) & self._sign_mask
        expected = np.where(self.values(words) < 0, self._sign_mask, 0)
        return replace(self, sign_extended=bool(np.array_equal(above, expected)))

    def unused_bits(self, words: Words) -> Words | None:
        """The bits of `words` that belong to no value, or None where they say nothing."""
        unused = ((1 << self.bits_allocated) - 1) & ~self._value_mask
        if self.sign_extended:
            unused &= ~self._sign_mask
        kept = words & words.dtype.type(unused)
        return kept if kept.any() else None


def _swap_pairs(value: bytes, length: int) -> bytes:
    even = value[: length + length % 2]
    return np.frombuffer(even, "<u2").byteswap().tobytes()
