"""What a signature is made over: canonical digests of pixels and of the picture's attributes.

Both survive a loss-free change of encoding (another transfer syntax, byte order or VR encoding),
so that `verify` can tell a re-encoded file from a changed one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from miad_cli.imaging.words import Values, WordLayout, Words

PICTURE_ATTRIBUTES = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "SamplesPerPixel",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "BitsStored",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PixelAspectRatio",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PatientOrientation",
    "SliceThickness",
    "SpacingBetweenSlices",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PresentationLUTShape",
)
"""Image Pixel, geometry, rescale, VOI and UIDs; nothing that identifies a person."""

_TEXT = ("DS", "IS", "CS", "UI", "LO", "SH")
_TAGS = {keyword: int(Tag(keyword)) for keyword in PICTURE_ATTRIBUTES}
_VRS = {keyword: dictionary_VR(tag) for keyword, tag in _TAGS.items()}

_LOOK_UPS = (int(Tag("ModalityLUTSequence")), int(Tag("VOILUTSequence")))
_GROUPS = tuple(int(Tag(f"{kind}FunctionalGroupsSequence")) for kind in ("Shared", "PerFrame"))
_PHOTOMETRIC = int(Tag("PhotometricInterpretation"))
_PICTURE_TAGS = frozenset(_TAGS.values())

Elements = Mapping[int, DataElement | RawDataElement]
"""A data set's elements by tag, as pydicom parsed them, before it makes values of them."""

_NUMBER = re.compile(r"[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]+)?")
"""A decimal number as PS3.5 6.2 writes DS and IS."""

TILES = 8
"""Tiles along each side of the grid that says where a picture was changed."""


def pixels_digest(
    layout: WordLayout, words: Words, value: bytes | memoryview = b"", of_value: str = ""
) -> str:
    """SHA-256 (hex) of geometry and values, little endian, rows x columns x samples by frame.

    Bits that belong to no value are part of it where they say something (overlays in high bits).
    `of_value` is the SHA-256 (hex) of `value`, if there is one: where these bytes are the values,
    as in most files, they are not hashed twice.
    """
    values, unused = split_words(layout, words)
    laid = _laid_out(values, layout.bits_stored, layout.signed)
    if of_value and len(value) == laid.nbytes and _are_same(laid, value):
        digest = _with_geometry(values, layout.bits_stored, layout.signed, bytes.fromhex(of_value))
    else:
        digest = values_digest(values, layout.bits_stored, layout.signed)
    if unused is None:
        return digest
    width = f"<u{layout.bits_allocated // 8}"
    return hashlib.sha256(digest.encode() + unused.astype(width).tobytes()).hexdigest()


def split_words(layout: WordLayout, words: Words) -> tuple[Values, Words | None]:
    """The values in `words`, and the bits that belong to none where they say something.

    Nothing is copied where the words are the values, as in most files.
    """
    plain = layout.high_bit + 1 == layout.bits_stored
    full = layout.bits_stored == layout.bits_allocated
    if plain and (full or layout.sign_extended or not layout.signed):
        values = words.view(f"{'i' if layout.signed else 'u'}{words.dtype.itemsize}")
        low, high = layout.bounds
        if full or (low <= int(values.min()) and int(values.max()) <= high):
            return values, None
    return layout.values(words), layout.unused_bits(words)


def values_digest(values: Values, bits_stored: int, signed: bool) -> str:
    """SHA-256 (hex) of (frames, rows, columns, samples) integers and their shape.

    Each value is written little endian in the fewest of 1, 2 or 4 bytes that hold `bits_stored`.
    """
    state = hashlib.sha256()
    for frame in values:
        state.update(_laid_out(frame, bits_stored, signed).data)
    return _with_geometry(values, bits_stored, signed, state.digest())


def _with_geometry(values: Values, bits_stored: int, signed: bool, of_values: bytes) -> str:
    geometry = json.dumps([*values.shape, bits_stored, int(signed)], separators=(",", ":"))
    message = b"miad/v1/pixels\0" + geometry.encode() + b"\0" + of_values
    return hashlib.sha256(message).hexdigest()


def _laid_out(values: Values, bits_stored: int, signed: bool) -> Values:
    return np.ascontiguousarray(values, dtype=_value_code(bits_stored, signed))


def _are_same(laid: Values, value: bytes | memoryview) -> bool:
    there = np.frombuffer(value, laid.dtype)
    if laid.__array_interface__["data"][0] == there.__array_interface__["data"][0]:
        return True  # one is a view of the other
    return bool(np.array_equal(laid.reshape(-1), there))


def _value_code(bits_stored: int, signed: bool) -> str:
    width = 1 if bits_stored <= 8 else 2 if bits_stored <= 16 else 4
    return f"<{'i' if signed else 'u'}{width}"


def tile_digests(values: Values, bits_stored: int, signed: bool, extra: Words | None = None) -> str:
    """8 hex digits (4 bytes of SHA-256) for each of 8 x 8 tiles of the picture, row by row.

    A tile's digest is over its values in all frames, laid out as in `values_digest`, and over
    the same tile of `extra` (transparency, or bits that belong to no value) where there is one.
    """
    code, digests = _value_code(bits_stored, signed), []
    for rows, columns in tile_regions(values.shape[1], values.shape[2]):
        state = hashlib.sha256(b"miad/v1/tile\0")
        state.update(values[:, rows, columns].astype(code).tobytes())
        if extra is not None:
            width = f"<u{extra.dtype.itemsize}"
            state.update(extra[:, rows, columns].astype(width).tobytes())
        digests.append(state.hexdigest()[:8])
    return "".join(digests)


