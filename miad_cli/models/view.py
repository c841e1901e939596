"""How a model sees a picture: a linear resampling, written as two small matrices.

A picture of R x C pixels becomes `rows @ picture @ columns.T`. The weights are those of an
antialiased triangle filter (what Pillow calls BILINEAR), with centred black padding to a square
first where the model wants it. Because the view is linear, the view of a picture with a logo on
it is the view of the picture plus the view of the few pixels that changed; and the same matrices
serve numpy and torch, so gradients flow through exactly what is scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miad_cli.models.manifest import InputSpec

Float = NDArray[np.floating[Any]]
"""float32, as numpy's own type stubs see the result of a product."""


@dataclass(frozen=True, eq=False)
class ModelView:
    """The two matrices: `rows` (model rows, picture rows), `columns` (model columns, picture
    columns), float32."""

    rows: Float
    columns: Float

    def of(self, windowed: Float) -> Float:
        """View of a whole picture: (rows, columns, 3) in 0..1 to (3, model rows, model columns)."""
        planes = np.ascontiguousarray(windowed.transpose(2, 0, 1))
        result: Float = (self.rows @ planes) @ self.columns.T
        return result

    def add_patch(self, view: Float, change: Float, y: int, x: int) -> Float:
        """`view` (3, model rows, model columns) after the pixels at row `y`, column `x` changed by
        `change` (h, w, 3).

        Only the block of the view that those pixels reach is computed: small products stay on
        one thread, where they are fastest beside a busy ONNX Runtime.
        """
        height, width = change.shape[:2]
        rows, columns = self.rows[:, y : y + height], self.columns[:, x : x + width]
        down, across = _reached(rows), _reached(columns)
        planes = np.ascontiguousarray(change.transpose(2, 0, 1))
        moved = view.copy()
        moved[:, down, across] += (rows[down] @ planes) @ columns[across].T
        return moved

    def back(self, heat: Float) -> Float:
        """Bring a map at model size (model rows, model columns) onto the picture's pixels.

        Each pixel takes the average of the map weighted by how much it contributed to it.
        """
        spread: Float = self.rows.T @ heat @ self.columns
        weight = np.outer(self.rows.sum(axis=0), self.columns.sum(axis=0))
        result: Float = (spread / np.maximum(weight, 1e-12)).astype(np.float32)
        return result


@lru_cache(maxsize=32)
def view_for(spec: InputSpec, rows: int, columns: int) -> ModelView:
    """The view a model with input `spec` has of a picture of `rows` x `columns` pixels."""
    if spec.fit == "stretch":
        return ModelView(_resampling(rows, spec.rows), _resampling(columns, spec.columns))
    side = max(rows, columns)
    return ModelView(
        _padded(_resampling(side, spec.rows), rows),
        _padded(_resampling(side, spec.columns), columns),
    )


def _reached(weights: Float) -> slice:
    """The run of model rows (or columns) that take anything from the given pixels."""
    touched = np.flatnonzero(weights.any(axis=1))
    return slice(int(touched[0]), int(touched[-1]) + 1) if touched.size else slice(0, 0)


def _padded(matrix: Float, length: int) -> Float:
    """The columns of a square's resampling that belong to the picture centred in it."""
    start = (matrix.shape[1] - length) // 2
    return np.ascontiguousarray(matrix[:, start : start + length])


def _resampling(source: int, target: int) -> Float:
    """Triangle filter from `source` to `target` samples, widened when it shrinks: each row sums
    to 1."""
    scale = source / target
    support = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    positions = np.arange(source) + 0.5
    weights = np.maximum(0.0, 1.0 - np.abs(positions[None, :] - centres[:, None]) / support)
    normalised: Float = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return normalised
