"""Where frames lie in the patient, and their order: against positions worked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from patients import AXES, Grid, around_lesion, slice_dataset
from pydicom import Dataset

from miad_cli.imaging.geometry import NoGeometry, Plane, order_of_slices, planes_of

GRID = Grid((-10.0, -20.0, 30.0), AXES["axial"], (0.5, 0.8, 3.0), (6, 4, 5))


def enhanced(positions: list[list[float]], *, shared: bool) -> Dataset:
    """A multi-frame instance; orientation and measures for all frames together, or for each."""
    dataset = slice_dataset(
        GRID, 0, NumberOfFrames=len(positions), ImagePositionPatient=None,
        ImageOrientationPatient=None, PixelSpacing=None, SliceThickness=None,
    )  # fmt: skip
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    measures.PixelSpacing, measures.SliceThickness = [2, 1], 4
    measures.SpacingBetweenSlices = 5
    groups = []
    for position in positions:
        group, place = Dataset(), Dataset()
        place.ImagePositionPatient = position
        group.PlanePositionSequence = [place]
        groups.append(group)
    for holder in [Dataset()] if shared else groups:
        holder.PlaneOrientationSequence = [orientation]
        holder.PixelMeasuresSequence = [measures]
        if shared:
            dataset.SharedFunctionalGroupsSequence = [holder]
    dataset.PerFrameFunctionalGroupsSequence = groups
    return dataset


def planes(dataset: Dataset) -> tuple[Plane, ...]:
    found = planes_of(dataset)
    assert isinstance(found, tuple)
    return found


def test_first_number_of_pixel_spacing_is_the_distance_of_rows() -> None:
    dataset = slice_dataset(GRID, 2)
    assert [float(one) for one in dataset.PixelSpacing] == [0.8, 0.5]
    (plane,) = planes(dataset)
    np.testing.assert_allclose(plane.origin, [-10, -20, 36])
    np.testing.assert_allclose(plane.steps, [[0.5, 0], [0, 0.8], [0, 0]])
    np.testing.assert_allclose(plane.normal, [0, 0, 1])
    assert (plane.rows, plane.columns, plane.thickness, plane.place) == (4, 6, 3, 36)
    np.testing.assert_allclose(
        plane.corners,
        [[-10.25, -20.4, 36], [-7.25, -20.4, 36], [-10.25, -17.2, 36], [-7.25, -17.2, 36]],
    )


@pytest.mark.parametrize("shared", [True, False])
def test_every_frame_of_an_enhanced_instance_has_its_place(shared: bool) -> None:
    first, second = planes(enhanced([[0, 7, 0], [0, 2, 0]], shared=shared))
    np.testing.assert_allclose(first.steps, [[1, 0], [0, 0], [0, -2]])
    np.testing.assert_allclose(first.normal, [0, 1, 0])
    assert (first.place, second.place) == (7, 2)
    assert (second.thickness, second.spacing) == (4, 5)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"ImagePositionPatient": None}, "Image Position (Patient) is missing"),
        ({"ImageOrientationPatient": None}, "Image Orientation (Patient) is missing"),
        ({"PixelSpacing": None}, "Pixel Spacing is missing"),
        ({"PixelSpacing": ["0", "1"]}, "Pixel Spacing is not positive"),
        ({"PixelSpacing": "1"}, "Pixel Spacing is not 2 usable numbers"),
        ({"ImagePositionPatient": ["1", "nan", "2"]}, "not 3 usable numbers"),
        ({"ImagePositionPatient": ["1", "1e30", "2"]}, "not 3 usable numbers"),
        ({"ImageOrientationPatient": ["0"] * 6}, "right angle"),
        ({"ImageOrientationPatient": ["1", "0", "0", ".1", ".995", "0"]}, "right angle"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
def test_unusable_geometry_is_said(attributes: dict[str, Any], reason: str) -> None:
    found = planes_of(slice_dataset(GRID, 0, **attributes))
    assert isinstance(found, NoGeometry)
    assert reason in found.reason


def test_several_frames_at_one_place_are_no_volume() -> None:
    found = planes_of(slice_dataset(GRID, 0, NumberOfFrames=3))
    assert isinstance(found, NoGeometry)
    assert "frames" in found.reason


def test_rounded_directions_are_made_straight() -> None:
    (plane,) = planes(
        slice_dataset(GRID, 0, ImageOrientationPatient=[".999", "0", "0", "0", "1", "0"])
    )
    np.testing.assert_allclose(plane.steps[:, 0], [0.5, 0, 0])


@pytest.mark.parametrize("axes", AXES)
def test_slices_are_ordered_along_their_normal(axes: str) -> None:
    grid = around_lesion(AXES[axes], size=(8, 8, 7))
    shuffled = [4, 0, 6, 2, 1, 5, 3]
    found = [planes(slice_dataset(grid, index))[0] for index in shuffled]
    ordered = [shuffled[index] for index in order_of_slices(found)]
    # The normal of a sagittal grid looks against its third direction.
    forward = np.linalg.det(AXES[axes]) > 0
    assert ordered == sorted(shuffled, reverse=not forward)


def test_localizers_and_equal_places_keep_their_order() -> None:
    axial, coronal = around_lesion(AXES["axial"]), around_lesion(AXES["coronal"])
    given = [(axial, 3), (coronal, 1), (axial, 3), (axial, 0), (coronal, 0)]
    found = [planes(slice_dataset(grid, index))[0] for grid, index in given]
    ordered = order_of_slices(found)
    assert ordered[:3] == (3, 0, 2)
    assert set(ordered[3:]) == {1, 4}
