"""Files are grouped into series by their headers, and volumes ordered by geometry."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from miad_cli.files import collect_inputs
from miad_cli.study import Header, read_header, survey

AXIAL = [1, 0, 0, 0, 1, 0]
OBLIQUE = [0.8, 0.6, 0, 0, 0, -1]


def write_slice(path: Path, number: int, **attributes: object) -> Path:
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, f"1.2.3.{number}"
    made.SeriesInstanceUID, made.FrameOfReferenceUID = "1.2.9", "1.2.8"
    made.Rows = made.Columns = 16
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    made.PixelData = bytes(256)
    made["PixelData"].VR = "OB"
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    target = BytesIO()
    made.save_as(target, enforce_file_format=True)
    path.write_bytes(target.getvalue())
    return path


def names(files) -> list[str]:
    return [file.path.name for file in files]


@pytest.mark.parametrize("direction", [AXIAL, OBLIQUE])
def test_slices_of_a_volume_are_ordered_along_their_normal(
    tmp_path: Path, direction: list[float]
) -> None:
    normal = np.cross(direction[:3], direction[3:])
    for name, place in (("a", 5.0), ("b", -3.0), ("c", 1.5), ("d", 0.0)):
        position = (np.array([7.0, -9.0, 2.0]) + place * normal).tolist()
        write_slice(
            tmp_path / name,
            ord(name),
            ImagePositionPatient=position,
            ImageOrientationPatient=direction,
        )
    study = survey(collect_inputs([tmp_path]))
    (group,) = study.groups
    assert group.is_volume
    assert names(group.files) == ["b", "d", "c", "a"]


def test_one_series_of_two_directions_or_sizes_makes_several_groups(tmp_path: Path) -> None:
    for number in range(8):
        direction = AXIAL if number < 4 else OBLIQUE
        write_slice(
            tmp_path / f"{number}",
            number,
            ImagePositionPatient=[0, 0, number],
            ImageOrientationPatient=direction,
            **({"Rows": 8, "Columns": 32} if number == 3 else {}),
        )
    groups = survey(collect_inputs([tmp_path])).groups
    assert sorted(len(group.files) for group in groups) == [1, 3, 4]


def test_slices_at_one_place_are_no_volume(tmp_path: Path) -> None:
    for number in range(4):
        place = {"ImagePositionPatient": [0, 0, 5], "ImageOrientationPatient": AXIAL}
        write_slice(tmp_path / f"{number}", number, **place)
    (group,) = survey(collect_inputs([tmp_path])).groups
    assert not group.is_volume
    assert len(group.files) == 4


def test_every_file_is_in_one_group_whatever_it_is(tmp_path: Path) -> None:
    write_slice(tmp_path / "flat1", 1)
    write_slice(tmp_path / "flat2", 2)
    write_slice(tmp_path / "cine", 3, NumberOfFrames=4)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "empty.dcm").write_bytes(b"")
    (tmp_path / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 64)
    (tmp_path / "link.dcm").symlink_to(tmp_path / "flat1")
    files = collect_inputs([tmp_path])
    study = survey(files)
    grouped = [file for group in study.groups for file in group.files]
    assert sorted(names(grouped)) == sorted(names(files))
    assert {len(group.files) for group in study.groups} == {1, 2}
    assert not any(group.is_volume for group in study.groups)
    assert set(study.by_sop_uid) == {"1.2.3.1", "1.2.3.2", "1.2.3.3"}


def test_first_of_two_files_with_one_uid_stands_for_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_slice(tmp_path / name, 1)
    study = survey(collect_inputs([tmp_path]))
    assert study.by_sop_uid["1.2.3.1"].path.name == "a"


def test_deflated_file_is_not_unpacked_for_its_header(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "a", 1)
    assert read_header(path).sop_uid == "1.2.3.1"
    made = dcmread(path)
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    made.save_as(path)
    assert dcmread(path).SOPInstanceUID == "1.2.3.1"
    assert read_header(path) == Header()


@pytest.mark.parametrize(
    "attributes",
    [
        {"ImagePositionPatient": [0, 0], "ImageOrientationPatient": AXIAL},
        {"ImagePositionPatient": [0, 0, 1]},
        {"ImagePositionPatient": [0, 0, 1], "ImageOrientationPatient": AXIAL, "NumberOfFrames": 3},
    ],
)
def test_geometry_that_is_not_whole_makes_no_stack(tmp_path: Path, attributes: dict) -> None:
    assert read_header(write_slice(tmp_path / "a", 1, **attributes)).stack is None
