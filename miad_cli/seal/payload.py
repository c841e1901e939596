"""What is inside the age file: how to get the original back, and the bytes that takes.

`encode` and `decode` are each other's inverse. The layout is in `docs/format.md`. A payload is
read only after its container's signature was checked, and it is bounded all the same: what
cannot be true is refused before anything is inflated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import zstandard

from miad_cli.errors import ContainerDamaged
from miad_cli.seal.container import (
    INTEGER_LIMIT,
    canonical_json,
    check_field,
    parse_canonical_json,
)

Json: TypeAlias = "Mapping[str, Json] | list[Json] | str | int | bool | None"

PAYLOAD_VERSION = 1
HEADER_LIMIT = 1 << 20
TOTAL_LIMIT = 4 << 30
"""Bytes of all parts together, inflated, unless the caller of `decode` says otherwise."""

PART_LIMIT = 1000
DEPTH_LIMIT = 32
RECIPIENT_LIMIT = 1000
NAME_LIMIT = 1024
"""Bytes of UTF-8 in the original's file name."""

_ZSTD_LEVEL = 10
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_RATIO = 1 << 16
"""No frame inflates more: a block of it holds 128 KiB at most and takes 3 bytes at least
(RFC 8878, Section 3.1.1.2)."""

_PART_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.-")


@dataclass(frozen=True)
class Payload:
    """How to restore one original, for whoever holds a key.

    `subject` and `mode` are those of the manifest. `original_name` is a file name without a
    folder: to be shown, never to build a path from. `original_sha256` (64 hex digits) and
    `original_length` (bytes) are those of the original file. `recipe` is JSON without
    fractions, keys in ASCII, small; everything binary or long is in `parts`. `recipients` are
    the public keys that the payload is sealed to, which age itself does not tell; empty where
    they were not recorded.

    Raises:
        ValueError: a field is not as said here.
    """

    subject: str
    original_name: str
    original_sha256: str
    original_length: int
    mode: str
    recipe: Mapping[str, Json]
    parts: Mapping[str, bytes]
    recipients: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_field("subject", self.subject)
        check_field("payload_mode", self.mode)
        check_field("pixels_sha256", self.original_sha256)
        check_field("original_length", self.original_length)
        _check_file_name(self.original_name)
        if not isinstance(self.recipe, dict):
            raise ValueError("the recipe is not an object")
        _check_json(self.recipe)
        if len(self.parts) > PART_LIMIT:
            raise ValueError("too many parts")
        for name, content in self.parts.items():
            _check_part_name(name)
            if not isinstance(content, bytes):
                raise ValueError("a part is not bytes")
        _check_recipients(self.recipients)


def encode(payload: Payload) -> bytes:
    """The payload as bytes; the same payload gives the same bytes.

    Raises:
        ValueError: the recipe is too long; what is long belongs in `parts`.
    """
    stored = {name: _deflate(payload.parts[name]) for name in sorted(payload.parts)}
    content: dict[str, Json] = {
        "version": PAYLOAD_VERSION,
        "subject": payload.subject,
        "original": {
            "name": payload.original_name,
            "sha256": payload.original_sha256,
            "length": payload.original_length,
        },
        "mode": payload.mode,
        "recipe": payload.recipe,
        "parts": [
            {
                "name": name,
                "codec": codec,
                "stored": len(content),
                "length": len(payload.parts[name]),
            }
            for name, (codec, content) in stored.items()
        ],
    }
    if payload.recipients:
        content["recipients"] = list(payload.recipients)
    header = canonical_json(content)
    if len(header) > HEADER_LIMIT:
        raise ValueError("the recipe is too long; put what is long into a part")
    contents = [content for _, content in stored.values()]
    return b"".join([len(header).to_bytes(4, "big"), header, *contents])


def decode(data: bytes, limit: int = TOTAL_LIMIT) -> Payload:
    """Read what `encode` wrote; `limit` bounds the bytes of all parts together, inflated.

    Raises:
        ContainerDamaged: it is anything else, or of a version not known here.
    """
    try:
        length = int.from_bytes(data[:4], "big")
        if length > HEADER_LIMIT or len(data) < 4 + length:
            raise ValueError("the header does not fit")
        header = parse_canonical_json(data[4 : 4 + length])
        version = header.get("version")
        if version != PAYLOAD_VERSION and type(version) is int:
            raise ContainerDamaged("The sealed payload is of a newer version.", "Update miad.")
        parts = _inflate_all(header, memoryview(data)[4 + length :], limit)
        return _payload_of(header, parts)
    except ValueError as error:
        raise ContainerDamaged(f"The sealed payload is damaged: {error}.") from None


