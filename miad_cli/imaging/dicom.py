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
from importlib.util import find_spec
from io import BytesIO
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import iter_pixels, pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
    MediaStorageDirectoryStorage,
)

from miad_cli.errors import PictureFailed
from miad_cli.imaging.codestreams import refuse_other_shape
from miad_cli.imaging.digests import attribute_facts
from miad_cli.imaging.display import display_window, padding_range, pixel_aspect
from miad_cli.imaging.image import MedicalImage, StudyFacts
from miad_cli.imaging.structure import read_file_meta
from miad_cli.imaging.words import Values, WordLayout, Words

Frame = NDArray[np.integer[Any]]

LARGEST_DECODED = 2 << 30
"""Bytes of decoded pixels beyond which a file is refused before anything is allocated."""

LARGEST_INFLATED = 512 << 20
"""Bytes that a deflated data set may unpack to."""

_UNDEFINED = 0xFFFFFFFF
"""The length that says: up to the delimiter (PS3.5 7.1.1)."""

_PIECE = 1 << 20

A_DICOMDIR = "a DICOMDIR"
"""The reason of a NoPicture that is a directory of other files (PS3.10 Section 8.6)."""

_LONGEST_META = 1 << 16
"""Bytes within which a file names its transfer syntax, whatever is wrong with its header."""

NO_PICTURE = {
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "a label map segmentation",
    "1.2.840.10008.5.1.4.1.1.30": "a parametric map",
    "1.2.840.10008.5.1.4.1.1.481.2": "a radiotherapy dose",
}


