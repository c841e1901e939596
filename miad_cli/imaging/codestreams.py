"""What a compressed frame says of itself, before any decoder is asked to believe it.

Decoders allocate what the codestream announces, and some end the whole process where it is not
what the DICOM header announces. Both are looked at first; it takes a few bytes of each frame.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from miad_cli.errors import PictureFailed

_JPEG = (
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)
_JPEG_2000 = (JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K)

_SIZ = b"\xff\x4f\xff\x51"
"""Start of codestream and size (ISO/IEC 15444-1 A.4.1, A.5.1); some files wrap it in JP2 boxes."""
_BOXES = 4096

_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
"""Start of frame (ITU-T T.81 B.1.1.3, ITU-T T.87 C.1.1)."""
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length."""


@dataclass(frozen=True)
class Shape:
    """What a codestream holds: pixels, samples of each, bits of each sample."""

    rows: int
    columns: int
    samples: int
    bits: int


def refuse_other_shape(dataset: Dataset) -> None:
    """Refuse frames that do not hold what the header of the data set says.

    Nothing is said of syntaxes whose frames carry no size (native, RLE, video).

    Raises:
        PictureFailed: a frame is of another size, or does not say of which.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in _JPEG and syntax not in _JPEG_2000:
        return
    told = (int(dataset.Rows), int(dataset.Columns), int(dataset.SamplesPerPixel))
    allocated = int(dataset.BitsAllocated)
    offsets = (
        (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
        if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset
        else None
    )
    frames = generate_frames(
        dataset.PixelData,
        number_of_frames=int(dataset.get("NumberOfFrames") or 1),
        extended_offsets=offsets,
    )
    for frame in frames:
        shape = shape_of(frame)
        if shape is None:
            raise PictureFailed("a compressed frame does not begin as its transfer syntax says")
        found = (shape.rows, shape.columns, shape.samples)
        if found != told:
            raise PictureFailed(f"a frame holds {_text(found)} where the header says {_text(told)}")
        if shape.bits > allocated or (syntax in _JPEG and allocated > 16):
            raise PictureFailed(
                f"a frame holds samples of {shape.bits} bits where the header allocates {allocated}"
            )


def _text(shape: tuple[int, int, int]) -> str:
    rows, columns, samples = shape
    return f"{rows} x {columns} pixels of {samples} samples"


def shape_of(frame: bytes) -> Shape | None:
    """The shape that a JPEG, JPEG-LS or JPEG 2000 codestream announces; None where it is none of
    them or is cut short."""
    try:
        if frame[:2] == b"\xff\xd8":
            return _jpeg_shape(frame)
        start = frame.find(_SIZ, 0, _BOXES)
        return _jpeg_2000_shape(frame, start + len(_SIZ)) if start >= 0 else None
    except struct.error:
        return None


def _jpeg_shape(frame: bytes) -> Shape | None:
    place = 2
    while True:
        filler, marker = struct.unpack_from(">BB", frame, place)
        if filler != 0xFF:
            return None
        if marker == 0xFF:  # any number of fill bytes may stand before a marker
            place += 1
            continue
        if marker in _FRAME_MARKERS:
            _, bits, rows, columns, samples = struct.unpack_from(">HBHHB", frame, place + 2)
            return Shape(rows, columns, samples, bits)
        if marker in _ALONE:
            place += 2
            continue
        (length,) = struct.unpack_from(">H", frame, place + 2)
        place += 2 + max(length, 2)


def _jpeg_2000_shape(frame: bytes, place: int) -> Shape:
    """From what follows the SIZ marker: the image area is a part of the reference grid."""
    _, _, right, bottom, left, top = struct.unpack_from(">HHIIII", frame, place)
    (samples,) = struct.unpack_from(">H", frame, place + 36)
    bits = [
        (struct.unpack_from(">B", frame, place + 38 + 3 * sample)[0] & 0x7F) + 1
        for sample in range(min(samples, 4))
    ]
    return Shape(bottom - top, right - left, samples, max(bits, default=0))
