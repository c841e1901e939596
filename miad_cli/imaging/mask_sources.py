"""Lesion masks that lie in the patient, and what they say of a picture.

Readers (`mask_volumes`, `mask_objects`) make them; `masks` asks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from miad_cli.imaging.dicom import DicomPicture
from miad_cli.imaging.geometry import NoGeometry, Plane, planes_of
from miad_cli.imaging.voxels import Extent, Marks, Voxels

_MOST_VALUES = 1024
"""Different values from which on an array is a picture, not a mask with labels."""

_NEAR = 0.01
"""Millimetres that are only rounding."""


class NotAMask(Exception):
    """Why a file is no usable mask, for a person."""


class OtherKind(NotAMask):
    """It is whole, and something else than a mask."""


@dataclass(frozen=True)
class Misfit:
    """Why a mask says nothing of a picture.

    `certain` where the mask is meant for this picture, and contradicts it.
    """

    reason: str
    certain: bool = False


@dataclass(frozen=True, eq=False)
class Subject:
    """What a mask has to know of a DICOM picture; `shape` is (frames, rows, columns)."""

    shape: tuple[int, int, int]
    planes: tuple[Plane, ...] | NoGeometry
    sop_instance_uid: str
    series_instance_uid: str
    frame_of_reference_uid: str

    @classmethod
    def of(cls, picture: DicomPicture) -> Subject:
        layout, dataset = picture.layout, picture.dataset
        return cls(
            (layout.frames, layout.rows, layout.columns),
            planes_of(dataset),
            str(dataset.get("SOPInstanceUID") or ""),
            str(dataset.get("SeriesInstanceUID") or ""),
            str(dataset.get("FrameOfReferenceUID") or ""),
        )


class MaskSource(Protocol):
    """A mask in the patient. `kind` names its format."""

    @property
    def kind(self) -> str: ...

    def on(self, subject: Subject) -> Marks | Misfit:
        """(frames, rows, columns) bool: where the picture shows what is marked."""


def marks_of(values: NDArray[np.generic]) -> Marks:
    """Where an array of labels, 0 and 1, or probabilities is above zero.

    Raises:
        NotAMask: it holds what no mask holds.
    """
    if values.dtype.kind not in "biuf":
        raise NotAMask(f"its values are {values.dtype}")
    if not values.size or values.dtype.kind == "b":
        return values.astype(bool)
    lowest, highest = values.min(), values.max()
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise NotAMask("it holds values that are no numbers")
    if lowest < 0:
        raise NotAMask("it holds negative values: a picture, not a mask")
    if highest > 1:
        _refuse_picture(values, float(highest))
    marks: Marks = values > 0  # type: ignore[operator]  # numbers, see above
    return marks


def _refuse_picture(values: NDArray[np.generic], highest: float) -> None:
    whole = values.astype(np.uint16) if highest <= 0xFFFF else None
    if whole is None or not np.array_equal(whole, values):
        raise NotAMask("its values are neither labels nor between 0 and 1: a picture, not a mask")
    if np.count_nonzero(np.bincount(whole.reshape(-1))) > _MOST_VALUES:
        raise NotAMask(f"it holds more than {_MOST_VALUES} different values: a picture, not a mask")


def _without_place(subject: Subject) -> Misfit:
    reason = subject.planes.reason if isinstance(subject.planes, NoGeometry) else ""
    return Misfit(f"the picture does not say where in the patient it lies ({reason})")


@dataclass(frozen=True, eq=False)
class VolumeMask:
    """A grid of voxels that says nothing of the study that it belongs to (NIfTI, NRRD, MHA)."""

    kind: str
    voxels: Voxels

    def on(self, subject: Subject) -> Marks | Misfit:
        if isinstance(subject.planes, NoGeometry):
            return _without_place(subject)
        voxels = self.voxels
        low, high = np.full(3, -0.5), voxels.size.astype(np.float64) - 0.5
        extent = Extent(voxels.origin, voxels.steps, low, high, voxels.rim)
        lacking = max(extent.lacks(plane) for plane in subject.planes)
        if lacking > 0:
            return Misfit(f"the picture reaches {lacking:.1f} mm beyond the volume of the mask")
        return np.stack([voxels.on(plane) for plane in subject.planes])


@dataclass(frozen=True, eq=False)
class SegmentFrame:
    """One frame of a segmentation.

    Attributes:
        plane: where it lies, or None.
        voxels: what is marked in it; a slab as thick as the frame, or without place where `plane`
            is None.
        shows: the frames it was made from, as (SOP Instance UID, frame numbers from 1, or none
            for all).
    """

    plane: Plane | None
    voxels: Voxels
    shows: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def flat(self) -> Marks:
        """(rows, columns) bool."""
        columns, rows, _ = self.voxels.size
        marked, (x, y, _) = self.voxels.marked, self.voxels.corner
        whole = np.zeros((rows, columns), dtype=bool)
        if marked.size:
            whole[y : y + marked.shape[1], x : x + marked.shape[2]] = marked[0]
        return whole


@dataclass(frozen=True, eq=False)
class SegmentMask:
    """A DICOM segmentation (PS3.3 A.51).

    It fits a picture by place where both have the same frame of reference. Frames in which
    nothing is marked may have been left out (PS3.3 C.8.20.2.3 leaves that to whoever writes it),
    so pictures that it refers to need not lie between its frames. Where there is no place in
    common it fits the very instances that its frames were made from, pixel by pixel.
    """

    kind: str
    frame_of_reference_uid: str
    frames: tuple[SegmentFrame, ...]
    instances: frozenset[str] = field(default_factory=frozenset)
    series: frozenset[str] = field(default_factory=frozenset)

    def on(self, subject: Subject) -> Marks | Misfit:
        refers = subject.sop_instance_uid in self.instances
        same_space = self.frame_of_reference_uid == subject.frame_of_reference_uid != ""
        planes = subject.planes
        placed = same_space and all(frame.plane is not None for frame in self.frames)
        if placed and not isinstance(planes, NoGeometry):
            return self._by_place(subject, planes)
        both = self.frame_of_reference_uid and subject.frame_of_reference_uid
        if refers and (same_space or not both):
            return self._by_reference(subject)
        if refers:
            return Misfit(
                "the mask names this picture, and belongs to another frame of reference",
                certain=True,
            )
        if not self.frame_of_reference_uid or not subject.frame_of_reference_uid:
            return Misfit("mask and picture name no frame of reference in common")
        if not same_space:
            return Misfit("the mask belongs to another frame of reference")
        if isinstance(planes, NoGeometry):
            return _without_place(subject)
        return Misfit("the mask does not say where in the patient it lies")

    def _by_place(self, subject: Subject, planes: Sequence[Plane]) -> Marks | Misfit:
        refers = (
            subject.sop_instance_uid in self.instances or subject.series_instance_uid in self.series
        )
        first = self.frames[0].plane
        if any(first and one.plane and not first.is_parallel(one.plane) for one in self.frames):
            return Misfit("the frames of the mask are not parallel", certain=refers)
        contradiction = self._contradiction(subject.sop_instance_uid, planes)
        if contradiction:
            return contradiction
        lacking = max(self._lacks(plane, refers) for plane in planes)
        if lacking > 0:
            return Misfit(f"the picture reaches {lacking:.1f} mm beyond the mask", certain=refers)
        marks = np.zeros(subject.shape, dtype=bool)
        for index, plane in enumerate(planes):
            for frame in self.frames:
                marks[index] |= frame.voxels.on(plane)
        return marks

    def _contradiction(self, sop_instance_uid: str, planes: Sequence[Plane]) -> Misfit | None:
        """A frame that was made from this picture and lies somewhere else."""
        for frame in self.frames:
            if len(frame.shows) != 1 or frame.shows[0][0] != sop_instance_uid:
                continue
            numbers = frame.shows[0][1] or ((1,) if len(planes) == 1 else ())
            for number in numbers:
                if not 1 <= number <= len(planes) or frame.plane is None:
                    return Misfit("the mask refers to a frame that the picture has not", True)
                plane = planes[number - 1]
                allowed = max(frame.plane.thickness, plane.thickness) / 2 + _NEAR
                apart = float(np.abs(_distances(plane, frame.plane)).max())
                if apart > allowed:
                    return Misfit(
                        f"the frame of the mask that was made from this slice lies {apart:.1f} mm "
                        "from it", certain=True,
                    )  # fmt: skip
        return None

    def _lacks(self, plane: Plane, refers: bool) -> float:
        """How far a picture reaches beyond the frames, mm."""
        owned = [frame.plane for frame in self.frames if frame.plane is not None]
        apart = [float(_distances(plane, own).mean()) for own in owned]
        nearest = int(np.argmin(np.abs(apart)))
        own = owned[nearest]
        # From the nearest frame: how far the others lie above and below it.
        places = [float((other.origin - own.origin) @ own.normal) for other in owned]
        half = own.thickness / 2
        low, high = (-np.inf, np.inf) if refers else (min(places) - half, max(places) + half)
        extent = Extent(
            own.origin,
            own.matrix,
            np.array([-0.5, -0.5, low]),
            np.array([own.columns - 0.5, own.rows - 0.5, high]),
            np.array([0.5, 0.5, half]),
        )
        return extent.lacks(plane)

    def _by_reference(self, subject: Subject) -> Marks | Misfit:
        marks = np.zeros(subject.shape, dtype=bool)
        only = self.instances == {subject.sop_instance_uid} and len(marks) == 1
        for frame in self.frames:
            if not frame.shows and not only:
                return Misfit("the mask does not say which picture its frames were made from", True)
            for uid, numbers in frame.shows or ((subject.sop_instance_uid, ()),):
                if uid != subject.sop_instance_uid:
                    continue
                flat = frame.flat
                if flat.shape != subject.shape[1:]:
                    return Misfit(differing_sizes(flat.shape, subject.shape[1:]), certain=True)
                if any(not 1 <= number <= len(marks) for number in numbers):
                    return Misfit("the mask refers to a frame that the picture has not", True)
                marks[[number - 1 for number in numbers] if numbers else slice(None)] |= flat
        return marks


@dataclass(frozen=True, eq=False)
class ContourMask:
    """The contours of a radiotherapy structure set, filled; between them lies nothing else."""

    kind: str
    frame_of_reference_uid: str
    slabs: tuple[Voxels, ...]

    def on(self, subject: Subject) -> Marks | Misfit:
        if self.frame_of_reference_uid != subject.frame_of_reference_uid:
            return Misfit("the mask belongs to another frame of reference")
        if isinstance(subject.planes, NoGeometry):
            return _without_place(subject)
        marks = np.zeros(subject.shape, dtype=bool)
        for index, plane in enumerate(subject.planes):
            for slab in self.slabs:
                marks[index] |= slab.on(plane)
        return marks


def _distances(plane: Plane, own: Plane) -> NDArray[np.float64]:
    """(4,) mm from the plane of a frame to the corners of a picture, along the frame's normal."""
    distances: NDArray[np.float64] = (plane.corners - own.origin) @ own.normal
    return distances


def differing_sizes(mask: tuple[int, ...], picture: tuple[int, ...]) -> str:
    return (
        f"the mask has {mask[0]} rows x {mask[1]} columns, the picture {picture[0]} x {picture[1]}"
    )
