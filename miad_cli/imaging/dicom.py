"""Read DICOM pictures.

What can be undone from the written pixels alone (native, uncompressed grey and RGB) is kept as
words; everything else is decoded, written as native values, and restored from the original bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    MediaStorageDirectoryStorage,
)

from miad_cli.errors import PictureFailed
from miad_cli.imaging.digests import attribute_facts
from miad_cli.imaging.image import (
    MedicalImage,
    StudyFacts,
    Window,
    percentile_window,
    window_of,
)
from miad_cli.imaging.words import Values, WordLayout, Words

LARGEST_DECODED = 2 << 30
"""Bytes of decoded pixels beyond which a file is refused before anything is allocated."""

LARGEST_INFLATED = 512 << 20
"""Bytes that a deflated data set may unpack to."""

_NO_PICTURE = {
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "a label map segmentation",
    "1.2.840.10008.5.1.4.1.1.30": "a parametric map",
    "1.2.840.10008.5.1.4.1.1.481.2": "a radiotherapy dose",
}


@dataclass(frozen=True)
class NoPicture:
    """A DICOM object that carries no picture to protect, and what it is instead."""

    reason: str


@dataclass(frozen=True, eq=False)
class DicomPicture:
    """A DICOM file with a picture in it.

    Attributes:
        content: the file, byte for byte.
        dataset: what pydicom read from it; not to be changed.
        attributes: the picture's attributes as text, for digests.
        layout, words: the picture as native words, (frames, rows, columns, samples).
        span: start and end of the Pixel Data value in `content` where `words` are that value;
            None where they had to be decoded, inflated or converted.
    """

    content: bytes
    dataset: Dataset
    attributes: dict[str, list[str]]
    layout: WordLayout
    words: Words
    span: tuple[int, int] | None

    @cached_property
    def image(self) -> MedicalImage:
        """What is shown; made when asked for, since a verdict needs only the words.

        Raises:
            PictureFailed: an attribute says nothing that can be shown.
        """
        with _decoding(self.dataset):
            return _image(self.dataset, self.layout, self.layout.values(self.words))

    @property
    def is_native(self) -> bool:
        """True where `words` are the Pixel Data value itself, not decoded or converted."""
        return _is_native(self.dataset)


def is_dicom(head: bytes) -> bool:
    """True where the first 132 bytes are a preamble and the DICM prefix (PS3.10 7.1)."""
    return head[128:132] == b"DICM"


def is_bare_dicom(head: bytes) -> bool:
    """True where a file begins like a data set without preamble: a first element of group 0002
    or 0008, with an explicit VR or with the length of an implicit one."""
    if head[:2] not in (b"\x02\x00", b"\x08\x00") or head[3:4] != b"\x00" or len(head) < 8:
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return explicit or (head[5:8] == b"\0\0\0" and head[4] <= 64)


def read_dicom(content: bytes) -> DicomPicture | NoPicture:
    """Read one file.

    Raises:
        PictureFailed: it is not DICOM, is cut short, or holds pixels that cannot be decoded.
    """
    dataset = _parse(content)
    with _decoding(dataset):
        reason = _why_no_picture(dataset)
        if reason:
            return NoPicture(reason)
        return DicomPicture(content, dataset, attribute_facts(dataset), *_pixels(content, dataset))


@contextmanager
def _decoding(dataset: Dataset) -> Iterator[None]:
    """Turn whatever a broken file makes pydicom and its decoders raise into PictureFailed."""
    try:
        yield
    except PictureFailed:
        raise
    except (MemoryError, RecursionError) as error:
        raise PictureFailed(
            f"the pixels need more than is there ({type(error).__name__})"
        ) from None
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # Decoders raise without a common base, those written in Rust panic past Exception;
        # values stay out of messages.
        raise PictureFailed(
            f"the pixels cannot be decoded ({_syntax(dataset).name}: {type(error).__name__})"
        ) from error


def _parse(content: bytes) -> Dataset:
    _refuse_deflate_bomb(content)
    try:
        dataset = dcmread(BytesIO(content))
        dataset.get("SOPClassUID")
        named = "TransferSyntaxUID" in dataset.file_meta and bool(_syntax(dataset))
    except InvalidDicomError:
        raise PictureFailed("not a DICOM file (no DICM prefix)") from None
    except (Exception, RecursionError) as error:  # a broken file makes pydicom raise anything
        raise PictureFailed(f"broken DICOM structure ({type(error).__name__})") from error
    if not named:
        raise PictureFailed("no transfer syntax is named in the file's header")
    return dataset


def _refuse_deflate_bomb(content: bytes) -> None:
    """Measure what a deflated data set (PS3.5 A.5) unpacks to before pydicom unpacks it whole.

    Raises:
        PictureFailed: it is more than a file may hold.
    """
    announced = content[132:138] == b"\x02\x00\x00\x00UL"
    start = 144 + int.from_bytes(content[140:144], "little")
    if not announced or DeflatedExplicitVRLittleEndian.encode() not in content[144:start]:
        return
    stream, waiting, size = zlib.decompressobj(-zlib.MAX_WBITS), content[start:], 0
    while waiting and not stream.eof:
        try:
            size += len(stream.decompress(waiting, 1 << 20))
        except zlib.error:
            raise PictureFailed("the deflated data set is damaged") from None
        if size > LARGEST_INFLATED:
            raise PictureFailed(f"it inflates to more than {LARGEST_INFLATED >> 20} MiB")
        waiting = stream.unconsumed_tail


def _syntax(dataset: Dataset) -> UID:
    return UID(dataset.file_meta.TransferSyntaxUID)


def _is_native(dataset: Dataset) -> bool:
    plain = str(dataset.PhotometricInterpretation) in ("MONOCHROME1", "MONOCHROME2", "RGB")
    return plain and not _syntax(dataset).is_encapsulated


def _why_no_picture(dataset: Dataset) -> str:
    stored_as = dataset.file_meta.get("MediaStorageSOPClassUID")
    sop_class = UID(dataset.get("SOPClassUID") or stored_as or "")
    if MediaStorageDirectoryStorage in (stored_as, sop_class):
        return "a DICOMDIR"
    if sop_class in _NO_PICTURE:
        return _NO_PICTURE[sop_class]
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        return "floating point pixels"
    if "PixelData" not in dataset and "SOPClassUID" not in dataset:
        raise PictureFailed("cut short: nothing in it says what it is")
    if "PixelData" not in dataset:
        return f"no pixels ({sop_class.name or 'unnamed SOP class'})"
    if dataset.get("BitsAllocated") == 1:
        return "1-bit pixels"
    return ""


def _pixels(content: bytes, dataset: Dataset) -> tuple[WordLayout, Words, tuple[int, int] | None]:
    _refuse_oversize(dataset)
    syntax = _syntax(dataset)
    if not _is_native(dataset):
        return *_decoded(dataset, str(dataset.PhotometricInterpretation)), None
    layout = _native_layout(dataset, syntax)
    raw = dataset.get_item("PixelData")
    value = raw.value
    if len(value) < layout.byte_length:
        raise PictureFailed(
            f"Pixel Data is cut short: {len(value)} bytes where {layout.byte_length} belong"
        )
    words = layout.words(value)
    span = None
    start = getattr(raw, "value_tell", None)
    if start is not None and syntax != DeflatedExplicitVRLittleEndian:
        end = start + len(value)
        exact = len(value) == layout.byte_length + layout.byte_length % 2
        span = (start, end) if exact and _holds(content, start, value) else None
    return layout.with_sign_of(words), words, span


def _holds(content: bytes, start: int, value: bytes) -> bool:
    """Whether `value` stands in `content` at `start`; nothing is copied."""
    if start + len(value) > len(content):
        return False
    there = np.frombuffer(content, np.uint8, len(value), start)
    return bool(np.array_equal(there, np.frombuffer(value, np.uint8)))


def _refuse_oversize(dataset: Dataset) -> None:
    count = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel)
    count *= int(dataset.get("NumberOfFrames") or 1)
    if count <= 0:
        raise PictureFailed("Rows, Columns or Number of Frames is zero")
    size = count * int(dataset.BitsAllocated) // 8
    if size > LARGEST_DECODED:
        raise PictureFailed(
            f"its header announces {size >> 20} MiB of pixels; the limit is 2048 MiB"
        )


def _native_layout(dataset: Dataset, syntax: UID) -> WordLayout:
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    high = int(dataset.get("HighBit", stored - 1))
    if allocated not in (8, 16, 32) or not 1 <= stored <= high + 1 <= allocated:
        raise PictureFailed(
            f"{allocated} bits allocated, {stored} stored, high bit {high} is no layout of PS3.5"
        )
    big = syntax == ExplicitVRBigEndian
    return WordLayout(
        frames=int(dataset.get("NumberOfFrames") or 1),
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        samples=int(dataset.SamplesPerPixel),
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high,
        signed=bool(dataset.PixelRepresentation),
        big_endian=big,
        swapped=big and allocated == 8 and dataset.get_item("PixelData").VR == "OW",
        planar=int(dataset.SamplesPerPixel) > 1 and bool(dataset.get("PlanarConfiguration", 0)),
    )


def _decoded(dataset: Dataset, photometric: str) -> tuple[WordLayout, Words]:
    """Pixels as pydicom and its plugins decode them: grey, or RGB."""
    values = pixel_array(dataset)
    if photometric == "PALETTE COLOR":
        values = apply_color_lut(values, dataset)[..., :3]
        if values.dtype.itemsize == 2:
            values = (values >> 8).astype(np.uint8)  # colour pictures of most IODs have 8 bits
    samples = 1 if photometric.startswith("MONOCHROME") else 3
    frames = int(dataset.get("NumberOfFrames") or 1)
    shaped = values.reshape(frames, int(dataset.Rows), int(dataset.Columns), samples)
    bits = shaped.dtype.itemsize * 8
    if shaped.dtype.kind not in "iu" or bits not in (8, 16, 32):
        raise PictureFailed(f"the decoder gave {shaped.dtype} pixels")
    stored = min(int(dataset.BitsStored), bits) if samples == 1 else bits
    layout = WordLayout(
        frames, shaped.shape[1], shaped.shape[2], samples, bits, stored, stored - 1,
        signed=shaped.dtype.kind == "i",
    )  # fmt: skip
    words = np.ascontiguousarray(shaped).view(f"=u{bits // 8}")
    return layout.with_sign_of(words), words


def _image(dataset: Dataset, layout: WordLayout, values: Values) -> MedicalImage:
    padding = _padding(dataset, layout)
    grey = layout.samples == 1
    window = (_voi_window(dataset) or percentile_window(values, padding)) if grey else None
    slope = _number(dataset.get("RescaleSlope"), 1.0)
    return MedicalImage(
        stored=values,
        bounds=layout.bounds,
        window=window or Window(*layout.bounds),
        inverted=(str(dataset.PhotometricInterpretation) == "MONOCHROME1") != (grey and slope < 0),
        padding=padding if grey else None,
        facts=StudyFacts(
            modality=str(dataset.get("Modality") or ""),
            body_part=str(dataset.get("BodyPartExamined") or ""),
            sop_class_uid=str(dataset.get("SOPClassUID") or ""),
            photometric_interpretation=str(dataset.PhotometricInterpretation),
        ),
    )


def _voi_window(dataset: Dataset) -> Window | None:
    """Window Center and Width (PS3.3 C.11.2.1.2), brought from modality units to stored values."""
    centre, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    slope = _number(dataset.get("RescaleSlope"), 1.0)
    if centre is None or width is None or width < 1 or slope == 0:
        return None
    intercept = _number(dataset.get("RescaleIntercept"), 0.0)
    low = (centre - 0.5 - (width - 1) / 2 - intercept) / slope
    high = (centre - 0.5 + (width - 1) / 2 - intercept) / slope
    return window_of(low, high)


def _padding(dataset: Dataset, layout: WordLayout) -> tuple[int, int] | None:
    """Pixel Padding Value and Range Limit (PS3.3 C.7.5.1.1.2) as an inclusive range."""
    value = dataset.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    first, last = sorted((value, limit if isinstance(limit, int) else value))
    return (first, last) if layout.bounds[0] <= first and last <= layout.bounds[1] else None


def _first(value: Any) -> float | None:
    """The first of one or several numbers, or None where there is no finite one."""
    several = isinstance(value, list | tuple | MultiValue)
    try:
        number = float(value[0] if several else value)
    except (TypeError, ValueError, IndexError):
        return None
    return number if np.isfinite(number) else None


def _number(value: Any, default: float) -> float:
    number = _first(value)
    return default if number is None else number
