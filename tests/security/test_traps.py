"""Files made to hurt whoever reads them: refused or restored, each in bounded time and memory.

Each is taken through reading, writing, sealing and restoring by a process of its own, so that its
time and its memory are its own.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from helpers import build_dataset, build_dicom, encode, ramp
from PIL import Image
from pydicom import Dataset, dcmwrite
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from miad_cli.imaging.derivation import (
    PRIVATE_GROUP,
    embed_container,
    embedded_container,
)

HARNESS = Path(__file__).with_name("trap.py")
LONGEST_SECONDS = 20
LARGEST_MEBIBYTES = 400
"""Of the whole process, Python and its libraries included; those take 150 or so."""


@dataclass(frozen=True)
class Trapped:
    """What became of a file, and what that took."""

    outcome: str
    said: str
    seconds: float
    mebibytes: float


def taken_through(content: bytes, folder: Path) -> Trapped:
    """The file, through a process of its own."""
    (folder / "trap.dcm").write_bytes(content)
    path = os.pathsep.join(filter(None, (str(HARNESS.parents[2]), os.environ.get("PYTHONPATH"))))
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, HARNESS, folder / "trap.dcm", folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    said = b""
    try:
        said, complaints = process.stdout.read(), process.stderr.read()  # both are short
    finally:
        process.wait()
    assert process.returncode == 0, complaints.decode(errors="replace")[-2000:]
    facts = json.loads(said)
    seconds = time.perf_counter() - started
    return Trapped(facts["outcome"], facts.get("said", ""), seconds, facts["mebibytes"])


# --- The files --------------------------------------------------------------------------------


def deflated(dataset: Dataset) -> bytes:
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    target = BytesIO()
    dcmwrite(target, dataset, enforce_file_format=True)
    return target.getvalue()


def deflate_bomb() -> bytes:
    """A few megabytes that unpack to 1200."""
    content = deflated(build_dataset(ramp()))
    start = 144 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(9, wbits=-15)
    zeros = bytes(1 << 20)
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 1200 << 20)
    packed = packer.compress(zlib.decompress(content[start:], -15) + pixels)
    packed += b"".join(packer.compress(zeros) for _ in range(1200))
    return content[:start] + packed + packer.flush()


def with_attributes(**attributes: object) -> bytes:
    dataset = build_dataset(ramp())
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return encode(dataset)


def compressed(syntax: str, frames: int = 1, **attributes: object) -> Dataset:
    """64 x 64 values of 8 bits, `frames` of them, and a header that says what it says."""
    picture = ramp(64, 64, top=255, dtype="u1")
    dataset = build_dataset(np.repeat(picture, frames, axis=0))
    if syntax == JPEGBaseline8Bit:
        target = BytesIO()
        Image.fromarray(picture[0, ..., 0]).save(target, "JPEG")
        dataset.PixelData = encapsulate([target.getvalue()])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    else:
        dataset.compress(syntax, generate_instance_uid=False)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


_PLACE_OF_SIZE = {JPEG2000Lossless: (b"\xff\x51", 6), JPEGBaseline8Bit: (b"\xff\xc0", 5),
                  JPEGLSLossless: (b"\xff\xf7", 5)}  # fmt: skip
"""The marker that a codestream's size stands behind, and how far behind."""


def with_huge_codestream(syntax: str) -> bytes:
    """The header says 64 x 64, the codestream 60,000 x 60,000 and is a few bytes long."""
    dataset = compressed(syntax)
    frame = bytearray(next(generate_frames(dataset.PixelData, number_of_frames=1)))
    marker, offset = _PLACE_OF_SIZE[syntax]
    place = frame.index(marker) + offset
    if syntax == JPEG2000Lossless:  # size, offset, size of a tile (ISO/IEC 15444-1 A.5.1)
        for field in (0, 4, 16, 20):
            frame[place + field : place + field + 4] = struct.pack(">I", 60_000)
    else:
        frame[place : place + 4] = struct.pack(">HH", 60_000, 60_000)
    dataset.PixelData = encapsulate([bytes(frame)])
    dataset["PixelData"].is_undefined_length = True
    return encode(dataset)


