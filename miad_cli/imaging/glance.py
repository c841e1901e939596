"""A glance at a plain DICOM picture: what its seal is compared with, and nothing more.

Most files that are verified are uncompressed and untouched. Of those, a glance tells what
`identify` and `container_in` tell of the picture that `read_dicom` reads, at half the price:
elements stay bytes, and no pixel is copied. Whatever is not quite plain gets no glance, and a
file that is not found as it was sealed is to be read in full.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BytesIO

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.filereader import data_element_generator, read_dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from miad_cli.imaging import dicom
from miad_cli.imaging.derivation import PRIVATE_CREATOR, PRIVATE_GROUP
from miad_cli.imaging.digests import (
    Elements,
    attribute_facts,
    elements_of,
    facts_digest,
    pixels_digest,
    raw_number,
    raw_text,
)
from miad_cli.imaging.picture import Identity
from miad_cli.imaging.words import WordLayout

_META = 132
"""Where the file meta information begins (PS3.10 7.1)."""

_LARGEST = 1 << 30
"""Bytes of pixels beyond which nobody would call it a glance."""

_LONG = 64 << 10
"""Bytes beyond which a value is not copied out of the file."""

_SYNTAXES = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
_PICTURES = ("MONOCHROME1", "MONOCHROME2", "RGB")

_TAGS = {
    keyword: int(Tag(keyword))
    for keyword in (
        "MediaStorageSOPClassUID",
        "TransferSyntaxUID",
        "SOPClassUID",
        "SOPInstanceUID",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "PlanarConfiguration",
        "NumberOfFrames",
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "FloatPixelData",
        "DoubleFloatPixelData",
        "PixelData",
    )
}
_CONTAINER_ELEMENT = 0x02
"""Where our block has the container (docs/format.md, Carriers)."""

_FIRST_CREATOR, _LAST_CREATOR = (PRIVATE_GROUP << 16) + 0x10, (PRIVATE_GROUP << 16) + 0xFF


class _NotPlain(Exception):
    """Something is missing, or not in its plainest form."""


@dataclass(frozen=True, eq=False)
class Glance:
    """What a glance shows. `container` is the sealed one inside the file, or None."""

    container: bytes | None
    _subject: str
    _dataset: Dataset
    _layout: WordLayout
    _pixel_data: memoryview

    def identity(self) -> Identity | None:
        """What `identify` says of this picture; None where only that can say it."""
        layout, value = self._layout, self._pixel_data
        try:
            facts = attribute_facts(self._dataset)
        except Exception:  # a value that breaks its VR makes pydicom raise anything
            return None
        words = layout.words(value)
        of_value = hashlib.sha256(value).hexdigest()
        of_pixels = pixels_digest(layout.with_sign_of(words), words, value, of_value)
        return Identity(self._subject, of_pixels, of_value, facts_digest(facts))


def glance_at(content: bytes) -> Glance | None:
    """A glance at a file; None where it takes a look at all of it."""
    # A meta group that announces its length is what every writer of today puts first.
    if content[_META - 4 : _META + 6] != b"DICM\x02\x00\x00\x00UL":
        return None
    try:
        return _glance(content)
    except Exception:  # a broken file makes pydicom raise anything
        return None


def _glance(content: bytes) -> Glance:
    stream = BytesIO(content)
    stream.seek(_META)
    # The same functions of pydicom's that dcmread calls, without what else it makes.
    of_meta = data_element_generator(
        stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2
    )
    meta = {int(element.tag): element for element in of_meta}
    syntax = _text(meta, "TransferSyntaxUID")
    if syntax not in _SYNTAXES:
        raise _NotPlain
    dataset = read_dataset(stream, syntax == ImplicitVRLittleEndian, True, defer_size=_LONG)
    elements = elements_of(dataset)
    _check_kind(elements, _text(meta, "MediaStorageSOPClassUID"))
    layout, value = _layout(elements), _bytes(content, elements, _TAGS["PixelData"], "OB", "OW")
    if len(value) != layout.byte_length + layout.byte_length % 2 or len(value) > _LARGEST:
        raise _NotPlain
    container = _container(content, elements)
    return Glance(container, _text(elements, "SOPInstanceUID"), dataset, layout, value)


def _check_kind(elements: Elements, stored_as: str) -> None:
    """Raise _NotPlain unless these are the elements of one grey or RGB picture in integers."""
    kind = _text(elements, "SOPClassUID")
    if kind != stored_as or kind in dicom.NO_PICTURE or min(elements) >> 16 < 8:
        raise _NotPlain
    if _TAGS["FloatPixelData"] in elements or _TAGS["DoubleFloatPixelData"] in elements:
        raise _NotPlain
    if _text(elements, "PhotometricInterpretation", "CS") not in _PICTURES:
        raise _NotPlain


def _layout(elements: Elements) -> WordLayout:
    samples, planar = _number(elements, "SamplesPerPixel"), _TAGS["PlanarConfiguration"]
    if samples > 1 and planar in elements and _number(elements, "PlanarConfiguration") != 0:
        raise _NotPlain
    several = _TAGS["NumberOfFrames"] in elements
    return WordLayout(
        frames=int(_text(elements, "NumberOfFrames", "IS")) if several else 1,
        rows=_number(elements, "Rows"),
        columns=_number(elements, "Columns"),
        samples=samples,
        bits_allocated=_number(elements, "BitsAllocated"),
        bits_stored=_number(elements, "BitsStored"),
        high_bit=_number(elements, "HighBit"),
        signed=bool(_number(elements, "PixelRepresentation")),
    )


def _container(content: bytes, elements: Elements) -> bytes | None:
    """The container in our private block, as `derivation.embedded_container` finds it."""
    creators = [tag for tag in elements if _FIRST_CREATOR <= tag <= _LAST_CREATOR]
    if not creators:
        return None
    said = _bytes(content, elements, creators[0], "LO")
    if len(creators) > 1 or said != PRIVATE_CREATOR.encode():
        raise _NotPlain
    block = (PRIVATE_GROUP << 16) + ((creators[0] & 0xFF) << 8)
    return bytes(_bytes(content, elements, block + _CONTAINER_ELEMENT, "OB", "UN"))


def _text(elements: Elements, keyword: str, vr: str = "UI") -> str:
    text = raw_text(elements[_TAGS[keyword]], vr)
    if not text or "\\" in text or text != text.strip():
        raise _NotPlain
    return text


def _number(elements: Elements, keyword: str) -> int:
    number = raw_number(elements[_TAGS[keyword]])
    if number is None:
        raise _NotPlain
    return number


def _bytes(content: bytes, elements: Elements, tag: int, *vrs: str) -> memoryview:
    """An element's value as it stands in the file, of one of these VRs if the file names any."""
    element = elements[tag]
    if not isinstance(element, RawDataElement) or element.VR not in (None, *vrs):
        raise _NotPlain
    start, end = element.value_tell, element.value_tell + element.length
    if not 0 < element.length <= len(content) - start:
        raise _NotPlain
    return memoryview(content)[start:end]
