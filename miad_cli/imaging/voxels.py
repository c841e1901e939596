"""Marked voxels of a grid, and the pixels of any plane through the patient that they touch.

A pixel is a small block: its own area, as thick as its slice. It is marked if any marked voxel
meets it, so that nothing of a lesion is lost between two grids. Between grids that are turned
against each other a block counts with the box around it in the voxels' grid: that can mark a
fraction of a voxel too much, never too little. Between parallel grids it is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from miad_cli.imaging.geometry import Plane, Vectors

Marks = NDArray[np.bool_]

_TOUCH = 0.01
"""Voxels by which two neighbours may overlap and still only touch: headers round."""

_LARGEST_BLOCK = 4 << 20
"""Voxels that are looked at together."""

_LARGEST_AREA = 1 << 20
"""Pixels that are looked at together."""


@dataclass(frozen=True, eq=False)
class Voxels:
    """The marked voxels of one grid.

    Attributes:
        marked: (slices, rows, columns) bool, the part of the grid that holds all marked voxels.
        corner: (3,) column, row and slice of its first voxel.
        size: (3,) columns, rows and slices of the whole grid.
        origin: (3,) mm, LPS, the centre of the grid's first voxel.
        steps: (3, 3) mm, LPS; its columns lead to the next column, row and slice.
        rim: (3,) by how many voxels the outermost ones reach beyond the grid, at most, along
            each of its directions where that direction lies in the picture.
    """

    marked: Marks
    corner: NDArray[np.int64]
    size: NDArray[np.int64]
    origin: Vectors
    steps: Vectors
    rim: Vectors

    @classmethod
    def of(cls, array: Marks, origin: Vectors, steps: Vectors, rim: Vectors) -> Voxels:
        """The grid that `array` (slices, rows, columns) fills, cut to what is marked in it."""
        first, last = [], []
        for axis in (2, 1, 0):
            others = tuple(other for other in range(3) if other != axis)
            hit = np.flatnonzero(array.any(axis=others))
            first.append(int(hit[0]) if hit.size else 0)
            last.append(int(hit[-1]) + 1 if hit.size else 0)
        (x, y, z), (right, bottom, back) = first, last
        return cls(
            array[z:back, y:bottom, x:right].copy(), np.array(first), np.array(array.shape[::-1]),
            origin, steps, rim,
        )  # fmt: skip

    def on(self, plane: Plane) -> Marks:
        """(rows, columns) bool: the pixels that a marked voxel meets."""
        result = np.zeros((plane.rows, plane.columns), dtype=bool)
        region = self._shadow(plane) if self.marked.size else None
        if region:
            _Meeting(self, plane, result).mark(*region)
        return result

    @cached_property
    def _ends(self) -> Vectors:
        """(8, 3) mm, the corners of what is marked, with the rim."""
        low = self.corner - 0.5 - self.rim
        high = self.corner + self.marked.shape[::-1] - 0.5 + self.rim
        corners = np.array([np.where(which, high, low) for which in np.ndindex(2, 2, 2)])
        ends: Vectors = self.origin + corners @ self.steps.T
        return ends

    def _shadow(self, plane: Plane) -> tuple[int, int, int, int] | None:
        """Top, bottom, left and right (exclusive) of the pixels that could be met at all."""
        seen = plane.inverse @ (self._ends - plane.origin).T
        (left, top, near), (right, bottom, far) = seen.min(axis=1), seen.max(axis=1)
        # A hair more than the slice: what touches only is left out later.
        if near > plane.thickness / 2 + 1e-3 or far < -plane.thickness / 2 - 1e-3:
            return None
        rows = (max(0, int(np.floor(top))), min(plane.rows, int(np.ceil(bottom)) + 1))
        columns = (max(0, int(np.floor(left))), min(plane.columns, int(np.ceil(right)) + 1))
        return (*rows, *columns) if rows[0] < rows[1] and columns[0] < columns[1] else None


class _Meeting:
    """One plane seen from one grid: pixel (0, 0) at `start`, steps and half sizes in voxels."""

    def __init__(self, voxels: Voxels, plane: Plane, result: Marks) -> None:
        self.voxels, self.result = voxels, result
        inverse = np.linalg.inv(voxels.steps)
        self.start = inverse @ (plane.origin - voxels.origin)
        self.steps = inverse @ plane.steps
        through = inverse @ plane.normal * plane.thickness
        self.half = (np.abs(self.steps).sum(axis=1) + np.abs(through)) / 2
        self.rim = voxels.rim * share_in_plane(voxels.steps, plane)

    def mark(self, top: int, bottom: int, left: int, right: int) -> None:
        """Mark what is met in a rectangle of pixels, in parts where it takes too many voxels."""
        ends = np.array([(x, y) for x in (left, right - 1) for y in (top, bottom - 1)])
        centres = self.start + ends @ self.steps.T
        first, last = self._window(centres.min(axis=0), centres.max(axis=0))
        if (first >= last).any():
            return
        (x, y, z), (x_end, y_end, z_end) = first, last
        block = self.voxels.marked[z:z_end, y:y_end, x:x_end]
        if not block.any():
            return
        pixel_count = (bottom - top) * (right - left)
        if pixel_count > _LARGEST_AREA or (block.size > _LARGEST_BLOCK and pixel_count > 1):
            for part in _halves(top, bottom, left, right):
                self.mark(*part)
            return
        across, down = np.arange(left, right), np.arange(top, bottom)
        pixels = self.start + (
            across[None, :, None] * self.steps[:, 0] + down[:, None, None] * self.steps[:, 1]
        )
        lower, upper = self._window(pixels, pixels)
        self.result[top:bottom, left:right] |= _any_between(block, lower - first, upper - first)

    def _window(self, lowest: Vectors, highest: Vectors) -> tuple[NDArray[np.int64], ...]:
        """First and last (exclusive) voxel of `marked` that is met along each direction (..., 3),
        by pixels whose centres lie between two positions in the grid."""
        grid_end = self.voxels.size - 1
        below, above = lowest - self.half - 0.5 + _TOUCH, highest + self.half + 0.5 - _TOUCH
        first = np.floor(below).astype(np.int64) + 1
        last = np.ceil(above).astype(np.int64) - 1
        # Beyond the edge of the grid its outermost voxels go on, as far as the rim.
        last = np.where((last < 0) & (above > -self.rim), 0, last)
        first = np.where((first > grid_end) & (below < grid_end + self.rim), grid_end, first)
        shape = np.array(self.voxels.marked.shape[::-1])
        begin = np.clip(first - self.voxels.corner, 0, shape)
        return begin, np.maximum(np.clip(last + 1 - self.voxels.corner, 0, shape), begin)


def share_in_plane(steps: Vectors, plane: Plane) -> Vectors:
    """(3,) 0..1: how much of each direction of a grid lies in the plane; 0 at a right angle."""
    directions = steps / np.linalg.norm(steps, axis=0)
    shares = np.sqrt(np.clip(1 - (plane.normal @ directions) ** 2, 0, 1))
    return np.where(shares < 0.01, 0.0, shares)


def _halves(top: int, bottom: int, left: int, right: int) -> tuple[tuple[int, int, int, int], ...]:
    if bottom - top >= right - left:
        middle = (top + bottom) // 2
        return (top, middle, left, right), (middle, bottom, left, right)
    middle = (left + right) // 2
    return (top, bottom, left, middle), (top, bottom, middle, right)


def _any_between(block: Marks, lower: NDArray[np.int64], upper: NDArray[np.int64]) -> Marks:
    """Whether anything is marked in block[lower z:upper z, ...], for windows (rows, columns, 3)."""
    sums = np.zeros([length + 1 for length in block.shape], dtype=np.int32)
    inner = sums[1:, 1:, 1:]
    np.cumsum(block, axis=0, dtype=np.int32, out=inner)
    np.cumsum(inner, axis=1, out=inner)
    np.cumsum(inner, axis=2, out=inner)
    count = np.zeros(lower.shape[:-1], dtype=np.int32)
    for z, y, x in np.ndindex(2, 2, 2):
        ends = [(upper if end else lower)[..., axis] for axis, end in ((2, z), (1, y), (0, x))]
        count += (1 if (x + y + z) % 2 else -1) * sums[tuple(ends)]
    return count > 0


@dataclass(frozen=True, eq=False)
class Extent:
    """The part of the patient that a mask speaks of.

    Attributes:
        origin, steps: as in Voxels.
        low, high: (3,) outer ends along each direction, in steps from the origin.
        slack: (3,) steps by which a picture may reach beyond, where the direction lies in it.
    """

    origin: Vectors
    steps: Vectors
    low: Vectors
    high: Vectors
    slack: Vectors

    def lacks(self, plane: Plane) -> float:
        """How far a picture reaches beyond what the mask covers, mm; 0 where it is covered."""
        corners = np.linalg.solve(self.steps, (plane.corners - self.origin).T).T
        slack = self.slack * share_in_plane(self.steps, plane) + _TOUCH
        beyond = np.maximum(self.low - slack - corners, corners - self.high - slack)
        lengths = np.linalg.norm(self.steps, axis=0)
        farthest = float((np.where(beyond > 0, beyond + slack, 0.0) * lengths).max())
        return max(farthest, 0.0)
