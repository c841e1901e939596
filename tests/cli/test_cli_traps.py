"""Odd files that are pictures all the same: protected and given back, or refused by name."""

from __future__ import annotations

import json
import shutil
import struct
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.uid import JPEG2000Lossless, RLELossless


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
