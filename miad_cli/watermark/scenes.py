"""The pictures that δ is made on: a frame and the logo to come, on a canvas of the size of δ's
grid, at most 224 pixels a side, and the same as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from miad_cli.imaging.image import MedicalImage
from miad_cli.models.manifest import InputSpec
from miad_cli.models.view import view_for
from miad_cli.watermark.blend import OPAQUE, Mark, Tone, ink
from miad_cli.watermark.delta import allowed_cells, enlargement_matrices, grid_size
from miad_cli.watermark.lesions import Box

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Float = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Scene:
    """One frame and the logo to come, at the size of δ's grid.

    Attributes:
        canvas: (rows, columns, samples) float32 in 0..1, the picture as shown.
        ink: (rows, columns, samples) float32 in 0..1, the logo's colours; any where there is none.
        opacity: (rows, columns) float32 in 0..1, how far the logo covers; 0 where there is none.
        open: (rows, columns, samples) float32 in 0..1, the share of a cell's values that δ can
            change at all: neither padding nor beyond the display window.
        allowed: (rows, columns) bool, the cells of δ that may be other than 0.
        picture: rows and columns of the picture itself.
        unit: what a step of δ moves, in 1/255 of the display window: less than 1 where the window
            reaches beyond the values that the file can hold.
    """

    canvas: Float
    ink: Float
    opacity: Float
    open: Float
    allowed: NDArray[np.bool_]
    picture: tuple[int, int]
    unit: float = 1.0


def scene_of(
    image: MedicalImage, frame: int, mark: Mark | None, boxes: Sequence[Box], tone: Tone
) -> Scene:
    """One frame of `image` under `mark`, at the size of δ's grid; δ keeps out of `boxes`."""
    stored = image.stored[frame]
    samples = stored.shape[-1]
    down, across = _shrinking(image.rows, image.columns)
    padded = np.zeros(stored.shape, bool)
    if tone.padding is not None:
        padded = (stored >= tone.padding[0]) & (stored <= tone.padding[1])
    free = ~padded & (stored >= tone.low) & (stored <= tone.high)
    canvas = _shrunk(image.windowed(stored)[..., :samples], down, across)
    colours, opacity = np.zeros_like(canvas), np.zeros_like(canvas[..., :1])
    if mark is not None:
        rows, columns = mark.region
        down_logo, across_logo = down[:, rows], across[:, columns]
        drawn_on = ~padded[mark.region].all(axis=-1, keepdims=True)
        covering = (mark.opacity / OPAQUE * drawn_on).astype(np.float32)
        drawn = image.windowed(ink(mark.logo, tone, samples))[..., :samples]
        opacity = _shrunk(covering, down_logo, across_logo)
        colours = _shrunk(covering * drawn, down_logo, across_logo) / np.maximum(opacity, 1e-6)
    return Scene(
        canvas=canvas,
        ink=colours,
        opacity=opacity[..., 0],
        open=_shrunk(free.astype(np.float32), down, across),
        allowed=allowed_cells(boxes, image.rows, image.columns),
        picture=(image.rows, image.columns),
        unit=(tone.high - tone.low) / max(image.window.high - image.window.low, 1),
    )


@lru_cache(maxsize=8)
def _shrinking(rows: int, columns: int) -> tuple[Float, Float]:
    """The picture at δ's size: (grid rows, rows) and (grid columns, columns), as a model of that
    size would see it."""
    height, width = grid_size(rows, columns)
    # Not validated: a grid may be narrower than the input of any model.
    spec = InputSpec.model_construct(tensor="canvas", rows=height, columns=width)
    view = view_for(spec, rows, columns)
    return view.rows, view.columns


def _shrunk(values: Float, down: Float, across: Float) -> Float:
    """(rows, columns, samples) resampled along both axes, float32."""
    planes = np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)
    return np.ascontiguousarray(((down @ planes) @ across.T).transpose(1, 2, 0))


# --- As tensors -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Stage:
    """Scenes as tensors: canvas, ink, open (n, samples, rows, columns), opacity (n, 1, …).

    `open` is what of a step of δ is carried out, in 1/255 of the display window.
    """

    canvas: Tensor
    ink: Tensor
    open: Tensor
    opacity: Tensor

    def after(self, moved: Tensor) -> Tensor:
        """The pictures with δ as it will look, on a scale of 0..1, and the logo over it (Eq. 6)."""
        perturbed = (self.canvas + self.open * moved).clamp(0, 1)
        return perturbed + self.opacity * (self.ink - perturbed)


def staged(scene: Scene, device: torch.device) -> Stage:
    """One scene, without an axis for several."""
    opacity = scene.opacity[..., None]
    arrays = (scene.canvas, scene.ink, scene.open * np.float32(scene.unit), opacity)
    return Stage(*(planes_of(each, device) for each in arrays))


def stacked(stages: Sequence[Stage]) -> Stage:
    """Several scenes as a batch, along a new first axis."""
    import torch

    return Stage(
        torch.stack([one.canvas for one in stages]),
        torch.stack([one.ink for one in stages]),
        torch.stack([one.open for one in stages]),
        torch.stack([one.opacity for one in stages]),
    )


def planes_of(values: NDArray[Any], device: torch.device) -> Tensor:
    """(rows, columns, samples) as a tensor (samples, rows, columns), float32."""
    import torch

    planes = np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)
    return torch.from_numpy(planes).to(device)


@lru_cache(maxsize=8)
def seen_again(rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """δ enlarged to the picture and seen at its own size again, which blurs it a little: square
    matrices for rows and columns, the identity where the picture has the size of the grid."""
    import torch

    pairs = zip(_shrinking(rows, columns), enlargement_matrices(rows, columns), strict=True)
    down, across = (torch.from_numpy(small @ large).to(device) for small, large in pairs)
    return down, across