@dataclass(frozen=True)
class NoPicture:
    """A DICOM object that carries no picture to protect, and what it is instead. `has_pixels` where
    others may show it as a picture all the same."""

    reason: str
    has_pixels: bool = False


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
        pixel_data: the Pixel Data value, encapsulated or not; a view of `content` where it can be.
    """

    content: bytes
    dataset: Dataset
    attributes: dict[str, list[str]]
    layout: WordLayout
    words: Words
    span: tuple[int, int] | None
    pixel_data: memoryview

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
    if len(head) < 8:
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    if head[:2] == b"\x00\x08" and head[2:3] == b"\x00":
        return explicit  # big endian is always explicit
    if head[:2] not in (b"\x02\x00", b"\x08\x00") or head[3:4] != b"\x00":
        return False
    return explicit or (head[5:8] == b"\0\0\0" and head[4] <= 64)


def read_dicom(content: bytes, largest: int = LARGEST_DECODED) -> DicomPicture | NoPicture:
    """Read one file; a file without preamble or file meta information is read as far as its
    encoding can be told by its first element.

    Args:
        largest: bytes of decoded pixels beyond which it is refused.

    Raises:
        PictureFailed: it is not DICOM, is cut short, or holds pixels that cannot be decoded.
    """
    dataset = read_attributes(content, largest)
    with _decoding(dataset):
        reason = _why_no_picture(dataset)
        if reason:
            return NoPicture(reason, "PixelData" in dataset)
        facts = attribute_facts(dataset)
        return DicomPicture(content, dataset, facts, *_pixels(content, dataset, largest))


def read_dataset(content: bytes) -> Dataset:
    """All elements of a file, those of a file without header too, which then gets one.

    Whatever pydicom raises on a broken file is raised.
    """
    bare = not is_dicom(content[:132])
    # What is long is not copied out of the file before somebody asks for it.
    dataset = dcmread(BytesIO(content), defer_size=_PIECE, force=bare)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        native = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else native
        if "PixelData" in dataset and pixel_element(dataset).length == _UNDEFINED:
            raise PictureFailed(
                "its pixels are compressed, and no transfer syntax in its header says how"
            )
    return dataset


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


def read_attributes(content: bytes, largest: int = LARGEST_DECODED) -> Dataset:
    """The data set of a file, picture or not; nothing is decoded, and long values stay put off.

    Raises:
        PictureFailed: it is not DICOM, or broken, or inflates to more than is allowed.
    """
    if not is_dicom(content[:132]) and not is_bare_dicom(content[:8]):
        raise PictureFailed("not a DICOM file (no DICM prefix)")
    _refuse_deflate_bomb(content, largest)
    try:
        dataset = read_dataset(content)
        dataset.get("SOPClassUID")
        named = bool(_syntax(dataset))
    except PictureFailed:
        raise
    except (Exception, RecursionError) as error:  # a broken file makes pydicom raise anything
        raise PictureFailed(f"broken DICOM structure ({type(error).__name__})") from error
    if not named:
        raise PictureFailed("no transfer syntax is named in the file's header")
    return dataset


def _refuse_deflate_bomb(content: bytes, largest: int) -> None:
    """Measure what a deflated data set (PS3.5 A.5) unpacks to before pydicom unpacks it whole.

    Raises:
        PictureFailed: it is more than a file may hold.
    """
    meta = read_file_meta(content)
    if meta is None and DeflatedExplicitVRLittleEndian.encode() in content[:_LONGEST_META]:
        raise PictureFailed("its file header is broken, and its data set may be deflated")
    if meta is None or meta.transfer_syntax != DeflatedExplicitVRLittleEndian:
        return
    limit = largest if largest > LARGEST_DECODED else LARGEST_INFLATED
    stream, waiting, size = zlib.decompressobj(-zlib.MAX_WBITS), content[meta.end :], 0
    while waiting and not stream.eof:
        try:
            size += len(stream.decompress(waiting, 1 << 20))
        except zlib.error:
            raise PictureFailed("the deflated data set is damaged") from None
        if size > limit:
            raise PictureFailed(f"it inflates to more than {limit >> 20} MiB")
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
        return A_DICOMDIR
    if sop_class in NO_PICTURE:
        return NO_PICTURE[sop_class]
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        return "floating point pixels"
    if "PixelData" not in dataset and "SOPClassUID" not in dataset:
        raise PictureFailed("cut short: nothing in it says what it is")
    if "PixelData" not in dataset:
        return f"no pixels ({sop_class.name or 'unnamed SOP class'})"
    if dataset.get("BitsAllocated") == 1:
        return "1-bit pixels"
    return ""


def _pixels(
    content: bytes, dataset: Dataset, largest: int
) -> tuple[WordLayout, Words, tuple[int, int] | None, memoryview]:
    _refuse_oversize(dataset, largest)
    raw = pixel_element(dataset)
    if not _is_native(dataset):
        decoded = _decoded(dataset, str(dataset.PhotometricInterpretation))
        value, place = _value(content, dataset, raw)
        if place is not None:
            dataset["PixelData"] = raw._replace(value=None)  # read again when it is asked for
        return *decoded, None, value
    layout = _native_layout(dataset, _syntax(dataset))
    value, place = _value(content, dataset, raw)
    if len(value) < layout.byte_length:
        raise PictureFailed(
            f"Pixel Data is cut short: {len(value)} bytes where {layout.byte_length} belong"
        )
    words = layout.words(value)
    exact = len(value) == layout.byte_length + layout.byte_length % 2
    return layout.with_sign_of(words), words, place if exact else None, value


def pixel_element(dataset: Dataset) -> Any:
    """Pixel Data as pydicom found it, without reading what it put off."""
    return dataset.get_item("PixelData", keep_deferred=True)


def _value(content: bytes, dataset: Dataset, raw: Any) -> tuple[memoryview, tuple[int, int] | None]:
    """The Pixel Data value, and start and end of it in the file if it is there as it is."""
    deflated = _syntax(dataset) == DeflatedExplicitVRLittleEndian
    file, start = dataset.buffer.getvalue() if deflated else content, raw.value_tell
    if raw.length != _UNDEFINED:
        end = min(start + raw.length, len(file))
    else:
        read = raw.value if raw.value is not None else dataset.PixelData
        end = start + len(read)
        if file[start:end] != read:
            return memoryview(read), None
    return memoryview(file)[start:end], None if deflated else (start, end)


_NEEDED = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "PhotometricInterpretation")


def _refuse_oversize(dataset: Dataset, largest: int) -> None:
    missing = [keyword for keyword in _NEEDED if dataset.get(keyword) in (None, "")]
    if missing:
        raise PictureFailed(f"its header does not say {missing[0]}, which its pixels need")
    count = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel)
    count *= int(dataset.get("NumberOfFrames") or 1)
    if count <= 0:
        raise PictureFailed("Rows, Columns or Number of Frames is zero")
    size = count * int(dataset.BitsAllocated) // 8
    if size > largest:
        raise PictureFailed(
            f"its header announces {size >> 20} MiB of pixels; the limit is {largest >> 20} MiB"
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
        swapped=big and allocated == 8 and pixel_element(dataset).VR == "OW",
        planar=int(dataset.SamplesPerPixel) > 1 and bool(dataset.get("PlanarConfiguration", 0)),
    )


def _decoded(dataset: Dataset, photometric: str) -> tuple[WordLayout, Words]:
    """Pixels as pydicom and its plugins decode them, frame by frame: grey, or RGB."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    samples = 1 if photometric.startswith("MONOCHROME") else 3
    shape = (int(dataset.Rows), int(dataset.Columns), samples)
    whole, count = None, 0
    for frame in islice(_decoded_frames(dataset, frames), frames):
        shown = _coloured(frame, dataset).reshape(shape)
        if whole is None:
            _refuse_type(shown.dtype)
            whole = shown[None] if frames == 1 else np.empty((frames, *shape), shown.dtype)
        if frames > 1:
            whole[count] = shown.astype(whole.dtype, casting="safe", copy=False)
        count += 1
    if whole is None or count < frames:
        raise PictureFailed(f"{count} frames where {frames} belong")
    bits = whole.dtype.itemsize * 8
    stored = min(int(dataset.BitsStored), bits) if samples == 1 else bits
    layout = WordLayout(
        frames, shape[0], shape[1], samples, bits, stored, stored - 1,
        signed=whole.dtype.kind == "i",
    )  # fmt: skip
    words = np.ascontiguousarray(whole).view(f"=u{bits // 8}")
    return layout.with_sign_of(words), words


