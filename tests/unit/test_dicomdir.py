"""DICOMDIRs that are made for protected files, read back by pydicom and judged by dciodvfy."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import warnings
from collections import Counter
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath

import pytest
from helpers import build_dataset, encode, ramp
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.fileset import FileSet
from pydicom.uid import generate_uid

from miad_cli.errors import PictureFailed
from miad_cli.imaging.dicomdir import build_dicomdir, file_set_id_of

UID = "2.25.1234567890"


def instance(patient: str = "P1", study: str = "1", series: str = "1", **attributes) -> Dataset:
    dataset = build_dataset(ramp())
    dataset.PatientID, dataset.PatientName = patient, "Nobody^At All"
    dataset.StudyInstanceUID = f"1.2.3.{study}"
    dataset.SeriesInstanceUID = f"1.2.3.{study}.{series}"
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20200102", "030405", "7"
    dataset.SeriesNumber, dataset.InstanceNumber = 3, 5
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def written(folder: Path, **files: Dataset) -> list[PurePosixPath]:
    """Data sets as files; `__` in a name is a folder."""
    names = [PurePosixPath(name.replace("__", "/")) for name in files]
    for name, dataset in zip(names, files.values(), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encode(dataset))
    return names


@dataclass(frozen=True)
class Entry:
    """What pydicom finds about one file by following the records of a DICOMDIR."""

    path: str
    kind: str
    patient: str
    study: str
    series: str
    sop_instance_uid: str


def entries_of(folder: Path, names: list[PurePosixPath]) -> list[Entry]:
    """The file-set as pydicom reads it from the DICOMDIR that is made."""
    (folder / "DICOMDIR").write_bytes(build_dicomdir(folder, names, UID))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # pydicom leaves a folder behind
        file_set = FileSet(folder / "DICOMDIR")
        entries = [
            Entry(
                Path(one.path).relative_to(folder).as_posix(),
                one.node.record_type,
                one.PatientID,
                one.StudyInstanceUID,
                one.SeriesInstanceUID,
                one.ReferencedSOPInstanceUIDInFile,
            )
            for one in file_set
        ]
        del file_set
        gc.collect()
    return entries


@pytest.fixture
def medium(tmp_path: Path) -> list[PurePosixPath]:
    return written(
        tmp_path,
        A__IM1=instance("P1", "1", "1"),
        A__IM2=instance("P1", "1", "1"),
        A__IM3=instance("P1", "1", "2"),
        B__IM1=instance("P1", "2", "1"),
        C__IM1=instance("P2", "3", "1"),
    )


def test_every_file_is_found_through_its_directory(tmp_path: Path, medium) -> None:
    entries = entries_of(tmp_path, medium)

    assert sorted(one.path for one in entries) == [str(name) for name in medium]
    for one in entries:
        dataset = dcmread(tmp_path / one.path)
        assert one == Entry(
            one.path,
            "IMAGE",
            dataset.PatientID,
            dataset.StudyInstanceUID,
            dataset.SeriesInstanceUID,
            dataset.SOPInstanceUID,
        )


def test_each_patient_study_and_series_has_one_record(tmp_path: Path, medium) -> None:
    read = dcmread(BytesIO(build_dicomdir(tmp_path, medium, UID)))

    kinds = Counter(record.DirectoryRecordType for record in read.DirectoryRecordSequence)
    assert kinds == {"PATIENT": 2, "STUDY": 3, "SERIES": 4, "IMAGE": 5}


def test_records_say_what_the_files_say(tmp_path: Path, medium) -> None:
    read = dcmread(BytesIO(build_dicomdir(tmp_path, medium, UID, "A_DISC")))
    by_type = {record.DirectoryRecordType: record for record in read.DirectoryRecordSequence}

    assert read.file_meta.MediaStorageSOPInstanceUID == UID
    assert read.FileSetID == "A_DISC"
    assert by_type["PATIENT"].PatientName == "Nobody^At All"
    assert by_type["STUDY"].StudyID == "7"
    assert by_type["SERIES"].Modality == "CT"
    assert by_type["IMAGE"].InstanceNumber == 5
    assert by_type["IMAGE"].ReferencedFileID == ["C", "IM1"]


def test_numbers_that_a_file_lacks_are_counted(tmp_path: Path) -> None:
    first, second = instance(), instance()
    for dataset in (first, second):
        del dataset.InstanceNumber, dataset.SeriesNumber, dataset.StudyID
    names = written(tmp_path, IM1=first, IM2=second)

    records = dcmread(BytesIO(build_dicomdir(tmp_path, names, UID))).DirectoryRecordSequence

    assert [one.InstanceNumber for one in records if "InstanceNumber" in one] == [1, 2]
    assert [one.SeriesNumber for one in records if "SeriesNumber" in one] == [1]
    assert [one.StudyID for one in records if "StudyID" in one] == ["1"]


def test_a_study_without_a_date_takes_that_of_its_series(tmp_path: Path) -> None:
    dataset = instance(SeriesDate="20210304", SeriesTime="0506")
    del dataset.StudyDate, dataset.StudyTime
    names = written(tmp_path, IM1=dataset)

    records = dcmread(BytesIO(build_dicomdir(tmp_path, names, UID))).DirectoryRecordSequence

    assert [one.StudyDate for one in records if "StudyDate" in one] == ["20210304"]


def test_names_in_lower_case_are_named_in_upper_case(tmp_path: Path) -> None:
    names = written(tmp_path, images__im1=instance())

    records = dcmread(BytesIO(build_dicomdir(tmp_path, names, UID))).DirectoryRecordSequence

    assert records[-1].ReferencedFileID == ["IMAGES", "IM1"]


def test_objects_without_a_picture_get_records_of_their_kind(tmp_path: Path) -> None:
    kinds = {"IM1": "test-SR.dcm", "IM2": "rtplan.dcm", "IM3": "rtdose.dcm"}
    datasets = {}
    for name, bundled in kinds.items():
        datasets[name] = dcmread(get_testdata_file(bundled))
        for keyword in ("PatientID", "StudyDate", "StudyTime"):
            if not datasets[name].get(keyword):
                setattr(datasets[name], keyword, "20200101" if "Date" in keyword else "101010")
    names = written(tmp_path, **datasets)

    found = {one.path: one.kind for one in entries_of(tmp_path, names)}

    assert found == {"IM1": "SR DOCUMENT", "IM2": "RT PLAN", "IM3": "RT DOSE"}


@pytest.mark.parametrize(
    "name", ["a.dcm", "TOOLONGNAME", "A/B/C/D/E/F/G/H/I", "GRÜN", "A B", "IM-1"]
)
def test_a_name_that_no_medium_takes_is_refused(tmp_path: Path, name: str) -> None:
    names = written(tmp_path, **{name.replace("/", "__"): instance()})

    with pytest.raises(PictureFailed, match="no name for removable media"):
        build_dicomdir(tmp_path, names, UID)


@pytest.mark.parametrize("keyword", ["PatientID", "StudyDate", "StudyInstanceUID", "Modality"])
def test_a_file_without_what_its_record_needs_is_refused(tmp_path: Path, keyword: str) -> None:
    dataset = instance()
    delattr(dataset, keyword)
    names = written(tmp_path, IM1=dataset)

    with pytest.raises(PictureFailed, match=f"IM1 has no {keyword}"):
        build_dicomdir(tmp_path, names, UID)


def test_names_that_differ_in_case_alone_are_refused(tmp_path: Path) -> None:
    names = written(tmp_path, IM1=instance(), im1=instance())

    with pytest.raises(PictureFailed, match="two files would have the same name"):
        build_dicomdir(tmp_path, names, UID)


def test_what_is_no_dicom_or_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "TEXT").write_bytes(b"nothing of the kind")
    strange = instance(SOPClassUID="1.2.840.10008.5.1.4.38.1")
    del strange.Rows
    names = written(tmp_path, STRANGE=strange)

    with pytest.raises(PictureFailed, match="TEXT cannot be read as DICOM"):
        build_dicomdir(tmp_path, [PurePosixPath("TEXT")], UID)
    with pytest.raises(PictureFailed, match="kind of object in STRANGE"):
        build_dicomdir(tmp_path, names, UID)
    with pytest.raises(PictureFailed, match="no file for it to name"):
        build_dicomdir(tmp_path, [], UID)


def test_the_name_of_a_medium_is_read_or_left_empty() -> None:
    with open(get_testdata_file("DICOMDIR"), "rb") as opened:
        assert file_set_id_of(opened.read()) == "PYDICOM_TEST"
    assert file_set_id_of(b"no directory") == ""


def test_dciodvfy_has_nothing_against_it(tmp_path: Path, medium) -> None:
    if shutil.which("dciodvfy") is None:
        message = "dciodvfy is not installed (Debian: dicom3tools)"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    (tmp_path / "DICOMDIR").write_bytes(build_dicomdir(tmp_path, medium, UID, "A_DISC"))

    said = subprocess.run(
        ["dciodvfy", "-new", tmp_path / "DICOMDIR"], capture_output=True, text=True, check=False
    )

    lines = (said.stdout + said.stderr).splitlines()
    assert any("BasicDirectory" in line for line in lines)
    assert [line for line in lines if line.startswith(("Error", "Abort"))] == []