def colourless(syntax: str) -> Dataset:
    """A grey codestream under a header that promises colours."""
    return compressed(syntax, SamplesPerPixel=3, PhotometricInterpretation="RGB",
                      PlanarConfiguration=0)  # fmt: skip


def nested(depth: int) -> bytes:
    """Sequences of undefined length, one in the other, in front of the picture."""
    open_item = struct.pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, 0xFFFFFFFF)
    open_item += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    close_item = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    content = build_dicom(ramp())
    place = content.index(struct.pack("<HH2s", 0x0028, 0x0002, b"US"))
    return content[:place] + open_item * depth + close_item * depth + content[place:]


def with_rows_twice(second: int) -> bytes:
    content = build_dicom(ramp())
    place = content.index(struct.pack("<HH2s", 0x0028, 0x0010, b"US")) + 10
    element = struct.pack("<HH2sHH", 0x0028, 0x0010, b"US", 2, second)
    return content[:place] + element + content[place:]


def with_uid(keyword: str, uid: str) -> bytes:
    dataset = build_dataset(ramp())
    dataset[keyword]._value = uid
    return encode(dataset)


def with_offsets(*offsets: int) -> bytes:
    """Three RLE frames behind a Basic Offset Table of our making."""
    dataset = compressed(RLELossless, 3)
    frames = list(generate_frames(dataset.PixelData, number_of_frames=3))
    table = b"".join(struct.pack("<I", offset) for offset in offsets)
    items = b"".join(
        struct.pack("<HHI", 0xFFFE, 0xE000, len(one)) + one for one in [table, *frames]
    )
    dataset.PixelData = items
    dataset["PixelData"].is_undefined_length = True
    return encode(dataset)


def with_extended_offsets(*offsets: int) -> bytes:
    """Three RLE frames behind an Extended Offset Table of our making."""
    dataset = compressed(RLELossless, 3)
    frames = list(generate_frames(dataset.PixelData, number_of_frames=3))
    dataset.PixelData = encapsulate(frames, has_bot=False)
    dataset["PixelData"].is_undefined_length = True
    dataset.ExtendedOffsetTable = struct.pack("<3Q", *offsets)
    dataset.ExtendedOffsetTableLengths = struct.pack("<3Q", *(len(one) for one in frames))
    return encode(dataset)


def with_odd_fragment() -> bytes:
    content = encode(compressed(RLELossless))
    place = content.rindex(struct.pack("<HHI", 0xFFFE, 0xE0DD, 0))
    item = content.rindex(struct.pack("<HH", 0xFFFE, 0xE000), 0, place)
    data = content[item + 8 : place]
    data += bytes(1 - len(data) % 2)
    fragment = struct.pack("<HHI", 0xFFFE, 0xE000, len(data)) + data
    return content[:item] + fragment + content[place:]


