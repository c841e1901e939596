"""Whether all readers find the same in a DICOM file.

Readers forgive broken structure, each in its own way: of an element that stands twice pydicom
takes the last and DCMTK the first, a wrong group length leads one past what the other reads, a
file that names another encoding than it has is two files in one. Who changed a file around what
was signed could so show other pixels than were verified. A file that is called authentic has none
of that.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

Order = Literal["little", "big"]

_META = 132
_SHORT = frozenset(
    vr.encode()
    for vr in (
        "AE", "AS", "AT", "CS", "DA", "DS", "DT", "FL", "FD", "IS", "LO", "LT", "PN", "SH", "SL",
        "SS", "ST", "TM", "UI", "UL", "US",
    )
)  # fmt: skip
_LONG = frozenset(
    vr.encode()
    for vr in ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
)
"""VRs with a length of two bytes, and of four (PS3.5 7.1.2)."""

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_DEEPEST = 64


@dataclass(frozen=True)
class FileMeta:
    """The file meta information (PS3.10 7.1): what it names as transfer syntax, and where the
    data set begins behind it. `length_fits` says whether its group length leads there."""

    transfer_syntax: str
    end: int
    length_fits: bool


class _Fault(Exception):
    """The structure is not what PS3.5 and PS3.10 ask for."""


def read_file_meta(content: bytes) -> FileMeta | None:
    """The file meta information of a file with a preamble; None where it cannot be followed."""
    if content[128:132] != b"DICM":
        return None
    position, announced, syntax, last = _META, -1, "", 0
    try:
        while position < len(content) and content[position : position + 2] == b"\x02\x00":
            tag, _, length, start = _element(content, position, "little", explicit=True)
            if tag <= last or length == _UNDEFINED or start + length > len(content):
                return None
            value = content[start : start + length]
            if tag == 0x00020000:
                announced = start + length + int.from_bytes(value, "little")
            elif tag == 0x00020010:
                syntax = value.rstrip(b"\0 ").decode("ascii", "replace")
            last, position = tag, start + length
    except _Fault:
        return None
    return FileMeta(syntax, position, announced == position)


def structure_fault(content: bytes, largest: int) -> str:
    """What lets readers differ about a file, in words; empty where nothing does.

    Args:
        content: a DICOM file with preamble and file meta information.
        largest: bytes that a deflated data set may inflate to.
    """
    meta = read_file_meta(content)
    if meta is None or not meta.length_fits:
        return "its file header does not end where it says"
    if content[:4] in (b"II*\0", b"MM\0*", b"\x89PNG") or content[:3] == b"\xff\xd8\xff":
        return "its preamble is the beginning of another kind of picture"
    body, position = content, meta.end
    if meta.transfer_syntax == DeflatedExplicitVRLittleEndian:
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            body, position = stream.decompress(content[meta.end :], largest), 0
        except zlib.error:
            return "its deflated data set is damaged"
        if not stream.eof or len(stream.unused_data) > 1:
            return "something stands behind its deflated data set"
    explicit = meta.transfer_syntax != ImplicitVRLittleEndian
    order: Order = "big" if meta.transfer_syntax == ExplicitVRBigEndian else "little"
    if not explicit and body[position + 4 : position + 6].isalpha():
        return "its data set is not encoded as its header says"
    try:
        end = _walk(body, position, len(body), order, explicit, 0)
    except _Fault as fault:
        return str(fault)
    except (IndexError, RecursionError):
        return "its structure is broken"
    return "" if end == len(body) else "something stands behind its last element"


def _walk(content: bytes, position: int, end: int, order: Order, explicit: bool, depth: int) -> int:
    """Go through the elements of a data set or an item up to `end`, or to the delimiter of an item
    whose length is not defined (`end` -1 then); where it ends."""
    if depth > _DEEPEST:
        raise _Fault("its sequences are nested too deep")
    last, limit = -1, len(content) if end < 0 else end
    while position < limit:
        tag, vr, length, start = _element(content, position, order, explicit)
        if tag == _ITEM_END:
            if end >= 0 or length:
                raise _Fault("an item ends where none began")
            return start
        if tag <= last or tag >> 16 in (0x0000, 0x0002, 0xFFFE):
            raise _Fault("its elements are not in order, or one of them stands twice")
        last = tag
        position = _skip(content, tag, vr, length, start, limit, order, explicit, depth)
    if position != limit or end < 0:
        raise _Fault("it is cut short, or the length of an element is wrong")
    return position


def _skip(
    content: bytes,
    tag: int,
    vr: bytes,
    length: int,
    start: int,
    limit: int,
    order: Order,
    explicit: bool,
    depth: int,
) -> int:
    """Where the value of an element ends."""
    if length != _UNDEFINED:
        if start + length > limit:
            raise _Fault("it is cut short, or the length of an element is wrong")
        if vr == b"SQ":
            _items(content, start, start + length, order, explicit, depth)
        return start + length
    if tag == 0x7FE00010 and vr != b"SQ":
        return _fragments(content, start, limit, order)
    if vr == b"UN":  # its items are in Implicit VR Little Endian (PS3.5 6.2.2)
        return _items(content, start, -1, "little", False, depth)
    if vr in (b"SQ", b""):
        return _items(content, start, -1, order, explicit, depth)
    raise _Fault("an element has no length")


def _items(
    content: bytes, position: int, end: int, order: Order, explicit: bool, depth: int
) -> int:
    limit = len(content) if end < 0 else end
    while position < limit:
        tag, length, start = _delimiter(content, position, order)
        if tag == _SEQUENCE_END and end < 0 and not length:
            return start
        if tag != _ITEM:
            raise _Fault("a sequence holds something that is no item")
        stop = -1 if length == _UNDEFINED else start + length
        if stop > limit:
            raise _Fault("an item is longer than its sequence")
        position = _walk(content, start, stop, order, explicit, depth + 1)
    if end < 0 or position != limit:
        raise _Fault("a sequence does not end where it says")
    return position


def _fragments(content: bytes, position: int, limit: int, order: Order) -> int:
    """Where compressed Pixel Data ends (PS3.5 A.4)."""
    while position < limit:
        tag, length, start = _delimiter(content, position, order)
        if tag == _SEQUENCE_END and not length:
            return start
        if tag != _ITEM or length == _UNDEFINED or start + length > limit:
            break
        position = start + length
    raise _Fault("its compressed pixels do not end where they say")


def _delimiter(content: bytes, position: int, order: Order) -> tuple[int, int, int]:
    """Tag, length and end of an item's or a delimiter's header."""
    if position + 8 > len(content):
        raise _Fault("it is cut short")
    tag = _tag(content, position, order)
    return tag, int.from_bytes(content[position + 4 : position + 8], order), position + 8


def _element(
    content: bytes, position: int, order: Order, explicit: bool
) -> tuple[int, bytes, int, int]:
    """Tag, VR (that of the dictionary where the file names none), length and start of the value."""
    if position + 8 > len(content):
        raise _Fault("it is cut short")
    tag = _tag(content, position, order)
    if tag >> 16 == 0xFFFE or not explicit:
        length = int.from_bytes(content[position + 4 : position + 8], order)
        return tag, _known_vr(tag), length, position + 8
    vr = content[position + 4 : position + 6]
    if vr in _SHORT:
        length = int.from_bytes(content[position + 6 : position + 8], order)
        return tag, vr, length, position + 8
    if vr not in _LONG or position + 12 > len(content):
        raise _Fault("an element has no VR, so its data set is not encoded as its header says")
    length = int.from_bytes(content[position + 8 : position + 12], order)
    return tag, vr, length, position + 12


def _tag(content: bytes, position: int, order: Order) -> int:
    group = int.from_bytes(content[position : position + 2], order)
    return group << 16 | int.from_bytes(content[position + 2 : position + 4], order)


@lru_cache(maxsize=4096)
def _known_vr(tag: int) -> bytes:
    return b"SQ" if dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ" else b""
