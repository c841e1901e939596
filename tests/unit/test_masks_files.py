"""Files that are masks of another kind, broken, too large, or no masks at all."""

from __future__ import annotations

import gzip
import struct
import time
import tracemalloc
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import SimpleITK
from helpers import build_png, encode, picture_of
from patients import (
    AXES,
    FRAME_OF_REFERENCE,
    LESION,
    around_lesion,
    segmentation,
    series,
    slice_dataset,
    write_object,
    write_volume,
)
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless

from miad_cli.errors import MaskUnusable
from miad_cli.imaging.masks import Masks, read_masks
from miad_cli.imaging.raster import RasterPicture, read_raster

AXIAL = around_lesion(AXES["axial"])
VALUES = AXIAL.holding()
NAME = PurePosixPath("IM1.dcm")


def refused(path: Path) -> str:
    """Why a file is no mask; it takes neither time nor memory to find out."""
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(MaskUnusable) as error:
        read_masks(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error.value.exit_code == 12
    assert peak < 64 << 20 and time.perf_counter() - started < 10
    assert "miad-" not in error.value.message  # the copy that is read
    return error.value.message


def patched(path: Path, *changes: tuple[int, str, Any]) -> Path:
    content = bytearray(path.read_bytes())
    for offset, kind, value in changes:
        struct.pack_into(f"<{kind}", content, offset, value)
    path.write_bytes(content)
    return path


def replaced(path: Path, old: bytes, new: bytes) -> Path:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


# --- NIfTI -------------------------------------------------------------------------------------

QFORM, SFORM, OFFSET_X, ROW_X, UNITS, SIZE, MAGIC = 252, 254, 268, 292, 123, 42, 344


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ([(QFORM, "h", 0), (SFORM, "h", 0)], "qform and sform code 0"),
        ([(SFORM, "h", 4)], "a template"),
        ([(UNITS, "B", 1)], "not in millimetres"),
        ([(OFFSET_X, "f", 77.0)], "two positions (qform and sform)"),
        ([(ROW_X, "f", 77.0)], "two positions (qform and sform)"),
        ([(280, "f", 1.0)], "two positions (qform and sform)"),
        ([(OFFSET_X, "f", np.nan), (ROW_X, "f", np.nan)], "position, direction or spacing"),
        ([(OFFSET_X, "f", 1e9), (ROW_X, "f", 1e9)], "position, direction or spacing"),
        ([(SIZE, "h", 30000), (SIZE + 2, "h", 30000)], "MiB of voxels; the limit is 2048 MiB"),
        ([(SIZE, "h", 60)], "cut short: 31072 bytes where 38752 belong"),
        ([(SIZE, "h", -5)], "no usable size"),
        ([(MAGIC, "3s", b"ni1")], "in one file"),
        ([(QFORM, "h", 0), (284, "f", 0.3)], "cannot be read"),
    ],
)
def test_nifti_that_cannot_be_placed_is_refused(
    tmp_path: Path, changes: list[tuple[int, str, Any]], reason: str
) -> None:
    path = patched(write_volume(tmp_path / "mask.nii", AXIAL, VALUES), *changes)
    assert reason in refused(path)


@pytest.mark.parametrize("unused", [QFORM, SFORM])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_either_position_of_nifti_is_enough(tmp_path: Path, unused: int, axis: int) -> None:
    grid = around_lesion(AXES["oblique"]).reversed(axis)
    path = patched(write_volume(tmp_path / "mask.nii", grid, grid.holding()), (unused, "h", 0))
    found = [read_masks(path).lesions_on(picture, NAME).pixels for picture in series(grid)]
    # A grid that is reversed along its slices is the series' own all the same.
    np.testing.assert_array_equal(np.concatenate(found), grid.holding() > 0)


def test_a_packed_file_is_checked_to_its_end(tmp_path: Path) -> None:
    path = write_volume(tmp_path / "mask.nii.gz", AXIAL, VALUES)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "damaged" in refused(path)
    path.write_bytes(whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:])
    assert "damaged" in refused(path)
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:-100]))
    assert "cut short" in refused(path)


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miad_cli.imaging.mask_volumes.LARGEST_DECODED", 3 << 20)
    whole = write_volume(tmp_path / "mask.nii", AXIAL, VALUES).read_bytes()
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(whole + bytes(50 << 20)))
    assert "unpacks to more than 3 MiB" in refused(path)


