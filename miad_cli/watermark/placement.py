"""Where a logo could go: candidates, and the region left free by the lesion boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import floor, sqrt

import numpy as np
from numpy.typing import NDArray

from miad_cli.watermark.blend import Mark
from miad_cli.watermark.lesions import Box
from miad_cli.watermark.logo import (
    UNCHANGED,
    Bytes,
    Sit,
    resize,
    scaled_size,
    transform,
    transformed_size,
)

PAPER_SIDE = 224
"""The paper's pictures are 224 x 224 pixels; its densities and steps are counted in those."""


@dataclass(frozen=True)
class Candidate:
    """An individual of the search, rho = [x, y, alpha], with its SIT. `alpha` is n of 255."""

    x: int
    y: int
    alpha: int
    sit: Sit = UNCHANGED


class Placement:
    """The places a logo of one size has on one picture.

    Args:
        logo: (rows, columns, 4) uint8, as loaded.
        rows, columns: the picture's size.
        divisor: the logo scale divisor sl of Eq. 5.
        boxes: rectangles that no pixel of the logo's rectangle may touch.
        aspect: a pixel's height over its width, so that the logo is not distorted on a screen.
    """

    def __init__(
        self,
        logo: Bytes,
        rows: int,
        columns: int,
        divisor: int,
        boxes: Sequence[Box],
        aspect: float = 1.0,
    ) -> None:
        self.divisor = divisor
        self.boxes = tuple(boxes)
        self.rows, self.columns = rows, columns
        self.aspect = aspect
        # The logo is scaled and turned as it is seen, on square pixels, and fitted to the
        # picture's own pixels last.
        seen_height, self.width = scaled_size(logo, round(rows * aspect), columns, divisor)
        self.height = self._in_rows(seen_height)
        scaled = resize(logo, seen_height, self.width)
        self._rendered = lru_cache(maxsize=64)(lambda sit: self._fitted(transform(scaled, sit)))
        self._size = lru_cache(maxsize=None)(
            lambda degrees: transformed_size(seen_height, self.width, Sit(degrees))
        )

    def _in_rows(self, seen_height: int) -> int:
        return max(1, round(seen_height / self.aspect))

    def _fitted(self, seen: Bytes) -> Bytes:
        return resize(seen, self._in_rows(seen.shape[0]), seen.shape[1])

    @property
    def free_x(self) -> int:
        """W - w', the farthest left edge of an unrotated logo."""
        return self.columns - self.width

    @property
    def free_y(self) -> int:
        """H - h'."""
        return self.rows - self.height

    def mark(self, candidate: Candidate) -> Mark:
        """The candidate's rendered logo, ready to blend."""
        return Mark(candidate.x, candidate.y, candidate.alpha, self._rendered(candidate.sit))

    def _size_of(self, sit: Sit) -> tuple[int, int]:
        """Height and width of the logo's rectangle on the picture, after `sit`."""
        seen_height, width = self._size(sit.degrees)
        return self._in_rows(seen_height), width

    def is_feasible(self, candidate: Candidate) -> bool:
        """The logo's rectangle, after SIT, lies in the picture and meets no box."""
        height, width = self._size_of(candidate.sit)
        box = Box(candidate.x, candidate.y, width, height)
        inside = box.x >= 0 and box.y >= 0
        inside = inside and box.x + width <= self.columns and box.y + height <= self.rows
        return inside and not any(box.meets(other) for other in self.boxes)

    def feasible_corners(self, sit: Sit = UNCHANGED) -> NDArray[np.int64]:
        """Every corner (n, 2) as (x, y) at which the logo, after `sit`, is feasible."""
        height, width = self._size_of(sit)
        if height > self.rows or width > self.columns:
            return np.zeros((0, 2), np.int64)
        free = np.ones((self.rows - height + 1, self.columns - width + 1), bool)
        for box in self.boxes:
            top, left = max(0, box.y - height + 1), max(0, box.x - width + 1)
            free[top : box.y + box.height, left : box.x + box.width] = False
        corners: NDArray[np.int64] = np.argwhere(free)[:, ::-1]
        return corners


def grid_corners(placement: Placement, density: float) -> list[tuple[int, int]]:
    """The seeds' regular grid (Eq. 9), row by row: spacing floor(sqrt(1 / r_p)) on both axes.

    `density` r_p counts points per pixel of a 224 x 224 picture; on other sizes the spacing grows
    with the picture, so that the number of queries does not depend on resolution.
    """
    spacing = floor(sqrt(1 / density))
    xs = _axis(placement.free_x, spacing * placement.columns / PAPER_SIDE)
    ys = _axis(placement.free_y, spacing * placement.rows / PAPER_SIDE)
    return [(x, y) for y in ys for x in xs]


def _axis(free: int, spacing: float) -> list[int]:
    return sorted({int(i * spacing) for i in range(int(free / spacing) + 1)}) if free > 0 else [0]


def position_steps(placement: Placement, density: float, generations: int) -> tuple[int, int]:
    """Eq. 10: the mutation step s on x and on y, floor(d / (2 N_g)) if d > 2 N_g else 1.

    d_x = (W - w') / N_x with N_x = floor(sqrt(N (W - w') / (H - h'))) and N = floor(r_p (W - w')
    (H - h')), areas counted in pixels of a 224 x 224 picture.
    """
    scale_x, scale_y = placement.columns / PAPER_SIDE, placement.rows / PAPER_SIDE
    free_x, free_y = placement.free_x / scale_x, placement.free_y / scale_y
    points = floor(density * free_x * free_y)
    return (
        _step(free_x, free_y, points, generations, scale_x),
        _step(free_y, free_x, points, generations, scale_y),
    )


def _step(along: float, across: float, points: int, generations: int, scale: float) -> int:
    lines = floor(sqrt(points * along / across)) if across > 0 and points > 0 else 1
    distance = along / max(lines, 1)
    step = floor(distance / (2 * generations)) if distance > 2 * generations else 1
    return max(1, round(step * scale))
