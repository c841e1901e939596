"""A DICOMDIR for files as they stand in a folder (PS3.3 Annex F, PS3.10 Section 8).

The records are made from the files themselves, so that nothing of an older directory, with its
UIDs and its icons, is carried over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import zip_longest
from pathlib import Path, PurePosixPath

from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    UID,
    ExplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from miad_cli import __version__
from miad_cli.errors import PictureFailed

DICOMDIR = "DICOMDIR"

_NO_DIRECTORY = "no DICOMDIR was made"
_IN_USE = 0xFFFF
_COMPONENT = re.compile("[A-Z0-9_]{1,8}")
"""One of at most 8 components of a File ID (PS3.10 Section 8.5)."""

_TYPE_BY_CLASS = {
    "4.2": "SPECTROSCOPY",
    "66": "RAW DATA",
    "66.1": "REGISTRATION",
    "66.2": "FIDUCIAL",
    "66.3": "REGISTRATION",
    "66.5": "SURFACE",
    "67": "VALUE MAP",
    "77.1.5.3": "STEREOMETRIC",
    "88.59": "KEY OBJECT DOC",
    "481.3": "RT STRUCTURE SET",
    "481.4": "RT TREAT RECORD",
    "481.5": "RT PLAN",
    "481.6": "RT TREAT RECORD",
    "481.7": "RT TREAT RECORD",
    "481.8": "RT PLAN",
    "481.9": "RT TREAT RECORD",
    "481.2": "RT DOSE",
}
_TYPE_BY_FAMILY = {"9": "WAVEFORM", "11": "PRESENTATION", "88": "SR DOCUMENT", "104": "ENCAP DOC"}
"""Directory Record Type (PS3.3 F.5) of what is no IMAGE, by the SOP class below
1.2.840.10008.5.1.4.1.1, or by the first number of it."""

_REQUIRED = {
    "PATIENT": ("PatientID",),
    "STUDY": ("StudyInstanceUID", "StudyDate", "StudyTime"),
    "SERIES": ("SeriesInstanceUID", "Modality"),
    "IMAGE": (),
    "RT DOSE": ("DoseSummationType",),
    "RT STRUCTURE SET": ("StructureSetLabel",),
    "RT PLAN": ("RTPlanLabel",),
    "RT TREAT RECORD": (),
    "PRESENTATION": ("PresentationCreationDate", "PresentationCreationTime", "ContentLabel"),
    "WAVEFORM": ("ContentDate", "ContentTime"),
    "SR DOCUMENT": (
        "CompletionFlag", "VerificationFlag", "ContentDate", "ContentTime",
        "ConceptNameCodeSequence",
    ),
    "KEY OBJECT DOC": ("ContentDate", "ContentTime", "ConceptNameCodeSequence"),
    "SPECTROSCOPY": (
        "ImageType", "ContentDate", "ContentTime", "NumberOfFrames", "Rows", "Columns",
        "DataPointRows", "DataPointColumns",
    ),
    "RAW DATA": ("ContentDate", "ContentTime"),
    "REGISTRATION": ("ContentDate", "ContentTime", "ContentLabel"),
    "FIDUCIAL": ("ContentDate", "ContentTime", "ContentLabel"),
    "ENCAP DOC": ("MIMETypeOfEncapsulatedDocument",),
    "VALUE MAP": ("ContentDate", "ContentTime", "ContentLabel"),
    "STEREOMETRIC": (),
    "SURFACE": ("ContentDate", "ContentTime", "ContentLabel"),
}  # fmt: skip
"""Keys of type 1 of each record (PS3.3 F.5), besides those in `_NUMBERED`."""

_NUMBERED = {"STUDY": "StudyID", "SERIES": "SeriesNumber"}
"""Keys of type 1 that many files lack, and that say nothing when they are counted instead; for
all other records Instance Number."""

_UNNUMBERED = ("PATIENT", "STEREOMETRIC")

_OPTIONAL = {
    "PATIENT": ("PatientName",),
    "STUDY": ("StudyDescription", "AccessionNumber"),
    "RT STRUCTURE SET": ("StructureSetDate", "StructureSetTime"),
    "RT PLAN": ("RTPlanDate", "RTPlanTime"),
    "RT TREAT RECORD": ("TreatmentDate", "TreatmentTime"),
    "PRESENTATION": ("ContentDescription", "ContentCreatorName", "ReferencedSeriesSequence"),
    "SR DOCUMENT": ("VerificationDateTime",),
    "REGISTRATION": ("ContentDescription", "ContentCreatorName"),
    "FIDUCIAL": ("ContentDescription", "ContentCreatorName"),
    "ENCAP DOC": ("ContentDate", "ContentTime", "DocumentTitle"),
    "VALUE MAP": ("ContentDescription", "ContentCreatorName"),
    "SURFACE": ("ContentDescription", "ContentCreatorName"),
}
"""Keys of type 2, which are there and empty where the file has none, but for sequences and
Verification DateTime (type 1C)."""

_ONLY_IF_THERE = ("ReferencedSeriesSequence", "VerificationDateTime")

_DATES = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
_TIMES = ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime")


@dataclass
class _Record:
    """A directory record and the records below it, by what tells them apart."""

    dataset: Dataset
    below: dict[str, _Record] = field(default_factory=dict)


def build_dicomdir(
    folder: Path, files: Iterable[PurePosixPath], sop_instance_uid: str, file_set_id: str = ""
) -> bytes:
    """A DICOMDIR that names `files`, in PATIENT, STUDY, SERIES and instance records.

    Args:
        folder: where the DICOMDIR will stand.
        files: DICOM files below it, relative to it; every one of them is named.
        sop_instance_uid: of the directory itself; also its File-set UID.
        file_set_id: a name for the medium, as in the original directory.

    Raises:
        PictureFailed: a file cannot be named in a DICOMDIR, because of its name or of what it
            lacks; the sentence says which and why.
    """
    root = _Record(Dataset())
    taken: set[tuple[str, ...]] = set()
    for name in files:
        file_id = _file_id(name)
        if file_id in taken:
            raise PictureFailed(f"{_NO_DIRECTORY}: two files would have the same name, {name}")
        taken.add(file_id)
        _enter(root, name, file_id, _header(folder / name, name))
    if not root.below:
        raise PictureFailed(f"{_NO_DIRECTORY}: there is no file for it to name")
    return _encode(root, sop_instance_uid, file_set_id)


def file_set_id_of(content: bytes) -> str:
    """The File-set ID of a DICOMDIR; empty where it has none or cannot be read."""
    try:
        value = dcmread(BytesIO(content), specific_tags=["FileSetID"]).get("FileSetID")
    except Exception:  # a broken directory makes pydicom raise anything
        return ""
    text = str(value or "")
    return text if re.fullmatch("[A-Z0-9_ ]{0,16}", text) else ""


def _file_id(name: PurePosixPath) -> tuple[str, ...]:
    """The components of a File ID. A medium that was mounted with its names in lower case keeps
    them in upper case in its directory."""
    components = tuple(part.upper() for part in name.parts)
    if len(components) > 8 or not all(_COMPONENT.fullmatch(part) for part in components):
        raise PictureFailed(
            f"{_NO_DIRECTORY}: {name} is no name for removable media",
            hint="A DICOMDIR takes up to 8 folders of up to 8 letters, digits or _, no dots.",
        )
    return components


def _header(path: Path, name: PurePosixPath) -> Dataset:
    try:
        dataset = dcmread(path, stop_before_pixels=True)
        UID(dataset.file_meta.TransferSyntaxUID)
    except Exception:  # a broken file makes pydicom raise anything
        raise PictureFailed(f"{_NO_DIRECTORY}: {name} cannot be read as DICOM") from None
    for keyword, substitutes in (("StudyDate", _DATES), ("StudyTime", _TIMES)):
        known = (dataset.get(one) for one in substitutes)
        setattr(dataset, keyword, next((value for value in known if value), None))
    return dataset


def _enter(root: _Record, name: PurePosixPath, file_id: Sequence[str], dataset: Dataset) -> None:
    """Put one file into the tree, with the records above it that are not there yet."""
    place = root
    for kind, key in (
        ("PATIENT", "PatientID"), ("STUDY", "StudyInstanceUID"), ("SERIES", "SeriesInstanceUID")
    ):  # fmt: skip
        value = str(dataset.get(key) or "")
        if value not in place.below:
            place.below[value] = _Record(_record(kind, dataset, name, len(place.below) + 1))
        place = place.below[value]
    record = _record(_type_of(dataset, name), dataset, name, len(place.below) + 1)
    record.ReferencedFileID = list(file_id)
    record.ReferencedSOPClassUIDInFile = dataset.SOPClassUID
    record.ReferencedSOPInstanceUIDInFile = dataset.SOPInstanceUID
    record.ReferencedTransferSyntaxUIDInFile = dataset.file_meta.TransferSyntaxUID
    place.below["\\".join(file_id)] = _Record(record)


def _type_of(dataset: Dataset, name: PurePosixPath) -> str:
    if not dataset.get("SOPClassUID") or not dataset.get("SOPInstanceUID"):
        raise PictureFailed(f"{_NO_DIRECTORY}: {name} does not say which instance it is")
    number = str(dataset.SOPClassUID).removeprefix("1.2.840.10008.5.1.4.1.1.")
    kind = _TYPE_BY_CLASS.get(number) or _TYPE_BY_FAMILY.get(number.split(".")[0])
    is_image = "Rows" in dataset or "ImageStorage" in UID(dataset.SOPClassUID).keyword
    if kind is None and not is_image:
        raise PictureFailed(f"{_NO_DIRECTORY}: nothing is known of the kind of object in {name}")
    return kind or "IMAGE"


def _record(kind: str, dataset: Dataset, name: PurePosixPath, number: int) -> Dataset:
    """A record of `kind` with its keys (PS3.3 F.5), its place in the file still open."""
    record = Dataset()
    record.OffsetOfTheNextDirectoryRecord = 0
    record.RecordInUseFlag = _IN_USE
    record.OffsetOfReferencedLowerLevelDirectoryEntity = 0
    record.DirectoryRecordType = kind
    if dataset.get("SpecificCharacterSet"):
        record.SpecificCharacterSet = dataset.SpecificCharacterSet
    for keyword in _REQUIRED[kind]:
        if not dataset.get(keyword):
            raise PictureFailed(
                f"{_NO_DIRECTORY}: {name} has no {keyword}, which its record cannot be without"
            )
        record[keyword] = dataset[keyword]
    if kind not in _UNNUMBERED:
        counted = _NUMBERED.get(kind, "InstanceNumber")
        given = dataset.get(counted)
        setattr(record, counted, str(number) if given in (None, "") else given)
    for keyword in _OPTIONAL.get(kind, ()):
        if dataset.get(keyword):
            record[keyword] = dataset[keyword]
        elif keyword not in _ONLY_IF_THERE:
            setattr(record, keyword, None)
    return record


def _encode(root: _Record, sop_instance_uid: str, file_set_id: str) -> bytes:
    """The file. Offsets are of fixed length, so it is written once to learn where its records
    lie, and once more with those places filled in."""
    order = list(_depth_first(root))
    directory = _directory(sop_instance_uid, file_set_id)
    directory.DirectoryRecordSequence = Items([one.dataset for one in order])
    read = dcmread(BytesIO(_written(directory)))
    places = [item.seq_item_tell for item in read.DirectoryRecordSequence]
    at = {id(one): place for one, place in zip(order, places, strict=True)}
    _link(root, at)
    top = list(root.below.values())
    directory.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = at[id(top[0])]
    directory.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = at[id(top[-1])]
    return _written(directory)


def _depth_first(record: _Record) -> Iterable[_Record]:
    for one in record.below.values():
        yield one
        yield from _depth_first(one)


def _link(parent: _Record, at: dict[int, int]) -> None:
    """Fill in where each record's next one lies, and the first one below it."""
    siblings = list(parent.below.values())
    for one, following in zip_longest(siblings, siblings[1:]):
        one.dataset.OffsetOfTheNextDirectoryRecord = at[id(following)] if following else 0
        first = next(iter(one.below.values()), None)
        one.dataset.OffsetOfReferencedLowerLevelDirectoryEntity = at[id(first)] if first else 0
        _link(one, at)


def _directory(sop_instance_uid: str, file_set_id: str) -> Dataset:
    directory = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.file_meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    directory.file_meta.ImplementationVersionName = f"MIAD {__version__}"[:16]
    directory.FileSetID = file_set_id or None
    directory.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = 0
    directory.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = 0
    directory.FileSetConsistencyFlag = 0
    return directory


def _written(directory: Dataset) -> bytes:
    target = BytesIO()
    try:
        dcmwrite(target, directory, enforce_file_format=True)
    except Exception as error:  # a value that breaks its VR makes pydicom raise anything
        raise PictureFailed(
            f"{_NO_DIRECTORY}: an attribute cannot be written in it ({type(error).__name__})"
        ) from None
    return target.getvalue()