# --- NRRD and MetaImage ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "old", "new", "reason"),
    [
        ("nrrd", b"space: left-posterior-superior", b"space dimension: 3", "where in the patient"),
        ("nrrd", b"left-posterior-superior", b"scanner-xyz", "where in the patient"),
        ("nrrd", b"space origin:", b"# space origin:", "where in the patient"),
        ("nrrd", b"encoding: raw", b"data file: /etc/passwd\nencoding: raw", "another file"),
        ("nrrd", b"sizes: 48 40 16", b"sizes: 48000 40000 16000", "MiB of voxels"),
        ("nrrd", b"sizes: 48 40 16", b"sizes: 48 40 17", "damaged"),
        ("mha", b"Offset", b"Offsat", "no Offset"),
        ("mha", b"TransformMatrix", b"TransfarmMatrix", "no TransformMatrix"),
        ("mha", b"= LOCAL", b"= /etc/passwd", "one file beside it"),
        ("mha", b"= LOCAL", b"= ../../secret.raw", "one file beside it"),
        ("mha", b"= LOCAL", b"= LIST", "one file beside it"),
        ("mha", b"= LOCAL", b"= absent.raw", "not beside it"),
        ("mha", b"DimSize = 48 40 16", b"DimSize = 48000 40000 16000", "MiB of voxels"),
        ("mha", b"ElementSpacing = 1 1 2", b"ElementSpacing = 1 0 2", "read"),
    ],
)
def test_headers_that_cannot_be_followed_are_refused(
    tmp_path: Path, suffix: str, old: bytes, new: bytes, reason: str
) -> None:
    path = replaced(write_volume(tmp_path / f"mask.{suffix}", AXIAL, VALUES), old, new)
    assert reason in refused(path)


def test_nrrd_from_right_to_left_is_turned(tmp_path: Path) -> None:
    path = write_volume(tmp_path / "mask.nrrd", AXIAL, VALUES)
    x, y, z = AXIAL.origin
    head, values = path.read_bytes().split(b"\n\n", 1)
    lines = [
        b"space: right-anterior-superior" if line.startswith(b"space:") else
        b"space directions: (-1,0,0) (0,-1,0) (0,0,2)" if line.startswith(b"space dir") else
        f"space origin: ({-x},{-y},{z})".encode() if line.startswith(b"space origin") else line
        for line in head.split(b"\n")
    ]  # fmt: skip
    path.write_bytes(b"\n".join(lines) + b"\n\n" + values)
    found = read_masks(path).lesions_on(series(AXIAL)[7], NAME)
    np.testing.assert_array_equal(found.pixels[0], VALUES[7] > 0)


@pytest.mark.parametrize("suffix", ["nii", "nrrd", "mha"])
@pytest.mark.parametrize(
    ("shape", "vector"), [((40, 48), False), ((2, 16, 40, 48), False), ((16, 40, 48, 3), True)]
)
def test_flat_colour_and_four_dimensions_are_refused(
    tmp_path: Path, suffix: str, shape: tuple[int, ...], vector: bool
) -> None:
    path = tmp_path / f"mask.{suffix}"
    image = SimpleITK.GetImageFromArray(np.ones(shape, np.uint8), isVector=vector)
    SimpleITK.WriteImage(image, str(path))
    assert "not a usable mask" in refused(path)


def test_a_sheared_volume_is_followed(tmp_path: Path) -> None:
    """As of a gantry that is tilted: slices lie at right angles to none of the other axes."""
    path = write_volume(tmp_path / "mask.nrrd", AXIAL, VALUES)
    replaced(path, b"(0,0,2)", b"(0,0.05,2)")
    pictures = series(AXIAL)
    for index in (5, 7, 9):
        found = read_masks(path).lesions_on(pictures[index], NAME).pixels[0]
        shift = 0.05 * index  # of a row, to the front
        assert 0.2 < shift < 0.5
        expected = VALUES[index].astype(bool)
        expected[1:] |= expected[:-1].copy()  # both rows that a voxel lies in now
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (VALUES.astype(np.float32) - 1, "negative values"),
        (np.where(VALUES, np.float32(np.nan), 0).astype(np.float32), "no numbers"),
        (np.arange(VALUES.size).reshape(VALUES.shape).astype(np.int16) % 3000, "different values"),
        (VALUES * np.float32(2.5), "neither labels nor"),
        (VALUES * np.float32(1e9), "neither labels nor"),
    ],
)
def test_pictures_are_no_masks(tmp_path: Path, values: np.ndarray, reason: str) -> None:
    assert reason in refused(write_volume(tmp_path / "mask.nrrd", AXIAL, values))


