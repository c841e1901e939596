"""Odd files that are pictures all the same: protected and given back, or refused by name."""

from __future__ import annotations

import json
import resource
import shutil
import struct
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.uid import JPEG2000Lossless, RLELossless

LONGEST_SECONDS = 60
LARGEST_GROWTH = 400
"""MiB by which a test may raise the peak of this process, models and all."""


@pytest.fixture(autouse=True)
def bounded(record_property) -> Iterator[None]:
    """The time and the memory that a trap may take."""
    before, started = peak_mebibytes(), time.perf_counter()
    yield
    seconds, growth = time.perf_counter() - started, peak_mebibytes() - before
    record_property("seconds", round(seconds, 2))
    record_property("mebibytes", round(growth))
    assert seconds < LONGEST_SECONDS
    assert growth < LARGEST_GROWTH


def peak_mebibytes() -> float:
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def restored_or_refused(miad, study: Path, logo: Path, work: Path) -> dict[str, str]:
    """Protect and unlock `study`; what was protected must come back. Gives state by name."""
    line = ("protect", study, "--logo", logo, "-o", "out", "--search", "random")
    said = miad(*line, "--key-out", "key.txt", "--json")
    assert said.code in (0, 3)
    states = {one["name"]: one["state"] for one in json.loads(said.out)["files"]}
    assert miad("unlock", "out", "--key", "key.txt", "-o", "back").code == 0
    for name, state in states.items():
        if state == "protected":
            assert (work / "back" / name).read_bytes() == (study / name).read_bytes()
    return states


def test_the_same_instance_twice_in_a_folder(miad, study, logo, work):
    shutil.copyfile(study / "one.dcm", study / "again.dcm")

    states = restored_or_refused(miad, study, logo, work)

    assert states == {"again.dcm": "protected", "deep/two.dcm": "protected", "one.dcm": "protected"}


def test_an_element_that_is_there_twice(miad, study, logo, work):
    content = (study / "one.dcm").read_bytes()
    place = content.index(struct.pack("<HH2s", 0x0028, 0x0010, b"US"))
    element = content[place : place + 10]
    (study / "one.dcm").write_bytes(content[:place] + element + content[place:])

    states = restored_or_refused(miad, study, logo, work)

    assert states["one.dcm"] == "protected"


def test_a_codestream_that_disagrees_with_the_header(miad, study, logo, work):
    dataset = dcmread(study / "one.dcm")
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    dataset.Rows = dataset.Rows // 2
    dataset.save_as(study / "one.dcm")

    states = restored_or_refused(miad, study, logo, work)

    assert states == {"deep/two.dcm": "protected", "one.dcm": "failed"}


@pytest.mark.parametrize("pad", [0, 1])
def test_fragments_of_any_length(miad, study, logo, work, pad):
    dataset = dcmread(study / "one.dcm")
    dataset.compress(RLELossless, generate_instance_uid=False)
    target = BytesIO()
    dcmwrite(target, dataset, enforce_file_format=True)
    content = target.getvalue()
    place = content.rindex(struct.pack("<HHI", 0xFFFE, 0xE0DD, 0))
    item = content.rindex(struct.pack("<HH", 0xFFFE, 0xE000), 0, place)
    data = content[item + 8 : place] + bytes(pad)
    fragment = struct.pack("<HHI", 0xFFFE, 0xE000, len(data)) + data
    (study / "one.dcm").write_bytes(content[:item] + fragment + content[place:])

    states = restored_or_refused(miad, study, logo, work)

    assert states["one.dcm"] == "protected"


@pytest.mark.parametrize("extended", [False, True])
def test_offset_tables_basic_and_extended(miad, study, logo, work, extended):
    dataset = dcmread(study / "one.dcm")
    frames = [dataset.pixel_array] * 3
    dataset.NumberOfFrames = 3
    dataset.PixelData = b"".join(frame.tobytes() for frame in frames)
    dataset.compress(RLELossless, generate_instance_uid=False, encapsulate_ext=extended)
    dataset.save_as(study / "one.dcm")

    states = restored_or_refused(miad, study, logo, work)

    assert states["one.dcm"] == "protected"


