"""Lesion masks on pictures: in the right place of the patient, or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from helpers import build_png, picture_of
from patients import (
    AXES,
    LESION,
    Grid,
    around_lesion,
    rotation,
    segmentation,
    series,
    slice_dataset,
    write_object,
    write_volume,
)
from pydicom import Dataset

from miad_cli.errors import MaskUnusable
from miad_cli.imaging.dicom import DicomPicture
from miad_cli.imaging.masks import Masks, read_masks
from miad_cli.imaging.raster import RasterPicture, read_raster

AXIAL = around_lesion(AXES["axial"])
NAME = PurePosixPath("study/IM1.dcm")
VOLUMES = ("nii", "nii.gz", "nrrd", "mha", "mhd")
FRACTIONS = {"max_fractional_value": 200}


def lesions(masks: Masks, pictures: list[DicomPicture]) -> np.ndarray:
    """(slices, rows, columns) bool."""
    found = [masks.lesions_on(picture, NAME) for picture in pictures]
    return np.concatenate([one.pixels for one in found])


def refusal(masks: Masks, picture: DicomPicture | RasterPicture, name: PurePosixPath = NAME) -> str:
    with pytest.raises(MaskUnusable) as refused:
        masks.lesions_on(picture, name)
    assert refused.value.exit_code == 12
    return refused.value.message


def object_mask(folder: Path, grid: Grid, kind: str, **more: Any) -> Masks:
    values = grid.holding()
    if kind == "FRACTIONAL":
        return_of = segmentation(grid, values * np.float32(0.01), kind, **FRACTIONS, **more)
    else:
        return_of = segmentation(grid, values, kind, **more)
    return read_masks(write_object(folder / "mask.dcm", return_of))


# --- One lesion, every format ------------------------------------------------------------------


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("suffix", VOLUMES)
def test_a_mask_on_the_grid_of_the_series_marks_its_very_pixels(
    tmp_path: Path, suffix: str, axes: str
) -> None:
    grid = around_lesion(AXES[axes])
    masks = read_masks(write_volume(tmp_path / f"mask.{suffix}", grid, grid.holding()))
    np.testing.assert_array_equal(lesions(masks, series(grid)), grid.holding() > 0)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
@pytest.mark.parametrize("sparse", [True, False])
def test_a_segmentation_marks_what_a_volume_marks(
    tmp_path: Path, kind: str, axes: str, sparse: bool
) -> None:
    grid = around_lesion(AXES[axes])
    masks = object_mask(tmp_path, grid, kind, omit_empty_frames=sparse)
    np.testing.assert_array_equal(lesions(masks, series(grid)), grid.holding() > 0)


def test_formats_are_named(tmp_path: Path) -> None:
    write_volume(tmp_path / "mask.nii.gz", AXIAL, AXIAL.holding())
    write_object(tmp_path / "mask", segmentation(AXIAL, AXIAL.holding()))
    found = read_masks(tmp_path).lesions_on(series(AXIAL)[7], NAME)
    assert found.source == "DICOM SEG + NIfTI"


@pytest.mark.parametrize("suffix", VOLUMES)
def test_an_empty_mask_is_a_mask(tmp_path: Path, suffix: str) -> None:
    nothing = np.zeros_like(AXIAL.holding())
    masks = read_masks(write_volume(tmp_path / f"mask.{suffix}", AXIAL, nothing))
    assert lesions(masks, series(AXIAL)).shape == nothing.shape
    assert not lesions(masks, series(AXIAL)).any()


def test_names_in_any_script(tmp_path: Path) -> None:
    folder = tmp_path / "Größe 病变"
    folder.mkdir()
    for suffix in ("nii.gz", "nrrd", "mha"):
        plain = write_volume(tmp_path / f"mask.{suffix}", AXIAL, AXIAL.holding())
        found = read_masks(plain.rename(folder / f"Läsion {suffix} ☃.{suffix}"))
        assert lesions(found, series(AXIAL)).sum() == AXIAL.holding().sum()


# --- Flipped and shifted -----------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["left-right", "front-back", "slice order"])
@pytest.mark.parametrize("suffix", ["nii", "nrrd", "mha"])
def test_a_mask_stored_from_the_other_end_lands_in_the_same_place(
    tmp_path: Path, suffix: str, axis: int
) -> None:
    stored = AXIAL.reversed(axis)
    values = stored.holding()
    assert not np.array_equal(values, AXIAL.holding())  # by index it would be elsewhere
    masks = read_masks(write_volume(tmp_path / f"mask.{suffix}", stored, values))
    np.testing.assert_array_equal(lesions(masks, series(AXIAL)), AXIAL.holding() > 0)


def test_slices_of_a_series_in_any_order(tmp_path: Path) -> None:
    stored = AXIAL.reversed(2)
    masks = object_mask(tmp_path, stored, "BINARY", other=True, omit_empty_frames=False)
    found = lesions(masks, series(AXIAL.reversed(1)))
    np.testing.assert_array_equal(found, AXIAL.reversed(1).holding() > 0)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("suffix", ["nii", "nrrd"])
def test_a_mask_moved_within_the_slice_is_refused(
    tmp_path: Path, suffix: str, axis: int, axes: str
) -> None:
    grid = around_lesion(AXES[axes])
    moved = grid.moved(*grid.directions[:, axis] * 7.3)
    masks = read_masks(write_volume(tmp_path / f"mask.{suffix}", moved, grid.holding()))
    message = refusal(masks, series(grid)[7])
    assert "7.3 mm beyond" in message


def test_a_mask_moved_along_the_slices_is_refused_where_it_ends(tmp_path: Path) -> None:
    moved = AXIAL.moved(0, 0, 5)
    masks = read_masks(write_volume(tmp_path / "mask.nii", moved, AXIAL.holding()))
    pictures = series(AXIAL)
    assert "5.0 mm beyond" not in refusal(masks, pictures[1])
    assert "4.0 mm beyond" in refusal(masks, pictures[0])
    # Slice 2 starts at 4 mm: the volume begins there, half a voxel before its first centre.
    assert not masks.lesions_on(pictures[2], NAME).pixels.any()


def test_left_and_right_mixed_up_is_refused(tmp_path: Path) -> None:
    """A NIfTI whose writer took the left for the right."""
    wrong = replace(
        AXIAL,
        origin=(-AXIAL.origin[0], -AXIAL.origin[1], AXIAL.origin[2]),
        directions=np.diag([-1.0, -1.0, 1.0]),
    )
    masks = read_masks(write_volume(tmp_path / "mask.nii", wrong, AXIAL.holding()))
    assert "mm beyond" in refusal(masks, series(AXIAL)[7])


def test_half_a_voxel_may_be_missing_and_more_may_not(tmp_path: Path) -> None:
    for missing, fits in ((0.45, True), (0.55, False)):
        moved = AXIAL.moved(missing, 0, 0)
        masks = read_masks(write_volume(tmp_path / "mask.nii", moved, moved.holding()))
        if fits:
            assert masks.lesions_on(series(AXIAL)[7], NAME).pixels.any()
        else:
            assert "0.6 mm beyond" in refusal(masks, series(AXIAL)[7])


def test_the_voxel_at_the_edge_reaches_over_the_missing_half(tmp_path: Path) -> None:
    coarse = replace(
        AXIAL, spacing=(4.0, 1.0, 2.0), size=(12, 40, 16), origin=tuple(AXIAL.points[0, 0, 0])
    )  # its first voxel begins 1.5 mm before the first pixel
    values = np.zeros((16, 40, 12), np.uint8)
    values[:, :, [0, -1]] = 1
    for shift, left, right in ((3.5, 6, 2), (-0.5, 2, 6)):
        path = write_volume(tmp_path / "mask.nii", coarse.moved(shift, 0, 0), values)
        found = read_masks(path).lesions_on(series(AXIAL)[7], NAME).pixels[0]
        marked = np.flatnonzero(found.all(axis=0)).tolist()
        assert marked == [*range(left), *range(48 - right, 48)]
        np.testing.assert_array_equal(found.all(axis=0), found.any(axis=0))


def test_a_moved_segmentation_is_refused(tmp_path: Path) -> None:
    """Its frames say which slices they were made from, and lie elsewhere."""
    dataset = segmentation(AXIAL, AXIAL.holding())
    for group in dataset.PerFrameFunctionalGroupsSequence:
        x, y, z = group.PlanePositionSequence[0].ImagePositionPatient
        group.PlanePositionSequence[0].ImagePositionPatient = [x, y, z + 6]
    masks = read_masks(write_object(tmp_path / "mask.dcm", dataset))
    assert "lies 6.0 mm from it" in refusal(masks, series(AXIAL)[7])


def test_a_segmentation_moved_within_its_slices_is_refused(tmp_path: Path) -> None:
    dataset = segmentation(AXIAL, AXIAL.holding())
    for group in dataset.PerFrameFunctionalGroupsSequence:
        x, y, z = group.PlanePositionSequence[0].ImagePositionPatient
        group.PlanePositionSequence[0].ImagePositionPatient = [x - 9, y, z]
    masks = read_masks(write_object(tmp_path / "mask.dcm", dataset))
    assert "9.0 mm beyond" in refusal(masks, series(AXIAL)[7])


# --- Other grids -------------------------------------------------------------------------------

BODY = {
    "coarse": around_lesion(AXES["axial"], (1.5, 1.5, 4.0), (60, 60, 24)),
    "thin": around_lesion(AXES["axial"], (0.6, 0.6, 0.8), (150, 150, 110)),
    "turned": around_lesion(rotation(12, 8, 40), (1.0, 1.3, 2.0), (130, 100, 64)),
    "coronal": around_lesion(AXES["coronal"], (1.0, 1.0, 2.5), (90, 90, 36)),
}


@pytest.mark.parametrize("axes", ["axial", "coronal", "oblique"])
@pytest.mark.parametrize("body", BODY)
@pytest.mark.parametrize("kind", ["nii.gz", "nrrd", "dcm"])
def test_the_lesion_is_covered_in_patient_coordinates(
    tmp_path: Path, kind: str, body: str, axes: str
) -> None:
    grid, mask = around_lesion(AXES[axes], (0.8, 0.8, 3.0), (44, 40, 11)), BODY[body]
    path = tmp_path / f"mask.{kind}"
    if kind == "dcm":
        write_object(path, segmentation(mask, mask.holding(), other=True, omit_empty_frames=False))
    else:
        write_volume(path, mask, mask.holding())
    found = lesions(read_masks(path), series(grid))
    depth = LESION.depth(grid.points)
    voxel = np.array(mask.spacing)
    assert (depth > np.linalg.norm(voxel) / 2).any()
    # What is deeper in the lesion than half a voxel of the mask is marked; nothing is that lies
    # farther from it than half a voxel and the block of a pixel.
    assert found[depth > np.linalg.norm(voxel) / 2].all()
    blocks = np.sqrt(3) * (voxel.max() + sum(grid.spacing)) / 2
    assert (depth[found] > -blocks).all()
    middle = np.array([grid.points[one].mean(axis=0) for one in [found]]).reshape(3)
    np.testing.assert_allclose(middle, LESION.centre, atol=1.0)


@pytest.mark.parametrize("body", ["coarse", "turned"])
def test_a_segmentation_and_a_volume_agree_on_oblique_slices(tmp_path: Path, body: str) -> None:
    mask, pictures = (
        BODY[body],
        series(around_lesion(AXES["oblique"], (0.8, 0.8, 3.0), size=(48, 40, 8))),
    )
    found = []
    for path in (tmp_path / "mask.nii.gz", tmp_path / "mask.dcm"):
        if path.suffix == ".dcm":
            whole = segmentation(mask, mask.holding(), other=True, omit_empty_frames=False)
            write_object(path, whole)
        else:
            write_volume(path, mask, mask.holding())
        found.append(lesions(read_masks(path), pictures))
    # A pixel that only just touches a voxel may fall to either side: files round.
    assert np.count_nonzero(found[0] != found[1]) <= 3 < np.count_nonzero(found[0])


def test_a_thick_slice_shows_what_lies_in_any_of_its_depth(tmp_path: Path) -> None:
    thin = around_lesion(AXES["axial"], (1.0, 1.0, 1.0), (48, 40, 32), (0.0, 0.0, 0.0))
    values = np.zeros((32, 40, 48), np.uint8)
    values[11, 20, 20] = 1
    masks = read_masks(write_volume(tmp_path / "mask.nii", thin, values))
    thick = replace(
        thin, spacing=(1.0, 1.0, 5.0), size=(48, 40, 5), origin=tuple(thin.points[2, 0, 0])
    )  # slices at 2, 7, 12: 11 lies in 9.5 to 14.5
    found = lesions(masks, series(thick))
    assert np.argwhere(found).tolist() == [[2, 20, 20]]


def test_fine_slices_of_a_thick_mask(tmp_path: Path) -> None:
    thick = around_lesion(AXES["axial"], (2.0, 2.0, 6.0), (24, 20, 6), (0.0, 0.0, 0.0))
    values = np.zeros((6, 20, 24), np.uint8)
    values[2, 10, 10] = 1
    first = np.array(thick.origin) - (0.5, 0.5, 2.5)
    fine = replace(thick, spacing=(1.0, 1.0, 1.0), size=(48, 40, 36), origin=tuple(first))
    masks = read_masks(write_volume(tmp_path / "mask.nrrd", thick, values))
    expected = np.kron(values, np.ones((6, 2, 2), np.uint8)) > 0
    np.testing.assert_array_equal(lesions(masks, series(fine)), expected)


def test_frames_of_an_enhanced_instance(tmp_path: Path) -> None:
    frames = []
    for index in (9, 4, 7):
        group, place = Dataset(), Dataset()
        place.ImagePositionPatient = slice_dataset(AXIAL, index).ImagePositionPatient
        group.PlanePositionSequence = [place]
        frames.append(group)
    dataset = slice_dataset(AXIAL, 0, NumberOfFrames=3, ImagePositionPatient=None)
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.PixelData = dataset.PixelData * 3
    masks = read_masks(write_volume(tmp_path / "mask.nii", AXIAL, AXIAL.holding()))
    found = masks.lesions_on(picture_of(dataset), NAME)
    np.testing.assert_array_equal(found.pixels, AXIAL.holding()[[9, 4, 7]] > 0)


# --- Which mask belongs to which picture -------------------------------------------------------


def test_another_frame_of_reference_is_refused(tmp_path: Path) -> None:
    masks = object_mask(tmp_path, AXIAL, "BINARY")
    other = slice_dataset(AXIAL, 7, FrameOfReferenceUID="1.2.9", SOPInstanceUID="1.2.9.1")
    assert "another frame of reference" in refusal(masks, picture_of(other))


def test_slices_of_its_series_beyond_its_frames_are_empty_and_others_refused(
    tmp_path: Path,
) -> None:
    masks = object_mask(tmp_path, AXIAL, "BINARY")
    marked = np.flatnonzero(AXIAL.holding().any(axis=(1, 2)))
    assert marked[0] > 1
    assert not masks.lesions_on(series(AXIAL)[0], NAME).pixels.any()
    other = {"SOPInstanceUID": "1.2.9.1", "SeriesInstanceUID": "1.2.9"}
    beyond = (marked[0] - 0.5) * AXIAL.spacing[2]
    message = refusal(masks, picture_of(slice_dataset(AXIAL, 0, **other)))
    assert f"{beyond:.1f} mm beyond" in message
    inside = masks.lesions_on(picture_of(slice_dataset(AXIAL, 7, **other)), NAME)
    np.testing.assert_array_equal(inside.pixels[0], AXIAL.holding()[7] > 0)


def without_places(dataset: Dataset) -> Dataset:
    del dataset.FrameOfReferenceUID
    for group in dataset.PerFrameFunctionalGroupsSequence:
        del group.PlanePositionSequence
    return dataset


def test_frames_without_place_belong_to_the_instances_they_were_made_from(tmp_path: Path) -> None:
    dataset = without_places(segmentation(AXIAL, AXIAL.holding()))
    masks = read_masks(write_object(tmp_path / "mask.dcm", dataset))
    pictures = [
        picture_of(slice_dataset(AXIAL, index, ImagePositionPatient=None)) for index in range(16)
    ]
    np.testing.assert_array_equal(lesions(masks, pictures), AXIAL.holding() > 0)
    stranger = slice_dataset(AXIAL, 7, SOPInstanceUID="1.2.9.1")
    assert "no frame of reference in common" in refusal(masks, picture_of(stranger))
    larger = slice_dataset(replace(AXIAL, size=(50, 40, 16)), 7)
    message = refusal(masks, picture_of(larger))
    assert "40 rows x 48 columns, the picture 40 x 50" in message


def test_frames_that_name_no_instance_are_refused(tmp_path: Path) -> None:
    dataset = without_places(segmentation(AXIAL, AXIAL.holding()))
    for group in dataset.PerFrameFunctionalGroupsSequence:
        del group.DerivationImageSequence
    masks = read_masks(write_object(tmp_path / "mask.dcm", dataset))
    assert "which picture its frames were made from" in refusal(masks, series(AXIAL)[7])


def test_a_picture_without_place_is_refused(tmp_path: Path) -> None:
    masks = read_masks(write_volume(tmp_path / "mask.nii", AXIAL, AXIAL.holding()))
    nowhere = picture_of(slice_dataset(AXIAL, 7, ImagePositionPatient=None))
    assert "Image Position (Patient) is missing" in refusal(masks, nowhere)
    photo = read_raster(build_png(np.zeros((40, 48, 1), np.uint8)))
    assert "need a DICOM picture" in refusal(masks, photo)


def test_a_folder_gives_the_union_of_what_fits(tmp_path: Path) -> None:
    first, second = AXIAL.holding(), np.zeros_like(AXIAL.holding())
    second[7, 2, 3] = 1
    write_volume(tmp_path / "a.nii.gz", AXIAL, first)
    (tmp_path / "deeper").mkdir()
    write_volume(tmp_path / "deeper" / "b.mha", AXIAL, second)
    write_volume(tmp_path / "c.nrrd", AXIAL.moved(0, 200, 0), first)
    (tmp_path / "notes.txt").write_text("lesion")
    (tmp_path / ".hidden.nii").write_text("not one")
    write_object(tmp_path / "picture.dcm", slice_dataset(AXIAL, 0))
    masks = read_masks(tmp_path)
    assert not masks.is_one_file
    expected = (first | second) > 0
    np.testing.assert_array_equal(lesions(masks, series(AXIAL)), expected)
    elsewhere = series(AXIAL.moved(400, 0, 0))[7]
    assert "none of 3 masks fits" in refusal(masks, elsewhere)


def test_the_digest_knows_masks_apart(tmp_path: Path) -> None:
    path = write_volume(tmp_path / "mask.mhd", AXIAL, AXIAL.holding())
    first = read_masks(path).digest
    assert read_masks(path).digest == first
    write_volume(path, AXIAL, np.roll(AXIAL.holding(), 1, axis=0))
    assert read_masks(path).digest != first
    assert len(first) == 32
