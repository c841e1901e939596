"""Where the frames of a DICOM instance lie in the patient, and in which order (PS3.3 C.7.6.2).

Everything is in millimetres in the patient's coordinates: x to the left, y to the back, z to the
head (LPS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

Vectors = NDArray[np.float64]

_UNEVEN = 0.01
"""How far direction cosines may be from unit length and from a right angle, as files round them."""

_PARALLEL = 0.999
"""Cosine of the angle from which on two planes count as parallel (2.6 degrees)."""

_FARTHEST = 1e5
"""Millimetres beyond which a coordinate is no place in a patient."""


@dataclass(frozen=True)
class NoGeometry:
    """A picture that says nothing usable of its place in the patient, and why."""

    reason: str


@dataclass(frozen=True, eq=False)
class Plane:
    """Where one frame lies.

    Attributes:
        origin: (3,) mm, the centre of the first pixel.
        steps: (3, 2) mm; the first column leads to the next pixel of a row, the second to the
            next row.
        rows, columns: how many pixels.
        thickness: mm of patient that the frame shows; 0 where the file does not say.
        spacing: mm from one frame of the stack to the next; 0 where the file does not say.
    """

    origin: Vectors
    steps: Vectors
    rows: int
    columns: int
    thickness: float = 0.0
    spacing: float = 0.0

    @cached_property
    def normal(self) -> Vectors:
        """(3,) of length 1, at right angles to rows and columns."""
        across: Vectors = np.cross(self.steps[:, 0], self.steps[:, 1])
        return across / np.linalg.norm(across)

    @cached_property
    def matrix(self) -> Vectors:
        """(3, 3) mm per column, per row, and per mm along the normal."""
        return np.column_stack([self.steps, self.normal])

    @cached_property
    def inverse(self) -> Vectors:
        """(3, 3) from millimetres to columns, rows, and millimetres along the normal."""
        return np.asarray(np.linalg.inv(self.matrix), dtype=np.float64)

    @property
    def place(self) -> float:
        """Distance of the plane from the origin of the coordinates, along its normal, mm."""
        return float(self.origin @ self.normal)

    @cached_property
    def corners(self) -> Vectors:
        """(4, 3) mm, the outer corners of the picture: half a pixel beyond the centres."""
        across, down = (-0.5, self.columns - 0.5), (-0.5, self.rows - 0.5)
        return np.array([self.origin + self.steps @ (x, y) for y in down for x in across])

    def is_parallel(self, other: Plane) -> bool:
        """Whether the planes are parallel, whichever way they look."""
        return bool(abs(self.normal @ other.normal) >= _PARALLEL)


def planes_of(dataset: Dataset) -> tuple[Plane, ...] | NoGeometry:
    """The plane of every frame: from the functional groups of a multi-frame instance (PS3.3
    C.7.6.16), else from the Image Plane module (C.7.6.2)."""
    try:
        frames = int(dataset.get("NumberOfFrames") or 1)
        groups = list(dataset.get("PerFrameFunctionalGroupsSequence") or ())
        if not groups and frames == 1:
            groups = [Dataset()]
        if len(groups) != frames:
            raise _WithoutPlace("its frames have no places of their own")
        shared = list(dataset.get("SharedFunctionalGroupsSequence") or ())[:1]
        return tuple(_plane([group, *shared], dataset) for group in groups)
    except _WithoutPlace as error:
        return NoGeometry(str(error))
    except Exception as error:  # broken values make pydicom raise anything
        return NoGeometry(f"its geometry cannot be read ({type(error).__name__})")


def order_of_slices(planes: Sequence[Plane]) -> tuple[int, ...]:
    """Indices of `planes` from one end of the stack to the other, along the normal of the first.

    Planes that are not parallel to those before them (localizers) form stacks of their own, in the
    order in which they appear; planes at the same place keep their order.
    """
    stacks: list[list[int]] = []
    for index, plane in enumerate(planes):
        fitting = (stack for stack in stacks if planes[stack[0]].is_parallel(plane))
        stack = next(fitting, None)
        if stack is None:
            stacks.append([index])
        else:
            stack.append(index)
    ordered: list[int] = []
    for stack in stacks:
        normal = planes[stack[0]].normal
        places = {index: round(float(planes[index].origin @ normal), 4) for index in stack}
        ordered += sorted(stack, key=places.__getitem__)
    return tuple(ordered)


class _WithoutPlace(Exception):
    """Why there is no geometry, for a person."""


def _plane(groups: Sequence[Dataset], dataset: Dataset) -> Plane:
    """The plane of one frame; `groups` are its own functional groups, then those of all frames."""

    def numbers(macro: str, keyword: str, name: str, count: int) -> Vectors:
        found = _value(groups, dataset, macro, keyword)
        if found is None:
            raise _WithoutPlace(f"{name} is missing")
        values = np.atleast_1d(np.array(found, dtype=np.float64))
        if values.shape != (count,) or not (np.abs(values) < _FARTHEST).all():
            raise _WithoutPlace(f"{name} is not {count} usable numbers")
        return values

    def length(keyword: str) -> float:
        found = _value(groups, dataset, "PixelMeasuresSequence", keyword)
        given = 0.0 if found is None else float(found)
        return given if 0 < given < _FARTHEST else 0.0

    position = numbers(
        "PlanePositionSequence", "ImagePositionPatient", "Image Position (Patient)", 3
    )
    directions = numbers(
        "PlaneOrientationSequence", "ImageOrientationPatient", "Image Orientation (Patient)", 6
    ).reshape(2, 3)
    spacing = numbers("PixelMeasuresSequence", "PixelSpacing", "Pixel Spacing", 2)
    if not (spacing > 0).all():
        raise _WithoutPlace("Pixel Spacing is not positive")
    lengths = np.linalg.norm(directions, axis=1)
    if (np.abs(lengths - 1) > _UNEVEN).any() or abs(directions[0] @ directions[1]) > _UNEVEN:
        raise _WithoutPlace("Image Orientation (Patient) is not two directions at a right angle")
    # The first number of Pixel Spacing is the distance of rows (PS3.3 10.7.1.3).
    steps = (directions / lengths[:, None]).T * spacing[::-1]
    return Plane(
        position, steps, int(dataset.Rows), int(dataset.Columns),
        length("SliceThickness"), length("SpacingBetweenSlices"),
    )  # fmt: skip


def _value(groups: Sequence[Dataset], dataset: Dataset, macro: str, keyword: str) -> Any:
    """An attribute of the frame's own macro, of the one all frames share, or of the instance."""
    for group in groups:
        item = next(iter(group.get(macro) or ()), None)
        if item is not None and item.get(keyword) is not None:
            return item.get(keyword)
    return dataset.get(keyword)
