"""What a signature is made over: canonical digests of pixels and of the picture's attributes.

Both survive a loss-free change of encoding (another transfer syntax, byte order or VR encoding),
so that `verify` can tell a re-encoded file from a changed one.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.multival import MultiValue

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


def pixels_digest(layout: WordLayout, words: Words) -> str:
    """SHA-256 (hex) of geometry and values, little endian, rows x columns x samples by frame.

    Bits that belong to no value are part of it where they say something (overlays in high bits).
    """
    values = layout.values(words)
    digest = values_digest(values, layout.bits_stored, layout.signed)
    unused = layout.unused_bits(words)
    if unused is None:
        return digest
    width = f"<u{layout.bits_allocated // 8}"
    return hashlib.sha256(digest.encode() + unused.astype(width).tobytes()).hexdigest()


def values_digest(values: Values, bits_stored: int, signed: bool) -> str:
    """SHA-256 (hex) of (frames, rows, columns, samples) integers and their shape.

    Each value is written little endian in the fewest of 1, 2 or 4 bytes that hold `bits_stored`.
    """
    width = 1 if bits_stored <= 8 else 2 if bits_stored <= 16 else 4
    geometry = json.dumps([*values.shape, bits_stored, int(signed)], separators=(",", ":"))
    state = hashlib.sha256(b"miad/v1/pixels\0" + geometry.encode() + b"\0")
    code = f"<{'i' if signed else 'u'}{width}"
    for frame in values:
        state.update(np.ascontiguousarray(frame, dtype=code).tobytes())
    return state.hexdigest()


def attributes_digest(dataset: Dataset) -> str:
    """SHA-256 (hex) of the picture's attributes, in canonical JSON."""
    described = {keyword: _canonical(dataset.get(keyword)) for keyword in PICTURE_ATTRIBUTES}
    return facts_digest({name: value for name, value in described.items() if value})


def facts_digest(facts: dict[str, list[str]]) -> str:
    """SHA-256 (hex) of attribute names and their values as text, in canonical JSON."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(b"miad/v1/attributes\0" + text.encode()).hexdigest()


def _canonical(value: Any) -> list[str]:
    """An attribute's values as text; numbers to 12 digits, however they were spelt."""
    if value is None or value == "":
        return []
    items = value if isinstance(value, list | tuple | MultiValue) else [value]
    return [_canonical_item(item) for item in items]


def _canonical_item(item: Any) -> str:
    try:
        return format(float(item), ".12g")
    except (TypeError, ValueError):
        return str(item).strip()