def _decoded_frames(dataset: Dataset, frames: int) -> Iterator[Frame]:
    """One frame after the other, (rows, columns) or (rows, columns, 3).

    Raises:
        PictureFailed: 12-bit JPEG, and its decoder is not installed.
    """
    refuse_other_shape(dataset)
    _refuse_jpeg_of_12_bits(dataset)
    wanted = int(dataset.BitsAllocated)
    if frames > 1:
        for number, frame in enumerate(iter_pixels(dataset)):
            if number == 0 and frame.dtype.itemsize * 8 != wanted:
                break  # pydicom corrects what decoders make narrower in whole pictures only
            yield frame
        else:
            return
    whole = pixel_array(dataset, allow_excess_frames=False)
    yield from whole if frames > 1 else [whole]


def _coloured(frame: Frame, dataset: Dataset) -> Frame:
    """A frame of palette indices as 8-bit RGB; any other as it is."""
    if str(dataset.PhotometricInterpretation) != "PALETTE COLOR":
        return frame
    colours = apply_color_lut(frame, dataset)[..., :3]
    # Colour pictures of most IODs have 8 bits.
    return (colours >> 8).astype(np.uint8) if colours.dtype.itemsize == 2 else colours


def _refuse_type(dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "iu" or dtype.itemsize not in (1, 2, 4):
        raise PictureFailed(f"the decoder gave {dtype} pixels")


def _refuse_jpeg_of_12_bits(dataset: Dataset) -> None:
    """Say which decoder is missing, where only one can do it and it is an extra."""
    needed = _syntax(dataset) == JPEGExtended12Bit and int(dataset.BitsStored) > 8
    if needed and find_spec("libjpeg") is None:
        raise PictureFailed(
            "JPEG of 12 bits needs the decoder pylibjpeg-libjpeg, which is not installed",
            hint='Install the extra: pip install "miad[libjpeg]" (its licence is GPL-3).',
        )


def _image(dataset: Dataset, layout: WordLayout, values: Values) -> MedicalImage:
    key_frame = layout.frames // 2
    window, inverted = display_window(dataset, layout, values, key_frame)
    return MedicalImage(
        stored=values,
        bounds=layout.bounds,
        window=window,
        inverted=inverted,
        padding=padding_range(dataset, layout),
        facts=StudyFacts(
            modality=str(dataset.get("Modality") or ""),
            body_part=str(dataset.get("BodyPartExamined") or ""),
            sop_class_uid=str(dataset.get("SOPClassUID") or ""),
            photometric_interpretation=str(dataset.PhotometricInterpretation),
        ),
        pixel_aspect=pixel_aspect(dataset, key_frame),
    )
