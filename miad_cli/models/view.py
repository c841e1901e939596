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

import numpy as np
from numpy.typing import NDArray

from miad_cli.models.manifest import InputSpec

Float = NDArray[np.float32]


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

    def of_patch(self, patch: Float, y: int, x: int) -> Float:
        """View of `patch` (h, w, 3) alone, lying at row `y`, column `x` on a black picture."""
        height, width = patch.shape[:2]
        planes = np.ascontiguousarray(patch.transpose(2, 0, 1))
        result: Float = (self.rows[:, y : y + height] @ planes) @ self.columns[:, x : x + width].T
        return result

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
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