def _payload_of(header: dict[str, object], parts: dict[str, bytes]) -> Payload:
    recipients: object = ()
    if "recipients" in header:
        recipients = header.pop("recipients")
        if not isinstance(recipients, list) or not recipients:
            raise ValueError("the recipients are no list of any")
    version, subject, original, mode, recipe, _ = _values(
        header, "version", "subject", "original", "mode", "recipe", "parts"
    )
    if type(version) is not int:
        raise ValueError("the version is not a number")
    name, sha256, length = _values(original, "name", "sha256", "length")
    # Payload checks the types of all of these.
    return Payload(
        subject,  # type: ignore[arg-type]
        name,  # type: ignore[arg-type]
        sha256,  # type: ignore[arg-type]
        length,  # type: ignore[arg-type]
        mode,  # type: ignore[arg-type]
        recipe,  # type: ignore[arg-type]
        parts,
        tuple(recipients),  # type: ignore[arg-type]
    )


def _values(content: object, *keys: str) -> Iterator[object]:
    """The values of a JSON object that must have just these keys, in the order of `keys`."""
    if not isinstance(content, dict) or content.keys() != set(keys):
        raise ValueError(f"not an object of {', '.join(keys)}")
    return (content[key] for key in keys)


# --- Parts --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """One entry of the header's `parts`, checked as far as it can be without its content."""

    name: str
    codec: str
    stored: int
    length: int

    def __post_init__(self) -> None:
        _check_part_name(self.name)
        check_field("stored", self.stored)
        check_field("length", self.length)
        # zstd is for what it makes smaller; so a part of no bytes, which it could not, is raw.
        fits = {
            "raw": self.stored == self.length,
            "zstd": self.stored < self.length <= self.stored * _ZSTD_RATIO,
        }
        if not isinstance(self.codec, str) or not fits.get(self.codec, False):
            raise ValueError("a part's codec does not go with its lengths")


def _inflate_all(header: dict[str, object], stored: memoryview, limit: int) -> dict[str, bytes]:
    entries = header.get("parts")
    if not isinstance(entries, list) or len(entries) > PART_LIMIT:
        raise ValueError("no list of parts")
    parts = [_Part(*_values(e, "name", "codec", "stored", "length")) for e in entries]  # type: ignore[arg-type]
    if len({part.name for part in parts}) != len(parts):
        raise ValueError("two parts of one name")
    if sum(part.length for part in parts) > limit:
        raise ValueError("the parts are longer than is allowed")
    if sum(part.stored for part in parts) != len(stored):
        raise ValueError("the parts are not as long as they say")
    contents, position = {}, 0
    for part in parts:
        contents[part.name] = _inflate(part, stored[position : position + part.stored])
        position += part.stored
    return contents


def _deflate(content: bytes) -> tuple[str, bytes]:
    frame = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(content)
    return ("zstd", frame) if len(frame) < len(content) else ("raw", bytes(content))


def _inflate(part: _Part, stored: memoryview) -> bytes:
    if part.codec == "raw":
        return bytes(stored)
    try:
        # zstandard allocates what the frame says it holds, whatever max_output_size is.
        declared = zstandard.get_frame_parameters(stored).content_size
        if stored[:4] != _ZSTD_MAGIC or declared != part.length:
            raise ValueError("a part does not hold what it says")
        return zstandard.ZstdDecompressor().decompress(
            stored, max_output_size=part.length, allow_extra_data=False
        )
    except zstandard.ZstdError:
        raise ValueError("a part cannot be inflated") from None


# --- Checks -------------------------------------------------------------------------------


def _check_file_name(name: object) -> None:
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\\0"):
        raise ValueError("the original's name is not a file name")
    # A lone surrogate, which Python makes of bytes that are not UTF-8, raises ValueError too.
    if len(name.encode("utf-8")) > NAME_LIMIT:
        raise ValueError("the original's name is too long")


def _check_part_name(name: object) -> None:
    if not isinstance(name, str) or not 1 <= len(name) <= 64 or set(name) - _PART_NAME_CHARACTERS:
        raise ValueError("a part's name is not in its form")


def _check_recipients(recipients: tuple[object, ...]) -> None:
    if len(recipients) > RECIPIENT_LIMIT:
        raise ValueError("too many recipients")
    for text in recipients:
        if not isinstance(text, str) or not re.fullmatch("[!-~]([ -~]{0,4094}[!-~])?", text):
            raise ValueError("a recipient is not in its form")
    if list(recipients) != sorted(set(recipients)):  # type: ignore[type-var]
        raise ValueError("the recipients are not in order")


def _check_json(value: object, depth: int = 0) -> None:
    if depth > DEPTH_LIMIT:
        raise ValueError("the recipe is nested too deeply")
    if isinstance(value, dict):
        if not all(isinstance(key, str) and key.isascii() for key in value):
            raise ValueError("a key in the recipe is not ASCII text")
        for item in value.values():
            _check_json(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_json(item, depth + 1)
    elif type(value) is int:
        if abs(value) > INTEGER_LIMIT:
            raise ValueError("a number in the recipe is too large; write it as text")
    elif isinstance(value, str):
        value.encode("utf-8")  # a lone surrogate raises ValueError
    elif value is not None and not isinstance(value, bool):
        raise ValueError("the recipe holds something else than JSON without fractions")
