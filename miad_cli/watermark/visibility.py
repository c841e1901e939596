"""How much a pixel may change before the eye notices: a map of just noticeable differences.

Noise hides in texture and shows on flat ground and on smooth shading. The measure of texture is
how far pixels are from the mean of their neighbourhood: where it reaches `FULL` the whole bound is
given, on ground without texture nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating[Any]]

NEIGHBOURHOOD = 7
"""Pixels on a side that count as a pixel's neighbourhood."""

FULL = 0.02
"""Texture, on the scale 0..1, of ground that hides the whole bound."""


def bounds(
    windowed: Float, epsilon: float, shaped: bool, allowed: NDArray[np.bool_] | None = None
) -> Float:
    """How far each sample may move either way, (rows, columns, samples) float64, in 1/255.

    Args:
        windowed: (rows, columns, samples), the picture as shown, 0..1.
        epsilon: the largest bound, in 1/255 of the display window.
        shaped: whether flat ground gets less; otherwise all get `epsilon`.
        allowed: (rows, columns), False where nothing may move.
    """
    share = visible_share(windowed) if shaped else np.ones(windowed.shape)
    if allowed is not None:
        share = share * allowed[..., None]
    return epsilon * share


def visible_share(windowed: Float) -> Float:
    """(rows, columns, samples) in 0..1: the share of the bound that each sample's neighbourhood
    hides."""
    share: Float = np.minimum(texture(windowed) / FULL, 1.0)
    return share


def texture(windowed: Float) -> Float:
    """Root mean square, over each sample's neighbourhood, of what its samples differ by from the
    means of their own: (rows, columns, samples) float64; the picture's edge is repeated outwards.

    A plain standard deviation takes smooth shading for texture.
    """
    values = windowed.astype(np.float64)
    rest = values - _mean(values)
    return np.sqrt(np.maximum(_mean(rest * rest), 0.0))


def _mean(values: Float) -> Float:
    """Mean over the neighbourhood, by sums along one axis after the other."""
    reach = NEIGHBOURHOOD // 2
    for axis in (0, 1):
        margin = [(reach + 1, reach) if axis == each else (0, 0) for each in range(values.ndim)]
        sums = np.cumsum(np.pad(values, margin, mode="edge"), axis=axis)
        length = sums.shape[axis]
        last = sums.take(range(NEIGHBOURHOOD, length), axis)
        values = (last - sums.take(range(length - NEIGHBOURHOOD), axis)) / NEIGHBOURHOOD
    return values