def tile_regions(rows: int, columns: int) -> list[tuple[slice, slice]]:
    """Rows and columns of the 64 tiles, row by row; some are empty in very small pictures."""
    down, across = ([size * n // TILES for n in range(TILES + 1)] for size in (rows, columns))
    return [
        (slice(down[i], down[i + 1]), slice(across[j], across[j + 1]))
        for i in range(TILES)
        for j in range(TILES)
    ]


def elements_of(dataset: Dataset) -> Elements:
    """The elements of `dataset` by plain integers: looking one up costs next to nothing."""
    return {int(tag): element for tag, element in dataset.items()}


def attribute_facts(dataset: Dataset) -> dict[str, list[str]]:
    """The picture's attributes that are there and not empty, as text."""
    elements = elements_of(dataset)
    described = {
        keyword: _described(dataset, tag, elements[tag], _VRS[keyword])
        for keyword, tag in _TAGS.items()
        if tag in elements
    }
    described["PhotometricInterpretation"] = _photometric(dataset, elements)
    overlays = sorted(tag for tag in elements if 0x6000 <= tag >> 16 <= 0x60FF)
    described["Overlays"] = _flat(dataset, overlays, everything=True)
    look_ups = [tag for tag in _LOOK_UPS if tag in elements]
    described["LookupTables"] = _flat(dataset, look_ups, everything=True)
    groups = [tag for tag in _GROUPS if tag in elements]
    described["FunctionalGroups"] = _flat(dataset, groups, everything=False)
    return {name: value for name, value in described.items() if value}


def _photometric(dataset: Dataset, elements: Elements) -> list[str]:
    """MONOCHROME1 or 2 as it is; all colour is one, since another encoding may rename it."""
    if _PHOTOMETRIC not in elements:
        return []
    named = raw_text(elements[_PHOTOMETRIC], "CS")
    if not named or "\\" in named:
        named = str(dataset.get("PhotometricInterpretation") or "")
    return [named if named.startswith("MONOCHROME") else "COLOUR"] if named else []


def _flat(dataset: Dataset, tags: Sequence[int], *, everything: bool) -> list[str]:
    """`tag=value` of elements, depth first; below sequences only the picture's attributes unless
    `everything` counts. Long values stand as their SHA-256."""
    said: list[str] = []
    for tag in tags:
        element = dataset[tag]
        if element.VR == "SQ":
            for number, item in enumerate(element.value):
                said.append(f"{tag:08x}[{number}]")
                said += _flat(item, sorted(item.keys()), everything=everything)
        elif everything or tag in _PICTURE_TAGS:
            value = element.value
            exact = hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else ""
            said.append(f"{tag:08x}={exact or '|'.join(_canonical(value))}")
    return said


def fact_digests(facts: dict[str, list[str]]) -> dict[str, str]:
    """For each attribute 8 hex digits (4 bytes of SHA-256) that say whether it was changed.

    Enough to name what changed; that something changed is for `facts_digest` to say.
    """
    return {name: facts_digest({name: value})[:8] for name, value in facts.items()}


def facts_digest(facts: dict[str, list[str]]) -> str:
    """SHA-256 (hex) of attribute names and their values as text, in canonical JSON."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(b"miad/v1/attributes\0" + text.encode()).hexdigest()


def raw_text(element: DataElement | RawDataElement, vr: str) -> str:
    """The text of an element that is still bytes, all values of it; nothing where it is not text.

    `vr` is the element's VR by the dictionary, for files that name none. pydicom makes numbers
    or UIDs of such text, at ten times the price.
    """
    if not isinstance(element, RawDataElement) or (element.VR or vr) not in _TEXT:
        return ""
    value = element.value
    return value.decode("ascii").rstrip(" \0") if value and value.isascii() else ""


def raw_number(element: DataElement | RawDataElement | None, vr: str = "US") -> int | None:
    """The number in an element of VR US that holds exactly one and is still bytes."""
    if not isinstance(element, RawDataElement) or (element.VR or vr) != "US":
        return None
    if element.value is None or len(element.value) != 2:
        return None
    return int.from_bytes(element.value, "little" if element.is_little_endian else "big")


def _described(
    dataset: Dataset, tag: int, element: DataElement | RawDataElement, vr: str
) -> list[str]:
    """An attribute's values as text; from the bytes in the file where that can be."""
    if text := raw_text(element, vr):
        return [_canonical_item(item) for item in text.split("\\")]
    if (number := raw_number(element, vr)) is not None:
        return [str(number)]
    return _canonical(dataset[tag].value)


def _canonical(value: Any) -> list[str]:
    """An attribute's values as text; numbers to 12 digits, however they were spelt."""
    if value is None or value == "":
        return []
    items = value if isinstance(value, list | tuple | MultiValue) else [value]
    return [_canonical_item(str(item)) for item in items]


@lru_cache(maxsize=1024)
def _canonical_item(item: str) -> str:
    text = item.strip()
    return format(float(text), ".12g") if _NUMBER.fullmatch(text) else text