@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "i8", "f4", "f8"])
def test_labels_of_any_type_are_masks(tmp_path: Path, dtype: str) -> None:
    masks = read_masks(write_volume(tmp_path / "mask.mha", AXIAL, (VALUES * 7).astype(dtype)))
    np.testing.assert_array_equal(masks.lesions_on(series(AXIAL)[7], NAME).pixels[0], VALUES[7] > 0)


# --- DICOM -------------------------------------------------------------------------------------


def change(**attributes: Any) -> Dataset:
    dataset = segmentation(AXIAL, VALUES)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        (slice_dataset(AXIAL, 0), "CT Image Storage, not a mask"),
        (change(PixelData=b"\0\0"), "cut short: 2 bytes where"),
        (change(Rows=65535, Columns=65535), "MiB of pixels"),
        (change(NumberOfFrames=3), "not as many as its frames"),
        (change(BitsAllocated=32), "usable pixels"),
        (change(DimensionOrganizationType="TILED_FULL"), "a slide"),
    ],
    ids=["ct", "short", "large", "frames", "bits", "slide"],
)
def test_other_dicom_objects_are_refused(tmp_path: Path, dataset: Dataset, reason: str) -> None:
    assert reason in refused(write_object(tmp_path / "mask.dcm", dataset))


def test_broken_dicom_is_refused(tmp_path: Path) -> None:
    whole = encode(segmentation(AXIAL, VALUES))
    path = tmp_path / "mask.dcm"
    for length in range(140, len(whole), 997):
        path.write_bytes(whole[:length])
        assert str(path) in refused(path)


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, RLELossless])
def test_compressed_segmentations_are_read(tmp_path: Path, syntax: str) -> None:
    kind = "LABELMAP" if syntax == RLELossless else "BINARY"
    more = {"transfer_syntax_uid": syntax} if syntax == RLELossless else {}
    dataset = segmentation(AXIAL, VALUES, kind, **more)
    dataset.file_meta.TransferSyntaxUID = syntax
    masks = read_masks(write_object(tmp_path / "mask.dcm", dataset))
    np.testing.assert_array_equal(masks.lesions_on(series(AXIAL)[7], NAME).pixels[0], VALUES[7] > 0)


def structure_set(
    kind: str = "GTV", space: str = FRAME_OF_REFERENCE, turned: bool = False
) -> bytes:
    """The lesion as contours, 2 mm apart, in axial or coronal planes."""
    dataset, space_of, seen, region = Dataset(), Dataset(), Dataset(), Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    dataset.SOPInstanceUID, dataset.Modality = "1.2.3.4.12", "RTSTRUCT"
    space_of.ROINumber, space_of.ReferencedFrameOfReferenceUID = 4, space
    seen.ReferencedROINumber, seen.RTROIInterpretedType = 4, kind
    dataset.StructureSetROISequence, dataset.RTROIObservationsSequence = [space_of], [seen]
    region.ReferencedROINumber, region.ContourSequence = 4, []
    fixed, one, two = (1, 0, 2) if turned else (2, 0, 1)
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    for offset in np.arange(-10, 10.1, 2.0):
        height = 1 - (offset / LESION.radii[fixed]) ** 2
        if height <= 0:
            continue
        points = np.zeros((90, 3))
        points[:, fixed] = LESION.centre[fixed] + offset
        points[:, one] = LESION.centre[one] + np.sqrt(height) * LESION.radii[one] * np.cos(angles)
        points[:, two] = LESION.centre[two] + np.sqrt(height) * LESION.radii[two] * np.sin(angles)
        contour = Dataset()
        contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", 90
        contour.ContourData = [f"{value:.4f}" for value in points.reshape(-1)]
        region.ContourSequence.append(contour)
    dataset.ROIContourSequence = [region]
    return encode(dataset)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("turned", [False, True])
def test_contours_are_filled_in_patient_coordinates(
    tmp_path: Path, axes: str, turned: bool
) -> None:
    (tmp_path / "rs.dcm").write_bytes(structure_set(turned=turned))
    masks = read_masks(tmp_path / "rs.dcm")
    grid = around_lesion(AXES[axes], (1.0, 1.0, 2.0), (44, 40, 18))
    found = np.concatenate([masks.lesions_on(one, NAME).pixels for one in series(grid)])
    depth = LESION.depth(grid.points)
    assert found[depth > 1].all()
    assert depth[found].min() > -np.sqrt(3) * (2 + 4) / 2


