"""What lies in a folder of pictures: which instances belong together, and in which order.

A first look at the headers alone; pixels are read when a picture's turn comes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from miad_cli.files import InputFile

SMALLEST_VOLUME = 3
"""Slices from which on a series counts as a volume."""


@dataclass(frozen=True)
class Header:
    """What the first look finds in a DICOM file; empty where the file has none.

    Attributes:
        stack: what all slices of one volume share: series, frame of reference, size, direction.
            None where the file names no place in the patient.
        place: of the slice along the normal of its plane, mm.
    """

    sop_uid: str = ""
    series_uid: str = ""
    size: tuple[int, int, int] = (0, 0, 0)
    stack: tuple[object, ...] | None = None
    place: float = 0.0
    frame_of_reference: str = ""


@dataclass(frozen=True)
class Group:
    """Pictures that can get the same mark: one series, one size; in the order of their places.

    `is_volume` is true for slices of one body, parallel and at different places.
    """

    files: tuple[InputFile, ...]
    is_volume: bool


@dataclass(frozen=True)
class Study:
    """All files of a run.

    Attributes:
        groups: every file is in exactly one.
        by_sop_uid: the first file with that SOP Instance UID.
        series: the first file of each Series Instance UID.
        frames_of_reference: Frame of Reference UIDs of the slices that have a place.
    """

    groups: tuple[Group, ...]
    by_sop_uid: dict[str, InputFile] = field(default_factory=dict)
    series: dict[str, InputFile] = field(default_factory=dict)
    frames_of_reference: frozenset[str] = frozenset()


def survey(files: Sequence[InputFile]) -> Study:
    """Look at every header once and group the files; what cannot be read stands alone."""
    together: dict[tuple[object, ...], list[tuple[float, int]]] = defaultdict(list)
    by_sop_uid: dict[str, InputFile] = {}
    series: dict[str, InputFile] = {}
    frames: set[str] = set()
    for index, file in enumerate(files):
        header = Header() if file.obstacle else read_header(file.path)
        if header.sop_uid:
            by_sop_uid.setdefault(header.sop_uid, file)
        if header.series_uid:
            series.setdefault(header.series_uid, file)
        if header.stack is not None:
            frames.add(header.frame_of_reference)
        together[_key(header, index)].append((header.place, index))
    groups = [_group(key, places, files) for key, places in together.items()]
    return Study(tuple(groups), by_sop_uid, series, frozenset(frames))


def _key(header: Header, index: int) -> tuple[object, ...]:
    if header.stack is not None:
        return ("volume", *header.stack)
    if header.series_uid and header.size[2] <= 1:
        return ("series", header.series_uid, header.size)
    return ("alone", index)


def _group(
    key: tuple[object, ...], places: list[tuple[float, int]], files: Sequence[InputFile]
) -> Group:
    ordered = sorted(places)
    apart = len({place for place, _ in places})
    is_volume = key[0] == "volume" and apart >= SMALLEST_VOLUME
    return Group(tuple(files[index] for _, index in ordered), is_volume)


_WANTED = (
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "ImagePositionPatient",
    "ImageOrientationPatient",
)


def read_header(path: Path) -> Header:
    """The header of one file; an empty one where nothing can be read from it safely.

    What is broken is found out, and said, when the file itself is read.
    """
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    try:
        with path.open("rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                return Header()
        meta = read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            return Header()  # it would be unpacked whole, whatever is asked for
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=list(_WANTED))
        return _header(dataset)
    except (Exception, RecursionError):  # a broken file makes pydicom raise anything
        return Header()


def _header(dataset: Any) -> Header:
    size = tuple(int(dataset.get(name) or 0) for name in ("Rows", "Columns", "NumberOfFrames"))
    sop_uid = str(dataset.get("SOPInstanceUID") or "")
    series_uid = str(dataset.get("SeriesInstanceUID") or "")
    rows, columns, frames = size
    header = Header(sop_uid, series_uid, (rows, columns, frames))
    position = [float(value) for value in dataset.get("ImagePositionPatient") or ()]
    direction = [float(value) for value in dataset.get("ImageOrientationPatient") or ()]
    if frames > 1 or len(position) != 3 or len(direction) != 6 or not series_uid:
        return header
    (a, b, c), (d, e, f) = direction[:3], direction[3:]
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    place = sum(n * p for n, p in zip(normal, position, strict=True))
    rounded = tuple(round(value, 3) + 0.0 for value in direction)
    frame_of_reference = str(dataset.get("FrameOfReferenceUID") or "")
    stack = (series_uid, frame_of_reference, header.size, rounded)
    return Header(sop_uid, series_uid, header.size, stack, round(place, 3), frame_of_reference)
