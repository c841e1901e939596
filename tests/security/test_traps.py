"""Files made to hurt whoever reads them: refused or read, in bounded time and memory."""

from __future__ import annotations

import resource
import struct
import sys
import time
import zlib
from collections.abc import Callable
from io import BytesIO

import pytest
from helpers import build_dataset, build_dicom, encode, ramp
from pydicom import Dataset, dcmwrite
from pydicom.uid import DeflatedExplicitVRLittleEndian

from miad_cli.errors import PictureFailed
from miad_cli.imaging.derivation import (
    PRIVATE_GROUP,
    embed_container,
    embedded_container,
)
from miad_cli.imaging.dicom import DicomPicture, read_dicom

LONGEST_SECONDS = 20
LARGEST_MEBIBYTES = 600


def deflate_bomb() -> bytes:
    dataset = build_dataset(ramp())
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    target = BytesIO()
    dcmwrite(target, dataset, enforce_file_format=True)
    content = target.getvalue()
    start = 144 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(9, wbits=-15)
    zeros = bytes(1 << 20)
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 1200 << 20)
    packed = packer.compress(zlib.decompress(content[start:], -15) + pixels)
    packed += b"".join(packer.compress(zeros) for _ in range(1200))
    return content[:start] + packed + packer.flush()


def with_attribute(keyword: str, value: object) -> bytes:
    dataset = build_dataset(ramp())
    setattr(dataset, keyword, value)
    return encode(dataset)


def deeply_nested() -> bytes:
    """Sequences 500 deep, of undefined length, in front of the picture."""
    open_item = struct.pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, 0xFFFFFFFF)
    open_item += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    close_item = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    content = build_dicom(ramp())
    place = content.index(struct.pack("<HH2s", 0x0028, 0x0002, b"US"))
    return content[:place] + open_item * 500 + close_item * 500 + content[place:]


TRAPS: dict[str, Callable[[], bytes]] = {
    "deflate bomb": deflate_bomb,
    "65535 x 65535 over a few bytes": lambda: with_attribute("Rows", 65535).replace(
        b"\x28\x00\x11\x00US\x02\x00\x10\x00", b"\x28\x00\x11\x00US\x02\x00\xff\xff"
    ),
    "a million frames": lambda: with_attribute("NumberOfFrames", 1_000_000),
    "truncated pixel data": lambda: with_attribute("Rows", 13),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TRAPS)
def test_trap_is_refused_quickly_and_in_little_memory(name: str) -> None:
    content = TRAPS[name]()
    before, started = peak_mebibytes(), time.perf_counter()

    with pytest.raises(PictureFailed):
        read_dicom(content)

    assert time.perf_counter() - started < LONGEST_SECONDS
    assert peak_mebibytes() - before < LARGEST_MEBIBYTES


@pytest.mark.filterwarnings("ignore")
def test_deep_sequences_are_read_or_refused() -> None:
    content = deeply_nested()
    try:
        picture = read_dicom(content)
    except PictureFailed:
        return
    assert isinstance(picture, DicomPicture)
    assert picture.words.shape == (1, 12, 16, 1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("uid", ["../../../../tmp/evil", "1.2\0.3", "1." + "2" * 80])
def test_a_uid_is_data_and_never_a_path(uid: str) -> None:
    dataset = build_dataset(ramp())
    dataset["SOPInstanceUID"]._value = uid
    try:
        picture = read_dicom(encode(dataset))
    except PictureFailed:
        return
    assert isinstance(picture, DicomPicture)


def test_a_block_of_somebody_else_at_our_place_stays() -> None:
    dataset: Dataset = build_dataset(ramp())
    theirs = dataset.private_block(PRIVATE_GROUP, "SOMEBODY ELSE", create=True)
    theirs.add_new(0x02, "OB", b"theirs")

    embed_container(dataset, b"ours")

    assert embedded_container(dataset) == b"ours"
    assert dataset.private_block(PRIVATE_GROUP, "SOMEBODY ELSE")[0x02].value == b"theirs"


def peak_mebibytes() -> float:
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
