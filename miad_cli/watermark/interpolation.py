"""What the answers teach: values at points nobody asked about, from those at others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

NOISE = 0.05
"""Variance of a score that has nothing to do with its neighbours', of 1 in all."""


class Interpolation:
    """Values at points from values at others: Gaussian process regression (kriging), one kernel
    exp(-d^2 / 2) for all voices, about a mean that follows what the first-order maps expect as far
    as the answers bear it out.

    Args:
        points: (n, f), scaled so that a distance of 1 is the reach of a score.
        values, expected: (n, voices), what was scored and the change that was expected.
    """

    def __init__(self, points: Numbers, values: Numbers, expected: Numbers) -> None:
        self._points = points
        centred = expected - expected.mean(axis=0)
        self._middle, self._offset = expected.mean(axis=0), values.mean(axis=0)
        covariance = (centred * (values - self._offset)).mean(axis=0)
        variance = (centred**2).mean(axis=0)
        self._share = np.clip(covariance / np.maximum(variance, 1e-12), 0, 1)
        rest = values - self._offset - self._share * centred
        self.spread = np.maximum(rest.std(axis=0), 1e-6)
        kernel = kernel_of(points, points) + NOISE * np.eye(len(points))
        self._inverse = np.linalg.inv(kernel)
        self._weights = self._inverse @ rest

    def predict(self, points: Numbers, expected: Numbers) -> Numbers:
        """(n, voices): the values to be expected at `points`."""
        mean = self._offset + self._share * (expected - self._middle)
        return np.asarray(mean + kernel_of(points, self._points) @ self._weights)

    def ask_next(
        self,
        points: Numbers,
        expected: Numbers,
        count: int,
        shortfall: Callable[[NDArray[Any]], Numbers],
    ) -> list[int]:
        """Indices of up to `count` points to ask about together: those with the least shortfall
        of what the values could be, one standard deviation below what is predicted. With each
        one chosen the doubt about its neighbours goes, and they lose their appeal."""
        predicted = self.predict(points, expected)
        to_known = kernel_of(points, self._points)
        doubt = kernel_of(points, points) - to_known @ self._inverse @ to_known.T
        chosen: list[int] = []
        while len(chosen) < min(count, len(points)):
            deviation = np.sqrt(np.maximum(np.diagonal(doubt), 0))[:, None] * self.spread
            could = shortfall(predicted - deviation)
            could[chosen] = np.inf
            best = int(could.argmin())
            chosen.append(best)
            doubt = doubt - np.outer(doubt[:, best], doubt[best]) / (doubt[best, best] + NOISE)
        return chosen


def squares(one: Numbers, other: Numbers) -> Numbers:
    """(n, m): squared distances of points (n, f) and (m, f)."""
    result: Numbers = ((one[:, None] - other[None]) ** 2).sum(axis=-1)
    return result


def kernel_of(one: Numbers, other: Numbers) -> Numbers:
    result: Numbers = np.exp(-squares(one, other) / 2)
    return result