def test_contours_of_the_body_or_of_another_space(tmp_path: Path) -> None:
    path = tmp_path / "rs.dcm"
    path.write_bytes(structure_set("EXTERNAL"))
    assert "without a closed contour of a finding" in refused(path)
    path.write_bytes(structure_set(space="1.2.9"))
    with pytest.raises(MaskUnusable, match="another frame of reference"):
        read_masks(path).lesions_on(series(AXIAL)[7], NAME)


# --- PNG ---------------------------------------------------------------------------------------

SPOT = np.zeros((40, 48, 1), np.uint8)
SPOT[5:9, 30:33] = 255


def photo(rows: int = 40, columns: int = 48) -> RasterPicture:
    return read_raster(build_png(np.full((rows, columns, 3), 90, np.uint8)))


def with_pngs(folder: Path, *names: str) -> Masks:
    for count, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        marked = SPOT.copy()
        marked[0, count] = 1  # says which of them was taken
        path.write_bytes(build_png(marked))
    return read_masks(folder)


@pytest.mark.parametrize(
    ("masks", "picture", "taken"),
    [
        (["a.png", "b.png"], "b.png", {1}),
        (["a_mask.png", "b_Segmentation.png"], "b.dcm", {1}),
        (["b.dcm.png"], "b.dcm", {0}),
        (["b.png"], "study/one/b.jpg", {0}),
        (["one/b.png", "two/b.png"], "study/two/b.png", {1}),
        (["set/study/b.png"], "study/b.png", {0}),
        (["b.png", "b_mask.png"], "b.png", {1}),
        (["b_mask.png", "b_mask_1.png", "c_mask.png"], "b.png", {0, 1}),
        (["b.png", "two/b_mask.png", "two/b.png"], "two/b.png", {1}),
        (["a.png"], "b.png", None),
        (["one/b.png"], "two/b.png", None),
        (["ab.png", "b1.png"], "b.png", None),
    ],
)
def test_a_png_belongs_to_the_picture_of_its_name(
    tmp_path: Path, masks: list[str], picture: str, taken: set[int] | None
) -> None:
    found = with_pngs(tmp_path, *masks)
    if taken is None:
        with pytest.raises(MaskUnusable, match="no mask belongs"):
            found.lesions_on(photo(), PurePosixPath(picture))
        return
    lesions = found.lesions_on(photo(), PurePosixPath(picture))
    assert lesions.source == "PNG"
    assert set(np.flatnonzero(lesions.pixels[0, 0])) == taken
    np.testing.assert_array_equal(lesions.pixels[0, 1:], SPOT[1:, :, 0] > 0)


def test_names_that_fit_twice_are_refused(tmp_path: Path) -> None:
    masks = with_pngs(tmp_path, "one/b.png", "two/b.png")
    with pytest.raises(MaskUnusable, match="several masks"):
        masks.lesions_on(photo(), PurePosixPath("b.png"))


def test_a_png_for_several_pictures_is_refused(tmp_path: Path) -> None:
    masks = with_pngs(tmp_path / "all", "b.png", "c.png")
    masks.check_names([PurePosixPath("one/b.dcm"), PurePosixPath("one/c.dcm")])
    with pytest.raises(MaskUnusable, match=r"b\.png.*one/b\.dcm or two/b\.dcm"):
        masks.check_names([PurePosixPath("one/b.dcm"), PurePosixPath("two/b.dcm")])
    alone = read_masks(tmp_path / "all" / "b.png")
    assert alone.is_one_file
    alone.check_names([PurePosixPath("any.dcm")])
    assert alone.lesions_on(photo(), PurePosixPath("any.dcm")).pixels.any()
    with pytest.raises(MaskUnusable):
        alone.check_names([PurePosixPath("any.dcm"), PurePosixPath("b.dcm")])


def test_a_png_marks_every_frame_of_a_dicom_picture(tmp_path: Path) -> None:
    masks = with_pngs(tmp_path, "IM1.png")
    dataset = slice_dataset(AXIAL, 0, NumberOfFrames=3)
    dataset.PixelData = dataset.PixelData * 3
    pixels = masks.lesions_on(picture_of(dataset), NAME).pixels
    assert pixels.shape == (3, 40, 48)
    np.testing.assert_array_equal(pixels[2, 1:], SPOT[1:, :, 0] > 0)


