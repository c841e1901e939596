"""Displayed pictures as counterattacks take them: (rows, columns, 1 or 3) uint8, grey or RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Float = NDArray[np.float32]


def windowed(picture: Picture) -> Float:
    """(rows, columns, 3), float32 in 0..1."""
    return np.broadcast_to(shares(picture), (*picture.shape[:2], 3))


def shares(picture: Picture) -> Float:
    """The same shape, float32 in 0..1."""
    result: Float = picture.astype(np.float32) / np.float32(255)
    return result


def rounded(values: NDArray[Any]) -> Picture:
    """Values on the scale 0..255 as a picture."""
    result: Picture = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return result
