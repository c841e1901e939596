"""Where the logo may not be: boxes around what a model attends to (MIAD-MARK Alg. 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
BoxSource = Literal["grad-cam", "occlusion", "segmentation", "mask", "none"]


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels: top-left corner and size."""

    x: int
    y: int
    width: int
    height: int

    def widened(self, reach: int, rows: int, columns: int) -> Box:
        """The same with `reach` pixels more on every side, within a picture of this size."""
        left, top = max(self.x - reach, 0), max(self.y - reach, 0)
        right = min(self.x + self.width + reach, columns)
        bottom = min(self.y + self.height + reach, rows)
        return Box(left, top, right - left, bottom - top)

    def meets(self, other: Box) -> bool:
        """True where the rectangles share a pixel."""
        return (
            self.x < other.x + other.width
            and other.x < self.x + self.width
            and self.y < other.y + other.height
            and other.y < self.y + self.height
        )


@dataclass(frozen=True)
class Lesions:
    """Where the logo may not be, and who says so.

    Attributes:
        boxes: rectangles around it; none at all where nothing is to be kept off.
        exact: rectangles that cover it and nothing else; what counts where the boxes leave no
            room. None of them where that is not known.
    """

    boxes: tuple[Box, ...]
    source: BoxSource
    exact: tuple[Box, ...] = ()


def heat_map(weighted: Float, top_share: float) -> Float:
    """Grad-CAM (Eq. 8): ReLU of the sum over the `top_share` of channels that weigh most.

    Args:
        weighted: (channels, h, w), activations times their weights.
        top_share: 0..1; the paper names a share and gives no value.

    Returns (h, w), scaled from its minimum and maximum to 0..255; all zero where nothing is
    positive.
    """
    count = max(1, round(top_share * len(weighted)))
    weight = np.abs(weighted).sum(axis=(1, 2))
    heaviest = np.argsort(-weight, kind="stable")[:count]
    heat = np.maximum(weighted[heaviest].sum(axis=0), 0.0)
    low, high = float(heat.min()), float(heat.max())
    if high <= 0 or high == low:
        return np.zeros_like(heat)
    result: Float = ((heat - low) / (high - low) * 255).astype(np.float32)
    return result


def enlarge(heat: Float, rows: int, columns: int, shift: tuple[float, float] = (0.0, 0.0)) -> Float:
    """Bilinear enlargement of a map (h, w) to (rows, columns).

    Cell i is taken to lie at (i + 0.5) stride - 0.5 + `shift` pixels (vertical, horizontal).
    """
    for axis, length in ((0, rows), (1, columns)):
        source = heat.shape[axis]
        centred = (np.arange(length) + 0.5 - shift[axis]) * source / length - 0.5
        position = np.clip(centred, 0, source - 1)
        below = np.floor(position).astype(int)
        above = np.minimum(below + 1, source - 1)
        share = (position - below).astype(np.float32)
        share = share[:, None] if axis == 0 else share[None, :]
        heat = heat.take(below, axis) * (1 - share) + heat.take(above, axis) * share
    return heat


def runs_of(marks: NDArray[np.bool_]) -> tuple[Box, ...]:
    """Rectangles that cover the marked pixels of (rows, columns) bool and no other: runs of a row,
    joined with the same runs of the rows below."""
    done: list[Box] = []
    open_runs: dict[tuple[int, int], int] = {}
    for y, row in enumerate([*marks, np.zeros(marks.shape[1], bool)]):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
        runs = {(int(left), int(right)) for left, right in edges.reshape(-1, 2)}
        for run in [run for run in open_runs if run not in runs]:
            top = open_runs.pop(run)
            done.append(Box(run[0], top, run[1] - run[0], y - top))
        for run in runs:
            open_runs.setdefault(run, y)
    return tuple(done)


def boxes_above(heat: Float, threshold: float) -> tuple[Box, ...]:
    """Bounding boxes of the connected regions (8-neighbours) of (rows, columns) where the heat is
    at least `threshold`; largest first."""
    import SimpleITK

    hot = SimpleITK.GetImageFromArray((heat >= threshold).astype(np.uint8))
    shapes = SimpleITK.LabelShapeStatisticsImageFilter()
    shapes.Execute(SimpleITK.ConnectedComponent(hot, True))
    boxes = [Box(*(int(n) for n in shapes.GetBoundingBox(label))) for label in shapes.GetLabels()]
    return tuple(sorted(boxes, key=lambda box: (-box.width * box.height, box.y, box.x)))