def png(path: Path, samples: np.ndarray, mode: str | None = None, palette: Any = None) -> Path:
    if mode is None:
        path.write_bytes(build_png(samples))
    else:
        image = Image.fromarray(samples[..., 0]).convert("L")
        if palette:
            image = Image.frombytes("P", image.size, image.tobytes())
            image.putpalette(palette)
        image.convert(mode).save(path)
    return path


@pytest.mark.parametrize("kind", ["8 bit", "16 bit", "1 bit", "palette", "grey as RGB", "opaque"])
def test_whatever_is_not_black_is_marked(tmp_path: Path, kind: str) -> None:
    path, ones = tmp_path / "m.png", SPOT // 255
    if kind == "8 bit":
        png(path, ones)
    elif kind == "16 bit":
        png(path, ones.astype(np.uint16))
    elif kind == "1 bit":
        png(path, SPOT, "1")
    elif kind == "palette":
        png(path, ones, "P", [0, 0, 0, 0, 0, 200])
    elif kind == "grey as RGB":
        png(path, SPOT.repeat(3, axis=2))
    else:
        png(path, np.concatenate([SPOT, np.full_like(SPOT, 255)], axis=2))
    pixels = read_masks(path).lesions_on(photo(), NAME).pixels
    np.testing.assert_array_equal(pixels[0], SPOT[..., 0] > 0)


@pytest.mark.parametrize("kind", ["colour", "transparent", "white palette", "size", "broken"])
def test_unclear_pngs_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.png"
    if kind == "colour":
        png(path, np.concatenate([SPOT, SPOT, SPOT * 0], axis=2))
    elif kind == "transparent":
        png(path, np.concatenate([SPOT, SPOT], axis=2))
    elif kind == "white palette":
        png(path, SPOT // 255, "P", [255, 255, 255, 200, 0, 0])
    else:
        png(path, SPOT if kind == "broken" else SPOT[:-1])
        if kind == "broken":
            path.write_bytes(path.read_bytes()[:60])
    reasons = {
        "colour": "in colour", "transparent": "transparent", "white palette": "not black",
        "size": "39 rows x 48 columns, the picture 40 x 48", "broken": "cannot be used",
    }  # fmt: skip
    with pytest.raises(MaskUnusable, match=reasons[kind]):
        read_masks(path).lesions_on(photo(), NAME)


# --- No masks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("m.txt", b"lesion", "an unknown file"),
        ("m.pdf", b"%PDF-1.7", "a PDF file"),
        ("m.jpg", b"\xff\xd8\xff\xe0", "a JPEG picture"),
        ("m.tif", b"II*\0", "a TIFF picture"),
        ("m.zip", b"PK\3\4", "a ZIP archive"),
        ("m", b"", "an empty file"),
        ("m.nii.gz", b"\x1f\x8bnot packed", "not what its name says"),
        ("m.nrrd", b"nothing", "not what its name says"),
        ("m.dcm", b"nothing", "not what its name says"),
    ],
)
def test_other_files_are_refused_with_their_kind(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert reason in refused(tmp_path / name)
    folder = refused(tmp_path)
    assert ("there is no mask" in folder) != ("not what its name says" in folder)


def test_nothing_there(tmp_path: Path) -> None:
    assert "no such file or folder" in refused(tmp_path / "absent")
    assert "there is no mask in this folder" in refused(tmp_path)


def test_links_are_not_followed(tmp_path: Path) -> None:
    elsewhere = write_volume(tmp_path / "mask.nii", AXIAL, VALUES)
    folder = tmp_path / "masks"
    folder.mkdir()
    (folder / "mask.nii").symlink_to(elsewhere)
    assert "there is no mask" in refused(folder)
    header = write_volume(tmp_path / "m.mhd", AXIAL, VALUES)
    (tmp_path / "m.raw").rename(tmp_path / "other.raw")
    (tmp_path / "m.raw").symlink_to(tmp_path / "other.raw")
    assert "not beside it" in refused(header)


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("miad_cli.imaging.masks.read_volume", fails)
    path = write_volume(tmp_path / "mask.nii", AXIAL, VALUES)
    assert "cannot be read (Permission denied)" in refused(path)
