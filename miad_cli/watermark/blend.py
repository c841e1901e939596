"""Blend a logo into stored integers and take it out again, exactly (MIAD-MARK Eq. 6 and 13).

Everything here is integer arithmetic, so that the inverse gives the same values on any machine in
any year. Eq. 6 on integers merges values (it is many-to-one at any alpha), so the inverse of
Eq. 13 is only an estimate; what it misses, at most a few units, is kept as corrections.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.integer[Any]]
Bytes = NDArray[np.uint8]

ALPHA_UNIT = 255
OPAQUE = ALPHA_UNIT * 255
"""Opacity is (alpha n/255) x (the logo's own alpha n/255), an integer out of 65,025."""

_BAND = 1 << 17
"""Values that are worked on at once: their 64-bit intermediates fit a processor's cache."""

_LUMINANCE = np.array([299, 587, 114])
"""Rec. 601, in thousandths."""


@dataclass(frozen=True)
class Tone:
    """How the logo's 0..255 becomes stored values: 0 is black at `low`, 255 white at `high`;
    the other way round where `inverted` (MONOCHROME1). Values in `padding` (inclusive) mark
    pixels without a picture: they are never drawn on, and what would take such a value takes
    `beside` instead, the nearest value that is none."""

    low: int
    high: int
    inverted: bool = False
    padding: tuple[int, int] | None = None
    beside: int = 0


@dataclass(frozen=True, eq=False)
class Mark:
    """A rendered logo in its place: top-left corner in pixels, `alpha` n of 255 (1..255),
    `logo` (h, w, 4) uint8 RGBA."""

    x: int
    y: int
    alpha: int
    logo: Bytes

    @property
    def region(self) -> tuple[slice, slice]:
        """Rows and columns of the picture that the logo's rectangle covers."""
        height, width = self.logo.shape[:2]
        return slice(self.y, self.y + height), slice(self.x, self.x + width)

    @property
    def opacity(self) -> NDArray[np.int64]:
        """(h, w, 1) integers, 0 (nothing) to 65,025 (only logo)."""
        return self.logo[..., 3:].astype(np.int64) * self.alpha


def tone_for(
    window: tuple[int, int],
    bounds: tuple[int, int],
    inverted: bool,
    padding: tuple[int, int] | None,
) -> Tone:
    """The tone for a display window (black, white), within the values that the file can hold."""
    low, high = (min(max(value, bounds[0]), bounds[1]) for value in window)
    beside = 0
    if padding is not None:
        beside = padding[1] + 1 if padding[1] < bounds[1] else padding[0] - 1
    return Tone(low, high, inverted, padding, beside)


def ink(logo: Bytes, tone: Tone, samples: int) -> NDArray[np.int64]:
    """The logo's colours as stored values, (h, w, samples); grey is Rec. 601 luminance."""
    colours = logo[..., :3].astype(np.int64)
    if samples == 1:
        colours = ((colours * _LUMINANCE).sum(axis=-1, keepdims=True) + 500) // 1000
    if tone.inverted:
        colours = 255 - colours
    return tone.low + (colours * (tone.high - tone.low) + 127) // 255


@dataclass(frozen=True, eq=False)
class _Paint:
    """What a mark does to the pixels under it, whatever their values: (h, w, 1 or samples)."""

    opacity: NDArray[np.int64]
    ink: NDArray[np.int64]
    tone: Tone

    def blend(self, patch: Integers) -> NDArray[np.int64]:
        original = patch.astype(np.int64)
        mixed = (OPAQUE - self.opacity) * original
        mixed += self.opacity * self.ink
        mixed += OPAQUE // 2
        mixed //= OPAQUE
        if self.tone.padding is None:
            return mixed
        low, high = self.tone.padding
        mixed = np.where((mixed >= low) & (mixed <= high), self.tone.beside, mixed)
        untouched = (self.opacity == 0) | ((original >= low) & (original <= high))
        return np.where(untouched, original, mixed)

    def estimate(self, blended: Integers) -> NDArray[np.int64]:
        values = blended.astype(np.int64)
        rest = OPAQUE - self.opacity
        safe = np.maximum(rest, 1)
        estimate = OPAQUE * values
        estimate -= self.opacity * self.ink
        estimate *= 2
        estimate += safe
        estimate //= 2 * safe
        estimate = np.where(rest == 0, 0, estimate)
        untouched = self.opacity == 0
        if self.tone.padding is not None:
            low, high = self.tone.padding
            untouched = untouched | ((values >= low) & (values <= high))
        return np.where(untouched, values, estimate)


def blend_patch(patch: Integers, mark: Mark, tone: Tone) -> NDArray[np.int64]:
    """Eq. 6 on the pixels under the logo: (..., h, w, samples) stored values to blended ones.

    I_w = alpha I_f + (1 - alpha) I_m I + (1 - I_m) I with the mask I_m weighted by the logo's own
    alpha, rounded half up.
    """
    return _paint(mark.logo, mark.alpha, tone, patch.shape[-1]).blend(patch)


def estimate_patch(blended: Integers, mark: Mark, tone: Tone) -> NDArray[np.int64]:
    """Eq. 13 on the pixels under the logo, rounded half up; 0 where the logo is opaque."""
    return _paint(mark.logo, mark.alpha, tone, blended.shape[-1]).estimate(blended)


def blend(stored: Integers, mark: Mark, tone: Tone) -> Integers:
    """A copy of (frames, rows, columns, samples) stored values with the logo on every frame.

    Raises:
        ValueError: the logo does not lie within the picture.
    """
    marked = stored.copy()
    for band in _bands(mark, tone, stored.shape):
        for frame in marked:
            frame[band.region] = band.paint.blend(frame[band.region])
    return marked


def corrections(stored: Integers, marked: Integers, mark: Mark, tone: Tone) -> bytes:
    """What Eq. 13 misses: original minus estimate under the logo's rectangle.

    Zigzag coded (0, -1, 1, -2, ...), one byte plane after the other, least significant first,
    so that the high planes, mostly zeros, compress to nothing. The first byte is the number of
    planes.
    """
    frames, *_, samples = stored.shape
    planes = np.zeros((1, frames, *mark.logo.shape[:2], samples), np.uint8)
    for band in _bands(mark, tone, stored.shape):
        for number in range(frames):
            missed = stored[number][band.region].astype(np.int64)
            missed -= band.paint.estimate(marked[number][band.region])
            zigzag = np.where(missed < 0, -2 * missed - 1, 2 * missed).view(np.uint64)
            needed = (int(zigzag.max(initial=0)).bit_length() + 7) // 8
            if needed > len(planes):
                more = np.zeros((needed - len(planes), *planes.shape[1:]), np.uint8)
                planes = np.concatenate([planes, more])
            for byte, plane in enumerate(planes[:needed, number, band.rows]):
                plane[:] = (zigzag >> np.uint64(8 * byte)).astype(np.uint8)
    return b"".join([bytes([len(planes)]), planes.data])


def unblend(marked: Integers, mark: Mark, tone: Tone, stream: bytes) -> Integers:
    """The exact inverse of `blend`, given the stream that `corrections` made.

    Raises:
        ValueError: the stream does not fit the region under the logo.
    """
    return np.concatenate([*unblend_frames(marked, len(marked), mark, tone, stream)])


def unblend_frames(
    marked: Iterable[Integers], frames: int, mark: Mark, tone: Tone, stream: bytes
) -> Iterator[Integers]:
    """`unblend` for one frame after the other: (rows, columns, samples) in, (1, rows, columns,
    samples) out; `frames` is how many there are.

    Raises:
        ValueError: the stream does not fit the region under the logo.
    """
    planes: Bytes = np.zeros(0, np.uint8)
    bands: list[_Band] = []
    for number, frame in enumerate(marked):
        if not bands:
            planes = _planes(stream, (frames, *mark.logo.shape[:2], frame.shape[-1]))
            bands = [*_bands(mark, tone, (frames, *frame.shape))]
        restored = frame.copy()
        for band in bands:
            missed = _unzigzagged(planes[:, number, band.rows])
            missed += band.paint.estimate(frame[band.region])
            restored[band.region] = missed
        yield restored[None]


@dataclass(frozen=True, eq=False)
class _Band:
    """Some rows of a mark: few enough that working on them in 64 bits takes little memory.

    `rows` are those of the logo, `region` is what they cover of a frame.
    """

    rows: slice
    region: tuple[slice, slice]
    paint: _Paint


def _bands(mark: Mark, tone: Tone, shape: tuple[int, ...]) -> Iterator[_Band]:
    """A mark on pictures of `shape` (frames, rows, columns, samples), a few rows at a time."""
    height, width = mark.logo.shape[:2]
    if mark.y + height > shape[1] or mark.x + width > shape[2]:
        raise ValueError("the logo does not lie within the picture")
    step = max(1, _BAND // max(1, width * shape[3]))
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height))
        region = slice(mark.y + rows.start, mark.y + rows.stop), slice(mark.x, mark.x + width)
        yield _Band(rows, region, _paint(mark.logo[rows], mark.alpha, tone, shape[3]))


def _paint(logo: Bytes, alpha: int, tone: Tone, samples: int) -> _Paint:
    return _Paint(logo[..., 3:].astype(np.int64) * alpha, ink(logo, tone, samples), tone)


def _planes(stream: bytes, shape: tuple[int, ...]) -> Bytes:
    """The bytes of a correction stream, (planes, frames, h, w, samples); nothing is copied."""
    count = stream[0] if stream else 0
    size = math.prod(shape)
    if not 1 <= count <= 8 or len(stream) != 1 + count * size:
        raise ValueError("the correction stream does not fit the logo")
    return np.frombuffer(stream, np.uint8, offset=1).reshape(count, *shape)


def _unzigzagged(planes: Bytes) -> NDArray[np.int64]:
    """Integers of their byte planes, least significant first."""
    zigzag = np.zeros(planes.shape[1:], np.uint64)
    for byte, plane in enumerate(planes):
        zigzag |= plane.astype(np.uint64) << np.uint64(8 * byte)
    half = (zigzag >> np.uint64(1)).astype(np.int64)
    return np.where(zigzag & np.uint64(1), -half - 1, half)
