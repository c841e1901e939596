"""What tests of masks need: series and masks of a body whose lesion is known exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import highdicom
import numpy as np
import SimpleITK
from helpers import build_dataset, encode, picture_of
from pydicom import Dataset
from pydicom.sr.codedict import codes

from miad_cli.imaging.dicom import DicomPicture

FRAME_OF_REFERENCE = "1.2.3.4.7"


@dataclass(frozen=True, eq=False)
class Ellipsoid:
    """A lesion with axes along the patient's; mm, LPS."""

    centre: tuple[float, float, float] = (12.0, -30.0, 45.0)
    radii: tuple[float, float, float] = (9.0, 6.0, 11.0)

    def depth(self, points: np.ndarray) -> np.ndarray:
        """Millimetres (..., 3) -> (...): at least so deep inside; negative: at least so far out."""
        scaled = np.sqrt((((points - self.centre) / self.radii) ** 2).sum(axis=-1))
        return (1 - scaled) * min(self.radii)


LESION = Ellipsoid()


@dataclass(frozen=True, eq=False)
class Grid:
    """A stack of slices: `directions` (3, 3) has rows, columns and slices as its columns."""

    origin: tuple[float, float, float]
    directions: np.ndarray
    spacing: tuple[float, float, float]
    size: tuple[int, int, int]

    @property
    def steps(self) -> np.ndarray:
        return self.directions * np.array(self.spacing)

    @property
    def points(self) -> np.ndarray:
        """(slices, rows, columns, 3) mm."""
        columns, rows, slices = self.size
        k, j, i = np.meshgrid(np.arange(slices), np.arange(rows), np.arange(columns), indexing="ij")
        return np.array(self.origin) + np.stack([i, j, k], axis=-1) @ self.steps.T

    def holding(self, lesion: Ellipsoid = LESION) -> np.ndarray:
        """(slices, rows, columns) uint8: 1 where a voxel's centre lies in the lesion."""
        return (lesion.depth(self.points) >= 0).astype(np.uint8)

    def reversed(self, axis: int) -> Grid:
        """The same voxels of the patient, stored from the other end of one axis."""
        end = np.array(self.origin) + self.steps[:, axis] * (self.size[axis] - 1)
        directions = self.directions.copy()
        directions[:, axis] *= -1
        return replace(self, origin=tuple(end), directions=directions)

    def moved(self, *by: float) -> Grid:
        """The grid elsewhere, mm."""
        return replace(self, origin=tuple(np.array(self.origin) + by))


def rotation(*degrees: float) -> np.ndarray:
    """(3, 3) about x, then y, then z."""
    turned = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        one, two = [other for other in range(3) if other != axis]
        step = np.eye(3)
        step[[one, two], [one, two]] = np.cos(angle)
        step[one, two], step[two, one] = -np.sin(angle), np.sin(angle)
        turned = step @ turned
    return turned


AXES = {
    "axial": np.eye(3),
    "coronal": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
    "sagittal": np.array([[0, 0, -1.0], [1, 0, 0], [0, -1, 0]]),
    "oblique": rotation(25, -35, 15),
}


def around_lesion(
    directions: np.ndarray,
    spacing: tuple[float, float, float] = (1.0, 1.0, 2.0),
    size: tuple[int, int, int] = (48, 40, 16),
    shift: tuple[float, float, float] = (1.3, -0.7, 0.4),
) -> Grid:
    """A grid with the lesion in it, but not in its middle."""
    steps = directions * np.array(spacing)
    origin = np.array(LESION.centre) + shift - steps @ (np.array(size) * 0.48)
    return Grid(tuple(origin), directions, spacing, size)


def slice_dataset(grid: Grid, index: int, **attributes: object) -> Dataset:
    """Slice `index` of a series that lies in the patient like `grid`."""
    columns, rows, _ = grid.size
    settings: dict[str, object] = {
        "SOPInstanceUID": f"1.2.3.4.6.{index + 1}",
        "FrameOfReferenceUID": FRAME_OF_REFERENCE,
        "ImagePositionPatient": _texts(np.array(grid.origin) + grid.steps[:, 2] * index),
        "ImageOrientationPatient": _texts(grid.directions[:, :2].T.reshape(-1)),
        "PixelSpacing": _texts(grid.spacing[1::-1]),
        "SliceThickness": str(grid.spacing[2]),
        "PatientID": "1", "PatientName": "A^B", "PatientBirthDate": "", "PatientSex": "",
        "StudyID": "1", "StudyDate": "20200101", "StudyTime": "000000", "AccessionNumber": "",
        "ReferringPhysicianName": "", "SeriesNumber": 1, "InstanceNumber": index + 1,
        "PositionReferenceIndicator": "",
    }  # fmt: skip
    words = np.full((1, rows, columns, 1), 100, np.uint16)
    dataset = build_dataset(words, **{**settings, **attributes})  # type: ignore[arg-type]
    for keyword, value in list(settings.items()):
        if attributes.get(keyword, value) is None:
            delattr(dataset, keyword)
    return dataset


def _texts(values: Sequence[float] | np.ndarray) -> list[str]:
    return [f"{value:.7f}"[:16] for value in values]


def series(grid: Grid) -> list[DicomPicture]:
    return [picture_of(slice_dataset(grid, index)) for index in range(grid.size[2])]


def write_volume(path: Path, grid: Grid, values: np.ndarray) -> Path:
    image = SimpleITK.GetImageFromArray(values)
    image.SetOrigin(grid.origin)
    image.SetSpacing(grid.spacing)
    image.SetDirection(tuple(grid.directions.reshape(-1)))
    SimpleITK.WriteImage(image, str(path))
    return path


def segmentation(
    grid: Grid, values: np.ndarray, kind: str = "BINARY", other: bool = False, **more: object
) -> Dataset:
    """A DICOM SEG of (slices, rows, columns) values, made from the series that lies like `grid`.

    `other` makes that another series of the same study than `series` gives.
    """
    described = highdicom.seg.SegmentDescription(
        1,
        "lesion",
        codes.SCT.MorphologicallyAbnormalStructure,
        codes.SCT.Mass,
        highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
    )
    sources = [slice_dataset(grid, index) for index in range(grid.size[2])]
    for index, source in enumerate(sources if other else ()):
        source.SeriesInstanceUID = "1.2.3.4.10"
        source.SOPInstanceUID = f"1.2.3.4.11.{index + 1}"
    settings: dict[str, object] = {
        "source_images": sources,
        "segment_descriptions": [described],
        "series_instance_uid": "1.2.3.4.8",
        "series_number": 9,
        "sop_instance_uid": "1.2.3.4.9",
        "instance_number": 1,
        "manufacturer": "miad",
        "manufacturer_model_name": "tests",
        "software_versions": "1",
        "device_serial_number": "1",
    }
    return highdicom.seg.Segmentation(
        pixel_array=values, segmentation_type=kind, **{**settings, **more}
    )


def write_object(path: Path, dataset: Dataset) -> Path:
    path.write_bytes(encode(dataset))
    return path
