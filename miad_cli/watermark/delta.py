"""The perturbation under the logo, added to stored integers and taken off again, exactly.

MIAD-MARK adds δ before the logo is blended: I_w = blend(I + δ, logo). Here δ is a small grid of
integers that integer arithmetic alone enlarges to the picture, as in `blend`: undoing it must
give the same values on any machine in any year. A value changes only where it and what it becomes
lie within the display window and are no padding, so nothing is ever clipped; what that leaves
open when it is undone, at the window's two ends, is kept as one bit a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miad_cli.watermark.blend import Integers, Tone
from miad_cli.watermark.lesions import Box

LARGEST_SIDE = 224
"""Cells along the longer side of the grid, at most: that of the pictures models look at."""

UNIT = 256
"""Weights of the enlargement are n of 256 along each axis, n of 65,536 for both."""

_DIVISOR = UNIT * UNIT * 255

_WIDEST = (1 << 32) - 1
"""The widest display window that words of 32 bits can have; 64-bit integers hold what that
gives."""

_BAND = 1 << 17
"""Values that are worked on at once: their 64-bit intermediates fit a processor's cache."""


class UnfittingDoubts(ValueError):
    """There are more doubt bits than doubtful values, or fewer: it is another picture."""


@dataclass(frozen=True, eq=False)
class Delta:
    """A perturbation for all frames of a picture.

    `grid` is (grid rows, grid columns, samples) int8, as large as `grid_size` says of the
    picture, samples 1 (grey) or 3 (RGB); the unit is 1/255 of the display window, and what is
    positive looks brighter.

    Raises:
        ValueError: the grid is not of that kind.
    """

    grid: NDArray[np.int8]

    def __post_init__(self) -> None:
        grid = self.grid
        if grid.dtype != np.int8 or grid.ndim != 3 or grid.shape[2] not in (1, 3):
            raise ValueError("a perturbation is (rows, columns, 1 or 3) int8")
        if not all(1 <= side <= LARGEST_SIDE for side in grid.shape[:2]):
            raise ValueError("the perturbation's grid is empty or too large")


