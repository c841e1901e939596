"""Intervals around the figures of the report: what another sample of pictures might have given."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from miad_cli.evaluation.metrics import Float, Undefined

LEVEL = 95.0
"""Of every interval, in per cent."""
RESAMPLES = 2000
_AT_ONCE = 1 << 21
"""How many draws are held in memory at a time."""
Z = 1.959963984540054
"""The normal quantile that leaves 2.5 % above it."""


@dataclass(frozen=True)
class Estimate:
    """A figure over `n` pictures with its 95 % interval.

    `method` says where the interval comes from: `bootstrap` (percentiles), `wilson` (a share of
    which all pictures, or none, are part: resampling them gives nothing else, so no width), or
    `none` where one picture, or one group, says nothing of others; `low` and `high` are `value`
    then.
    """

    value: float
    low: float
    high: float
    n: int
    method: Literal["bootstrap", "wilson", "none"] = "bootstrap"


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], float],
    n: int,
    generator: np.random.Generator,
    groups: Sequence[object] | None = None,
    resamples: int = RESAMPLES,
) -> Estimate:
    """`statistic` over `n` pictures and its percentile bootstrap interval (Efron 1979).

    `statistic` takes the indices of pictures, some more than once, and gives the figure for
    them: `lambda chosen: accuracy(labels[chosen], said[chosen])`. With `groups` (n,), such as
    patients, whole groups are drawn, as many as there are: pictures of one patient resemble each
    other, and drawing them singly gives intervals that are too narrow.

    Raises:
        Undefined: there is no picture, or the figure is not finite, here or in a resample.
    """
    numbers, count = _numbered(groups, n)
    value = _finite(statistic(np.arange(n)))
    if count == 1:
        return Estimate(value, value, value, n, "none")
    members = np.split(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers))[:-1])
    drawn = np.empty(resamples)
    for index in range(resamples):
        chosen = generator.integers(0, count, count)
        # Where each group is one picture its number is the picture's.
        picked = chosen if count == n else np.concatenate([members[one] for one in chosen])
        drawn[index] = _finite(statistic(picked))
    return _between(value, n, drawn)


def mean_estimate(
    values: ArrayLike,
    generator: np.random.Generator,
    groups: Sequence[object] | None = None,
) -> Estimate:
    """The mean of one figure a picture (n,), PSNR or SSIM, and its bootstrap interval.

    Raises:
        Undefined: there is no value, or one is not finite (PSNR of equal pictures).
    """
    figures = np.asarray(values, np.float64)
    numbers, count = _numbered(groups, len(figures))
    value = _finite(float(figures.mean()))
    if count == 1:
        return Estimate(value, value, value, len(figures), "none")
    sums, sizes = np.bincount(numbers, weights=figures), np.bincount(numbers)
    drawn = []
    for start in range(0, RESAMPLES, rows := max(1, _AT_ONCE // count)):
        chosen = generator.integers(0, count, (min(rows, RESAMPLES - start), count))
        drawn.append(sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1))
    return _between(value, len(figures), np.concatenate(drawn))


def share_estimate(
    hits: ArrayLike,
    generator: np.random.Generator,
    groups: Sequence[object] | None = None,
) -> Estimate:
    """The share of pictures (n,) that are true, as in an accuracy, and its interval.

    By bootstrap; where all are alike by Wilson's formula, in which, with `groups`, the groups are
    counted and not their pictures.

    Raises:
        Undefined: there is no picture.
    """
    found = np.asarray(hits, bool)
    if found.size and (found.all() or not found.any()):
        _, count = _numbered(groups, len(found))
        low, high = wilson(count if found[0] else 0, count)
        return Estimate(float(found[0]), low, high, len(found), "wilson")
    return mean_estimate(found, generator, groups)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval (1927) for a share of `hits` out of `n`.

    Raises:
        Undefined: `n` is 0.
    """
    if n < 1:
        raise Undefined("no picture, no share")
    if not 0 <= hits <= n:
        raise ValueError(f"{hits} of {n} is no share")
    share = hits / n
    centre = share + Z**2 / (2 * n)
    width = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    scale = 1 + Z**2 / n
    return max(0.0, (centre - width) / scale), min(1.0, (centre + width) / scale)


def _numbered(groups: Sequence[object] | None, n: int) -> tuple[NDArray[np.intp], int]:
    """The number of each picture's group, counted in the order in which they first occur; and
    how many groups there are. Without groups each picture is its own."""
    if groups is not None and len(groups) != n:
        raise ValueError(f"{len(groups)} groups do not go with {n} pictures")
    if n < 1:
        raise Undefined("no picture, no figure")
    first: dict[object, int] = {}
    numbers = [
        first.setdefault(one, len(first)) for one in (range(n) if groups is None else groups)
    ]
    return np.array(numbers), len(first)


def _between(value: float, n: int, drawn: Float) -> Estimate:
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(drawn, (tail, 100 - tail))
    return Estimate(value, float(low), float(high), n)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise Undefined("the figure is not a finite number")
    return value
