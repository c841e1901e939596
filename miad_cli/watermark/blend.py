"""Blend a logo into stored integers and take it out again, exactly (MIAD-MARK Eq. 6 and 13).

Everything here is integer arithmetic, so that the inverse gives the same values on any machine in
any year. Eq. 6 on integers merges values (it is many-to-one at any alpha), so the inverse of
Eq. 13 is only an estimate; what it misses, at most a few units, is kept as corrections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.integer[Any]]
Bytes = NDArray[np.uint8]

ALPHA_UNIT = 255
OPAQUE = ALPHA_UNIT * 255
"""Opacity is (alpha n/255) x (the logo's own alpha n/255), an integer out of 65,025."""

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


def blend_patch(patch: Integers, mark: Mark, tone: Tone) -> NDArray[np.int64]:
    """Eq. 6 on the pixels under the logo: (..., h, w, samples) stored values to blended ones.

    I_w = alpha I_f + (1 - alpha) I_m I + (1 - I_m) I with the mask I_m weighted by the logo's own
    alpha, rounded half up.
    """
    original = patch.astype(np.int64)
    opacity = mark.opacity
    painted = ink(mark.logo, tone, patch.shape[-1])
    mixed = (opacity * painted + (OPAQUE - opacity) * original + OPAQUE // 2) // OPAQUE
    if tone.padding is None:
        return mixed
    low, high = tone.padding
    mixed = np.where((mixed >= low) & (mixed <= high), tone.beside, mixed)
    untouched = (opacity == 0) | ((original >= low) & (original <= high))
    return np.where(untouched, original, mixed)


def estimate_patch(blended: Integers, mark: Mark, tone: Tone) -> NDArray[np.int64]:
    """Eq. 13 on the pixels under the logo, rounded half up; 0 where the logo is opaque."""
    values = blended.astype(np.int64)
    opacity = mark.opacity
    painted = ink(mark.logo, tone, blended.shape[-1])
    rest = OPAQUE - opacity
    safe = np.maximum(rest, 1)
    estimate = (2 * (OPAQUE * values - opacity * painted) + safe) // (2 * safe)
    estimate = np.where(rest == 0, 0, estimate)
    untouched = opacity == 0
    if tone.padding is not None:
        low, high = tone.padding
        untouched = untouched | ((values >= low) & (values <= high))
    return np.where(untouched, values, estimate)


def blend(stored: Integers, mark: Mark, tone: Tone) -> Integers:
    """A copy of (frames, rows, columns, samples) stored values with the logo on every frame."""
    rows, columns = mark.region
    marked = stored.copy()
    marked[:, rows, columns] = blend_patch(stored[:, rows, columns], mark, tone)
    return marked


def corrections(stored: Integers, marked: Integers, mark: Mark, tone: Tone) -> bytes:
    """What Eq. 13 misses: original minus estimate under the logo's rectangle.

    Zigzag coded (0, -1, 1, -2, ...), one byte plane after the other, least significant first,
    so that the high planes, mostly zeros, compress to nothing. The first byte is the number of
    planes.
    """
    rows, columns = mark.region
    missed = stored[:, rows, columns].astype(np.int64)
    missed = (missed - estimate_patch(marked[:, rows, columns], mark, tone)).reshape(-1)
    zigzag = np.where(missed < 0, -2 * missed - 1, 2 * missed).astype(np.uint64)
    planes = max(1, (int(zigzag.max(initial=0)).bit_length() + 7) // 8)
    laid = zigzag.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :planes]
    return bytes([planes]) + laid.T.tobytes()


def unblend(marked: Integers, mark: Mark, tone: Tone, stream: bytes) -> Integers:
    """The exact inverse of `blend`, given the stream that `corrections` made.

    Raises:
        ValueError: the stream does not fit the region under the logo.
    """
    rows, columns = mark.region
    region = marked[:, rows, columns]
    planes = stream[0] if stream else 0
    if not 1 <= planes <= 8 or len(stream) != 1 + planes * region.size:
        raise ValueError("the correction stream does not fit the logo")
    laid = np.zeros((region.size, 8), np.uint8)
    laid[:, :planes] = np.frombuffer(stream, np.uint8, offset=1).reshape(planes, -1).T
    zigzag = laid.view("<u8").reshape(-1)
    half = (zigzag >> 1).astype(np.int64)
    missed = np.where(zigzag & 1, -half - 1, half).reshape(region.shape)
    restored = marked.copy()
    restored[:, rows, columns] = estimate_patch(region, mark, tone) + missed
    return restored
