"""Pixel words: the integers of native Pixel Data, bit for bit (PS3.5 8.1.1, PS3.3 C.7.6.3).

A word of Bits Allocated holds a value of Bits Stored ending at High Bit; whatever else it holds
(overlays in the high bits, sign extension) is carried along so that it comes back unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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

    def words(self, pixel_data: bytes | memoryview) -> Words:
        """Words (frames, rows, columns, samples), native byte order, of a Pixel Data value.

        They are a read-only view of it where its bytes lie as this machine keeps them.
        """
        if self.swapped:
            pixel_data = _swap_pairs(bytes(pixel_data[: self.byte_length + self.byte_length % 2]))
        flat = np.frombuffer(pixel_data, self._code, self.word_count)
        if self.planar:
            shaped = flat.reshape(self.frames, self.samples, self.rows, self.columns)
            shaped = shaped.transpose(0, 2, 3, 1)
        else:
            shaped = flat.reshape(self.frames, self.rows, self.columns, self.samples)
        return shaped.astype(f"=u{self.bits_allocated // 8}", copy=False)

    def pixel_data(self, words: Words) -> bytes:
        """The Pixel Data value of `words`, padded to even length with a zero byte."""
        value = self._laid_out(words).tobytes()
        value += b"\0" * (len(value) % 2)
        return _swap_pairs(value) if self.swapped else value

    def pixel_buffer(self, words: Words) -> bytes | memoryview:
        """The same value; a view of `words` where they lie as the file has them."""
        laid = self._laid_out(words)
        if self.swapped or laid.nbytes % 2 or not np.shares_memory(laid, words):
            return self.pixel_data(words)
        return laid.reshape(-1).view(np.uint8).data

    def pixel_data_of(self, frames: Iterable[Words]) -> Iterator[bytes]:
        """The same value in pieces, of words (n, rows, columns, samples) that come in turn."""
        rest = b""
        for words in frames:
            piece = rest + self._laid_out(words).tobytes()
            even = len(piece) - len(piece) % 2
            piece, rest = piece[:even], piece[even:]
            yield _swap_pairs(piece) if self.swapped else piece
        if rest:
            yield _swap_pairs(rest + b"\0") if self.swapped else rest + b"\0"

    def values(self, words: Words) -> Values:
        """The values in `words`, sign extended, in integers as wide as a word.

        They are a view of `words` where these hold nothing else, as in most files.
        """
        kind = f"{'i' if self.signed else 'u'}{words.dtype.itemsize}"
        if self._are_values(words):
            return words.view(kind)
        number = words.dtype.type
        values = words & number(self._value_mask)
        values >>= number(self._shift)
        if self.signed:  # unsigned arithmetic wraps around, which is what extends the sign
            sign = number(1 << (self.bits_stored - 1))
            values ^= sign
            values -= sign
        return values.view(kind)

    def with_values(self, words: Words, values: Values) -> Words:
        """`words` with their values replaced, every other bit kept (sign extension follows).

        The result may share memory with `values`, where words hold nothing else.
        """
        if self._are_words(values) and self._holds_nothing_else(words):
            return values.view(words.dtype)
        number = words.dtype.type
        kept = ((1 << self.bits_allocated) - 1) & ~self._value_mask
        if self.sign_extended:
            kept &= ~self._sign_mask
        replaced = words & number(kept)
        for index, frame in enumerate(values):
            field = frame.astype(words.dtype)
            field <<= number(self._shift)
            field &= number(self._value_mask)
            if self.sign_extended:
                field |= np.where(frame < 0, number(self._sign_mask), number(0))
            replaced[index] |= field
        return replaced

    def with_sign_of(self, words: Words) -> WordLayout:
        """This layout with `sign_extended` as `words` have it."""
        if not self.signed or not self._sign_mask:
            return replace(self, sign_extended=False)
        if self.high_bit + 1 == self.bits_stored:
            return replace(self, sign_extended=self._are_values(words))
        above = words.dtype.type(self._sign_mask)
        extended = all(
            np.array_equal(frame & above, np.where(self.values(frame) < 0, above, 0))
            for frame in words
        )
        return replace(self, sign_extended=extended)

    def unused_bits(self, words: Words) -> Words | None:
        """The bits of `words` that belong to no value, or None where they say nothing."""
        unused = ((1 << self.bits_allocated) - 1) & ~self._value_mask
        if self.sign_extended:
            unused &= ~self._sign_mask
        wanted = words.dtype.type(unused)
        if not unused or not any((frame & wanted).any() for frame in words):
            return None
        return words & wanted

    @property
    def _code(self) -> str:
        return f"{'>' if self.big_endian else '<'}u{self.bits_allocated // 8}"

    def _laid_out(self, words: Words) -> Words:
        """Words as they follow each other in the file."""
        laid = words.transpose(0, 3, 1, 2) if self.planar else words
        return np.ascontiguousarray(laid, dtype=self._code)

    def _are_values(self, words: Words) -> bool:
        """Whether each word, taken as an integer of its width, is its value."""
        if self.bits_stored == self.bits_allocated:
            return True
        low, high = self.bounds
        numbers = words.view(f"{'i' if self.signed else 'u'}{words.dtype.itemsize}")
        return not self._shift and low <= int(numbers.min()) and int(numbers.max()) <= high

    def _are_words(self, values: Values) -> bool:
        """Whether values, as they are in memory, can be words."""
        return values.dtype == np.dtype(
            f"{'i' if self.signed else 'u'}{self.bits_allocated // 8}"
        ) and self._are_values(values.view(f"u{self.bits_allocated // 8}"))

    def _holds_nothing_else(self, words: Words) -> bool:
        full = self.bits_stored == self.bits_allocated
        return full or ((self.sign_extended or not self.signed) and self._are_values(words))


def _swap_pairs(value: bytes) -> bytes:
    """Bytes of an even number with their pairs swapped."""
    return np.frombuffer(value, "<u2").byteswap().tobytes()
