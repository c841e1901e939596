"""Where a model looks that gives no gradients: cover a part, and see what the answer loses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]

CELLS = 8
"""Cells on a side; a convolutional network's last map has seven or so."""
BATCH = 16
"""How many covered views are asked about at a time."""


def occlusion(view: Float, loss: Callable[[Float], Float]) -> Float:
    """What is lost by covering each cell of a view (3, rows, columns) in 0..1.

    `loss` gives, for views (N, 3, rows, columns), how much less (N,) is said than of the view
    itself. A cover is two cells wide and high, so that something between two cells is covered by
    one of them too, and has the view's median colour: the background where that is most of the
    picture, plain tissue where there is no background.

    Returns (cells, cells), float32: for each cell the mean loss over the covers on it.
    """
    rows, columns = view.shape[1:]
    down = np.linspace(0, rows, min(CELLS, rows) + 1).round().astype(int)
    across = np.linspace(0, columns, min(CELLS, columns) + 1).round().astype(int)
    places = [(y, x) for y in range(-1, len(down) - 1) for x in range(-1, len(across) - 1)]
    colour = np.median(view, axis=(1, 2)).reshape(3, 1, 1)
    total = np.zeros((len(down) - 1, len(across) - 1), np.float32)
    count = np.zeros_like(total)
    for start in range(0, len(places), BATCH):
        part = places[start : start + BATCH]
        covered = np.repeat(view[None], len(part), axis=0)
        for one, (y, x) in zip(covered, part, strict=True):
            top, bottom = down[max(y, 0)], down[min(y + 2, len(down) - 1)]
            left, right = across[max(x, 0)], across[min(x + 2, len(across) - 1)]
            one[:, top:bottom, left:right] = colour
        for lost, (y, x) in zip(loss(covered), part, strict=True):
            cells = np.s_[max(y, 0) : y + 2, max(x, 0) : x + 2]
            total[cells] += lost
            count[cells] += 1
    result: Float = total / count
    return result