def in_many_fragments() -> bytes:
    """One frame in fragments of two bytes each."""
    dataset = compressed(JPEG2000Lossless)
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.PixelData = encapsulate([frame], fragments_per_frame=len(frame) // 2, has_bot=False)
    dataset["PixelData"].is_undefined_length = True
    return encode(dataset)


def with_somebody_elses_block() -> bytes:
    dataset = build_dataset(ramp())
    theirs = dataset.private_block(PRIVATE_GROUP, "SOMEBODY ELSE", create=True)
    theirs.add_new(0x02, "OB", b"theirs")
    return encode(dataset)


RESTORED, OTHER_SIZE = "restored", "where the header says"

TRAPS: dict[str, tuple[Callable[[], bytes], str]] = {
    "truncated pixel data": (lambda: build_dicom(ramp())[:-30], "cut short"),
    "one byte missing": (lambda: build_dicom(ramp())[:-1], "cut short"),
    "truncated fragment": (lambda: encode(compressed(RLELossless))[:-60], ""),
    "truncated deflated": (lambda: deflated(build_dataset(ramp()))[:-20], ""),
    "more rows than pixels": (lambda: with_attributes(Rows=13), "cut short"),
    "no rows": (lambda: with_attributes(Rows=0), "zero"),
    "deflate bomb": (deflate_bomb, "inflates to more"),
    "65535 x 65535": (lambda: with_attributes(Rows=65535, Columns=65535), ""),
    "65535 x 65535 compressed": (
        lambda: encode(compressed(RLELossless, Rows=65535, Columns=65535)), "",
    ),
    "a million frames": (lambda: with_attributes(NumberOfFrames=1_000_000), ""),
    "a million frames compressed": (
        lambda: encode(compressed(RLELossless, NumberOfFrames=1_000_000)), "",
    ),
    "sequences 500 deep": (lambda: nested(500), ""),
    "sequences 50,000 deep": (lambda: nested(50_000), ""),
    "rows twice": (lambda: with_rows_twice(12), RESTORED),
    "rows twice, differently": (lambda: with_rows_twice(6), RESTORED),
    "instance UID a path": (lambda: with_uid("SOPInstanceUID", "../../../../tmp/evil"), RESTORED),
    "instance UID with NUL": (lambda: with_uid("SOPInstanceUID", "1.2\0.3"), RESTORED),
    "instance UID too long": (lambda: with_uid("SOPInstanceUID", "1." + "2" * 80), RESTORED),
    "series UID a path": (lambda: with_uid("SeriesInstanceUID", "../../etc/passwd"), RESTORED),
    "offset table beyond the end": (lambda: with_offsets(0, 10**6, 2 * 10**6), ""),
    "offset table too short": (lambda: with_offsets(0), ""),
    "offset table all zero": (lambda: with_offsets(0, 0, 0), ""),
    "extended offsets beyond the end": (lambda: with_extended_offsets(0, 2**62, 2**63), ""),
    "fragment of odd length": (with_odd_fragment, RESTORED),
    "fragments of two bytes": (in_many_fragments, RESTORED),
    "codestream larger, JPEG 2000": (lambda: with_huge_codestream(JPEG2000Lossless), OTHER_SIZE),
    "codestream larger, JPEG-LS": (lambda: with_huge_codestream(JPEGLSLossless), OTHER_SIZE),
    "codestream larger, JPEG": (lambda: with_huge_codestream(JPEGBaseline8Bit), OTHER_SIZE),
    "codestream smaller, JPEG 2000": (
        lambda: encode(compressed(JPEG2000Lossless, Rows=128)), OTHER_SIZE,
    ),
    "codestream smaller, JPEG-LS": (
        lambda: encode(compressed(JPEGLSLossless, Rows=128)), OTHER_SIZE,
    ),
    "other samples, JPEG-LS": (lambda: encode(colourless(JPEGLSLossless)), OTHER_SIZE),
    "other samples, JPEG 2000": (lambda: encode(colourless(JPEG2000Lossless)), OTHER_SIZE),
    "words of 32 bits, JPEG": (
        lambda: encode(compressed(JPEGBaseline8Bit, BitsAllocated=32)), "allocates 32",
    ),
    "codestream smaller, RLE": (lambda: encode(compressed(RLELossless, Rows=128)), ""),
    "header smaller than codestream": (
        lambda: encode(compressed(JPEG2000Lossless, Rows=32)), OTHER_SIZE,
    ),
    "somebody else's private block": (with_somebody_elses_block, RESTORED),
}  # fmt: skip
"""What it is, how it is made, and what becomes of it: restored, or a part of the refusal."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TRAPS)
def test_trap_is_refused_or_restored_quickly_and_in_little_memory(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    make, expected = TRAPS[name]

    trapped = taken_through(make(), tmp_path)

    record_property("seconds", round(trapped.seconds, 2))
    record_property("mebibytes", round(trapped.mebibytes))
    if expected == RESTORED:
        assert trapped.outcome == RESTORED, trapped.said
    else:
        assert trapped.outcome == "refused"
        assert expected in trapped.said
        assert not list(tmp_path.glob("out/*"))
    assert trapped.seconds < LONGEST_SECONDS
    assert trapped.mebibytes < LARGEST_MEBIBYTES


def test_a_block_of_somebody_else_at_our_place_stays() -> None:
    dataset: Dataset = build_dataset(ramp())
    theirs = dataset.private_block(PRIVATE_GROUP, "SOMEBODY ELSE", create=True)
    theirs.add_new(0x02, "OB", b"theirs")

    embed_container(dataset, b"ours")

    assert embedded_container(dataset) == b"ours"
    assert dataset.private_block(PRIVATE_GROUP, "SOMEBODY ELSE")[0x02].value == b"theirs"