def test_two_pictures_of_one_uid_get_two(miad, study, logo, work, make):
    first, second = dcmread(study / "one.dcm"), dcmread(study / "deep" / "two.dcm")
    second.SOPInstanceUID = second.file_meta.MediaStorageSOPInstanceUID = first.SOPInstanceUID
    second.save_as(study / "deep" / "two.dcm")

    states = restored_or_refused(miad, study, logo, work)

    assert set(states.values()) == {"protected"}
    written = [dcmread(work / "out" / name).SOPInstanceUID for name in states]
    assert len({first.SOPInstanceUID, *written}) == 3


def test_a_file_that_is_protected_already(miad, study, logo, work):
    assert miad("protect", study, "--logo", logo, "-o", "once", "--search", "random").code == 0

    said = miad("protect", "once", "--logo", logo, "-o", "twice", "--search", "random", "--json")

    assert said.code == 3
    assert [one["reason"] for one in said.json["files"] if one["state"] == "failed"] == [
        "is protected already"
    ] * 2
    assert not list((work / "twice").glob("**/*.dcm"))


@pytest.mark.parametrize("creator", ["SOMEBODY ELSE", "MIAD 2"])
def test_a_private_block_of_somebody_else_at_our_place(miad, study, logo, work, creator):
    dataset = dcmread(study / "one.dcm")
    block = dataset.private_block(0x4D49, creator, create=True)
    block.add_new(0x02, "OB", b"theirs")
    dataset.save_as(study / "one.dcm")

    states = restored_or_refused(miad, study, logo, work)

    assert states["one.dcm"] == "protected"
    written = dcmread(work / "out" / "one.dcm")
    assert written.private_block(0x4D49, creator)[0x02].value == b"theirs"


def test_a_private_block_under_our_name_that_is_not_ours(miad, study, logo, work):
    dataset = dcmread(study / "one.dcm")
    dataset.private_block(0x4D49, "MIAD", create=True).add_new(0x02, "OB", b"theirs")
    dataset.save_as(study / "one.dcm")

    states = restored_or_refused(miad, study, logo, work)

    assert states == {"deep/two.dcm": "protected", "one.dcm": "failed"}


@pytest.mark.filterwarnings("ignore")  # pydicom's about such UIDs
@pytest.mark.parametrize("uid", ["../../../evil", "1.2\0.3", "1." + "2" * 80, "..", "/etc/passwd"])
def test_a_uid_is_data_and_never_a_path(miad, study, logo, work, left, uid):
    dataset = dcmread(study / "one.dcm")
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        dataset[keyword]._value = uid
    dataset.save_as(study / "one.dcm")

    states = restored_or_refused(miad, study, logo, work)

    assert set(states.values()) == {"protected"}
    assert {name.split("/")[0] for name in left(work)} == {
        "back", "hospital.png", "key.txt", "out", "study",
    }  # fmt: skip
    assert left(work / "out") == [
        "deep/two.dcm", "deep/two.dcm.miad", "one.dcm", "one.dcm.miad",
    ]  # fmt: skip
    assert uid not in str(dcmread(work / "out" / "one.dcm").SOPInstanceUID)


@pytest.mark.parametrize("rows", [65535, 13])
def test_a_header_that_promises_more_than_is_there(miad, study, logo, work, rows):
    dataset = dcmread(study / "one.dcm")
    dataset.Rows = dataset.Columns = rows if rows == 65535 else dataset.Columns + rows
    dataset.save_as(study / "one.dcm")

    states = restored_or_refused(miad, study, logo, work)

    assert states == {"deep/two.dcm": "protected", "one.dcm": "failed"}