def grid_size(rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of the grid for a picture: its own size, or 224 cells along its longer
    side and the other in proportion, rounded half up, at least 1."""
    longer = max(rows, columns)
    if longer <= LARGEST_SIDE:
        return rows, columns
    scaled = ((2 * side * LARGEST_SIDE + longer) // (2 * longer) for side in (rows, columns))
    height, width = (max(1, side) for side in scaled)
    return height, width


def steps_of(delta: Delta, rows: int, columns: int, tone: Tone) -> NDArray[np.int64]:
    """What δ adds to stored values where it may: (rows, columns, samples).

    Raises:
        ValueError: the grid is not of the size that such a picture has.
    """
    shape = (1, rows, columns, delta.grid.shape[2])
    steps = np.empty(shape[1:], np.int64)
    for band in _bands(delta, shape, tone):
        steps[band.rows] = band.steps
    return steps


def add(stored: Integers, delta: Delta, tone: Tone) -> Integers:
    """A copy of (frames, rows, columns, samples) stored values with δ on every frame.

    Raises:
        ValueError: the grid does not go with the picture.
    """
    perturbed = stored.copy()
    for band in _bands(delta, stored.shape, tone):
        for frame in perturbed:
            values = frame[band.rows].astype(np.int64)
            moved = values + band.steps
            changes = _free(values, tone) & _free(moved, tone)
            np.copyto(frame[band.rows], moved, casting="unsafe", where=changes)
    return perturbed


def doubts(stored: Integers, delta: Delta, tone: Tone) -> bytes:
    """What cannot be told from `add`'s outcome: one bit for every value that may have been
    changed and may have been left, 1 where it was changed.

    Frames, then rows, columns and samples; eight to a byte, the first one highest.

    Raises:
        ValueError: the grid does not go with the picture.
    """
    bands = [*_bands(delta, stored.shape, tone)]
    packed: list[bytes] = []
    rest = np.zeros(0, bool)
    for frame in stored:
        for band in bands:
            values = frame[band.rows].astype(np.int64)
            moved = values + band.steps
            changes = _free(values, tone) & _free(moved, tone)
            _, doubtful = _pasts(np.where(changes, moved, values), band.steps, tone)
            bits = np.concatenate([rest, changes[doubtful]])
            whole = len(bits) - len(bits) % 8
            packed.append(np.packbits(bits[:whole]).tobytes())
            rest = bits[whole:]
    return b"".join([*packed, np.packbits(rest).tobytes()])


def subtract(perturbed: Integers, delta: Delta, tone: Tone, doubts: bytes) -> Integers:
    """The exact inverse of `add`, given the bits that `doubts` made.

    Raises:
        UnfittingDoubts: the bits do not fit the picture.
        ValueError: the grid does not go with it.
    """
    return np.concatenate([*subtract_frames(perturbed, delta, tone, doubts)])


def subtract_frames(
    perturbed: Iterable[Integers], delta: Delta, tone: Tone, doubts: bytes
) -> Iterator[Integers]:
    """`subtract` for one frame after the other: (rows, columns, samples) in, (1, rows, columns,
    samples) out.

    Raises:
        UnfittingDoubts: the bits do not fit the picture, which is told after the last frame where
            there are too many.
        ValueError: the grid does not go with it.
    """
    bits = _Bits(doubts)
    bands: list[_Band] = []
    for frame in perturbed:
        bands = bands or [*_bands(delta, (1, *frame.shape), tone)]
        restored = frame.copy()
        for band in bands:
            values = frame[band.rows].astype(np.int64)
            changed, doubtful = _pasts(values, band.steps, tone)
            changed[doubtful] = bits.take(int(np.count_nonzero(doubtful)))
            past = np.subtract(values, band.steps, out=values, where=changed)
            np.copyto(restored[band.rows], past, casting="unsafe")
        yield restored[None]
    bits.end()


def allowed_cells(boxes: Iterable[Box], rows: int, columns: int) -> NDArray[np.bool_]:
    """(grid rows, grid columns): True for cells that reach no pixel of any box.

    A grid that is zero everywhere else leaves every pixel in the boxes as it is.
    """
    height, width = grid_size(rows, columns)
    allowed = np.ones((height, width), bool)
    for box in boxes:
        down = _axis(height, rows).reaching(box.y, box.y + box.height)
        across = _axis(width, columns).reaching(box.x, box.x + box.width)
        allowed[np.ix_(down, across)] = False
    return allowed


def enlargement_matrices(
    rows: int, columns: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The enlargement's weights as (rows, grid rows) and (columns, grid columns), float32.

    They are the integer weights / 256, exactly: down @ grid @ across.T is what `steps_of` rounds.
    """
    height, width = grid_size(rows, columns)
    return _axis(height, rows).matrix(), _axis(width, columns).matrix()


@dataclass(frozen=True, eq=False)
class _Axis:
    """Enlargement of one axis: pixel i is (256 - weight[i]) of the cell `below[i]` and
    weight[i] of the cell `above[i]`, all three of them (pixels,)."""

    cells: int
    below: NDArray[np.int64]
    above: NDArray[np.int64]
    weight: NDArray[np.int32]

    def matrix(self) -> NDArray[np.float32]:
        matrix = np.zeros((len(self.below), self.cells), np.float32)
        pixels = np.arange(len(self.below))
        matrix[pixels, self.below] += (UNIT - self.weight) / np.float32(UNIT)
        matrix[pixels, self.above] += self.weight / np.float32(UNIT)
        return matrix

    def reaching(self, first: int, end: int) -> NDArray[np.bool_]:
        """(cells,): True for those that some pixel from `first` to before `end` takes part of."""
        pixels = slice(max(0, first), max(0, end))
        reaching = np.zeros(self.cells, bool)
        reaching[self.below[pixels]] = True
        reaching[self.above[pixels][self.weight[pixels] > 0]] = True
        return reaching


@lru_cache(maxsize=16)
def _axis(cells: int, pixels: int) -> _Axis:
    """The enlargement of `cells` to as many `pixels` or more, cell centres on pixel centres."""
    whole = 2 * pixels
    position = (2 * np.arange(pixels, dtype=np.int64) + 1) * cells - pixels
    position = np.clip(position, 0, (cells - 1) * whole)
    below, rest = position // whole, position % whole
    weight = (rest * UNIT + pixels) // whole
    below, weight = below + (weight == UNIT), weight % UNIT  # a full weight is the next cell
    above = np.minimum(below + 1, cells - 1)
    arrays = (below, above, weight.astype(np.int32))
    for array in arrays:
        array.flags.writeable = False  # it is shared by whoever asks again
    return _Axis(cells, *arrays)


@dataclass(frozen=True, eq=False)
class _Band:
    """Some rows of a picture and what δ adds to them: few enough that working on them in 64 bits
    takes little memory."""

    rows: slice
    steps: NDArray[np.signedinteger[Any]]


def _bands(delta: Delta, shape: Sequence[int], tone: Tone) -> Iterator[_Band]:
    """δ on pictures of `shape` (frames, rows, columns, samples), a few rows at a time."""
    _, rows, columns, samples = shape
    height, width = grid_size(rows, columns)
    if delta.grid.shape != (height, width, samples):
        raise ValueError("the perturbation does not have the size that the picture's has")
    if not 0 <= tone.high - tone.low <= _WIDEST:
        raise ValueError("the perturbation's unit is not that of a display window")
    down, across = _axis(height, rows), _axis(width, columns)
    # As few bytes as hold any step, since all bands of a picture are kept while its frames go by.
    narrow = np.min_scalar_type(-(128 * (tone.high - tone.low) // 255 + 1))
    many = max(1, _BAND // max(1, columns * samples))
    for top in range(0, rows, many):
        band = slice(top, min(top + many, rows))
        steps = _scaled(_enlarged(delta.grid, down, across, band), tone)
        yield _Band(band, steps.astype(narrow))


def _enlarged(grid: NDArray[np.int8], down: _Axis, across: _Axis, rows: slice) -> NDArray[np.int32]:
    """(rows, columns, samples): sums of weights times cells, 65,536 times what they stand for."""
    cells = grid.astype(np.int32)
    part = down.weight[rows, None, None]
    mixed = cells[down.below[rows]] * (UNIT - part) + cells[down.above[rows]] * part
    part = across.weight[:, None]
    near = mixed.take(across.below, axis=1) * (UNIT - part)
    near += mixed.take(across.above, axis=1) * part
    return near


def _scaled(sums: NDArray[np.int32], tone: Tone) -> NDArray[np.int64]:
    """Sums of weights times cells as steps of stored values, rounded half up."""
    span = tone.low - tone.high if tone.inverted else tone.high - tone.low
    steps = sums.astype(np.int64)
    steps *= 2 * span
    steps += _DIVISOR
    steps //= 2 * _DIVISOR
    return steps


def _free(values: NDArray[np.int64], tone: Tone) -> NDArray[np.bool_]:
    """Where a value may be changed, or be what came of it: in the window, and no padding."""
    free = (values >= tone.low) & (values <= tone.high)
    if tone.padding is not None:
        free &= (values < tone.padding[0]) | (values > tone.padding[1])
    return free


def _pasts(
    values: NDArray[np.int64], steps: NDArray[np.signedinteger[Any]], tone: Tone
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of values with δ: where they can have been changed, and where among these they can have
    been left as well, since another step would lead out."""
    changed = _free(values, tone) & _free(values - steps, tone)
    return changed, changed & ~_free(values + steps, tone)


class _Bits:
    """Bits of bytes, the highest first, taken in order."""

    def __init__(self, content: bytes) -> None:
        self._bytes = np.frombuffer(content, np.uint8)
        self._next = 0

    def take(self, count: int) -> NDArray[np.bool_]:
        """The next `count` of them.

        Raises:
            UnfittingDoubts: there are fewer.
        """
        end = self._next + count
        if end > 8 * len(self._bytes):
            raise UnfittingDoubts("there are too few doubt bits")
        first = self._next // 8
        bits = np.unpackbits(self._bytes[first : (end + 7) // 8])
        bits = bits[self._next - 8 * first :][:count]
        self._next = end
        return bits.astype(bool)

    def end(self) -> None:
        """All of them were taken but for those that fill up the last byte, which are 0.

        Raises:
            UnfittingDoubts: there are more.
        """
        left = 8 * len(self._bytes) - self._next
        if left >= 8 or (left and self._bytes[-1] & ((1 << left) - 1)):
            raise UnfittingDoubts("there are too many doubt bits")
