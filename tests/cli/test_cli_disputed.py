"""Files whose seal is right and in which other readers would see something else: never authentic.

Each is made of a protected file without its owner's key, as anybody could.
"""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from pydicom import dcmread

from miad_cli.imaging.structure import read_file_meta, structure_fault

LIMIT = 1 << 26
META = 132


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    if vr in (b"OB", b"OW", b"UN"):
        return struct.pack("<HH2sHI", group, number, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


def parts(content: bytes) -> tuple[bytes, bytes]:
    """Everything before the data set, and the data set."""
    end = read_file_meta(content).end
    return content[:end], content[end:]


def position_of(body: bytes, group: int, number: int, vr: bytes) -> int:
    return body.index(struct.pack("<HH2s", group, number, vr))


def twice(content: bytes, group: int, number: int, vr: bytes, value: bytes) -> bytes:
    """Another element of that tag in front of the sealed one: pydicom takes the last."""
    head, body = parts(content)
    at = position_of(body, group, number, vr)
    return head + body[:at] + element(group, number, vr, value) + body[at:]


def forged_pixels(content: bytes) -> bytes:
    return twice(content, 0x7FE0, 0x0010, b"OW", bytes(64 * 64 * 2))


def forged_rows(content: bytes) -> bytes:
    return twice(content, 0x0028, 0x0010, b"US", struct.pack("<H", 32))


def forged_slope(content: bytes) -> bytes:
    return twice(content, 0x0028, 0x1053, b"DS", b"-1")


def other_data_set(content: bytes) -> bytes:
    """The group length leads past the sealed data set, to another one behind it."""
    head, body = parts(content)
    other = element(0x7FE1, 0x1010, b"OB", body)
    skip = len(body) + len(other) - len(body)
    length = int.from_bytes(head[META + 8 : META + 12], "little") + len(body) + skip - len(body)
    lying = head[: META + 8] + struct.pack("<I", length) + head[META + 12 :]
    return lying + body + other


def other_encoding(content: bytes) -> bytes:
    """The header says Implicit VR, and the data set is the sealed, explicit one."""
    made = dcmread(BytesIO(content)).file_meta.TransferSyntaxUID
    old = element(0x0002, 0x0010, b"UI", made.encode() + b"\0" * (len(made) % 2))
    new = element(0x0002, 0x0010, b"UI", b"1.2.840.10008.1.2\0")
    head, body = parts(content)
    length = int.from_bytes(head[META + 8 : META + 12], "little") + len(new) - len(old)
    head = head.replace(old, new)
    return head[: META + 8] + struct.pack("<I", length) + head[META + 12 :] + body


def other_preamble(content: bytes) -> bytes:
    return b"II*\0" + content[4:]


def something_behind(content: bytes) -> bytes:
    return content + b"\0" * 7


WAYS = (
    forged_pixels, forged_rows, forged_slope, other_data_set, other_encoding, other_preamble,
    something_behind,
)  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_readers_differ_about_is_not_authentic(way, sealed, miad):
    path = sealed.protected / "one.dcm"
    path.write_bytes(way(path.read_bytes()))

    said = miad("verify", path, "--json")

    assert said.code == 6
    assert said.file("one.dcm")["verdict"] != "authentic"
    with_key = miad("verify", path, "--key", sealed.key, "--json")
    assert with_key.code == 6
    assert with_key.file("one.dcm")["verdict"] == said.file("one.dcm")["verdict"]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_it_is_the_structure_that_is_named(way, sealed):
    content = (sealed.protected / "one.dcm").read_bytes()

    assert structure_fault(content, LIMIT) == ""
    assert structure_fault(way(content), LIMIT)


@pytest.mark.parametrize("way", [forged_pixels, other_data_set, other_encoding])
def test_nothing_of_it_is_sent(way, sealed, miad):
    path = sealed.protected / "one.dcm"
    path.write_bytes(way(path.read_bytes()))

    said = miad("send", path, "--dest", "ANY@127.0.0.1:9", "--yes-not-clinical", "--json")

    assert said.code == 6
    assert said.file("one.dcm")["state"] == "refused"


@pytest.mark.parametrize("name", ["HSV", "CMYK", "YBR_RCT", "YBR_PARTIAL_422"])
def test_colour_under_another_name_is_not_authentic(name, make, miad, work, logo):
    colour = make.dataset(make.stored())
    colour.SamplesPerPixel, colour.PhotometricInterpretation = 3, "RGB"
    colour.PlanarConfiguration = 0
    colour.BitsAllocated, colour.BitsStored, colour.HighBit = 8, 8, 7
    colour.PixelData = make.colour().tobytes()
    del colour.WindowCenter, colour.WindowWidth, colour.RescaleSlope, colour.RescaleIntercept
    colour.save_as(work / "colour.dcm", enforce_file_format=True)
    line = ("protect", "colour.dcm", "--logo", logo, "-o", "out", "--search", "random")
    assert miad(*line).code == 0
    path = work / "out" / "colour.dcm"
    assert miad("verify", path).code == 0
    changed = dcmread(path)
    changed.PhotometricInterpretation = name
    changed.save_as(path)

    assert miad("verify", path).code == 6


def test_pixels_that_no_longer_are_a_picture_are_not_passed_over(sealed, miad):
    """Two bytes of floating point pixels make every reader show what it likes."""
    path = sealed.protected / "one.dcm"
    changed = dcmread(path)
    del changed[0x4D490010], changed[0x4D491001], changed[0x4D491002]
    changed.add_new("FloatPixelData", "OF", b"\0\0\0\0")
    changed.save_as(path)
    (sealed.protected / "one.dcm.miad").unlink()

    said = miad("verify", path, "--json")

    assert said.code == 6


def test_sidecar_that_is_a_pipe_or_a_link_is_not_read(sealed, miad, work):
    import os

    sidecar = sealed.protected / "one.dcm.miad"
    sidecar.unlink()
    os.mkfifo(sidecar)
    assert miad("verify", sealed.protected / "one.dcm").code == 0  # the copy inside is enough
    sidecar.unlink()
    sidecar.symlink_to("/dev/zero")
    assert miad("verify", sealed.protected / "one.dcm").code == 0
