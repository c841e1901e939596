"""Payloads: every lie in a header is found out before it costs anything."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import zstandard

from miad_cli.errors import ContainerDamaged
from miad_cli.seal.payload import HEADER_LIMIT, Payload, decode, encode

NOISE = bytes((i * i * 31 + i * 7) % 251 for i in range(40))
PAYLOAD = Payload(
    subject="2.25.123",
    original_name="Aufnahme 1 (Schädel).dcm",
    original_sha256="4" * 64,
    original_length=1234,
    mode="compact",
    recipe={"x": 3, "alpha_255": 120, "sit": True, "bank": None, "logo": {"shape": [2, 2, 4]}},
    parts={"correction": b"\0" * 5000, "logo": NOISE, "empty": b""},
)


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    end = 4 + int.from_bytes(data[:4], "big")
    return json.loads(data[4:end]), data[end:]


def joined(header: object, stored: bytes) -> bytes:
    text = json.dumps(header, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    return len(text).to_bytes(4, "big") + text + stored


def with_part(codec: str, stored: bytes, length: int, **lies: object) -> bytes:
    """A payload with one part, told of as said."""
    header, _ = split(encode(dataclasses.replace(PAYLOAD, parts={})))
    part = {"name": "a", "codec": codec, "stored": len(stored), "length": length} | lies
    return joined(header | {"parts": [part]}, stored)


def zstd_frame(length: int, content_size: int) -> bytes:
    """One RLE block of zeros in a frame that says it holds `content_size` bytes (RFC 8878)."""
    block = (length << 3 | 0b011).to_bytes(3, "little") + b"\0"
    return b"\x28\xb5\x2f\xfd\xe0" + content_size.to_bytes(8, "little") + block


def test_payload_comes_back() -> None:
    assert decode(encode(PAYLOAD)) == PAYLOAD


def test_layout_is_that_of_the_format() -> None:
    header, stored = split(encode(PAYLOAD))
    frame = len(stored) - len(NOISE)
    assert header == {
        "version": 1,
        "subject": "2.25.123",
        "original": {"name": "Aufnahme 1 (Schädel).dcm", "sha256": "4" * 64, "length": 1234},
        "mode": "compact",
        "recipe": PAYLOAD.recipe,
        "parts": [
            {"name": "correction", "codec": "zstd", "stored": frame, "length": 5000},
            {"name": "empty", "codec": "raw", "stored": 0, "length": 0},
            {"name": "logo", "codec": "raw", "stored": len(NOISE), "length": len(NOISE)},
        ],
    }
    assert zstandard.decompress(stored[:frame]) == b"\0" * 5000
    assert stored[frame:] == NOISE


def test_order_of_parts_does_not_matter() -> None:
    backwards = dict(reversed(list(PAYLOAD.parts.items())))
    assert encode(dataclasses.replace(PAYLOAD, parts=backwards)) == encode(PAYLOAD)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/etc/passwd", "..\\x", "a\0", "x" * 1025, "\udce9.dcm", None]
)
def test_original_name_is_a_file_name(name: Any) -> None:
    with pytest.raises(ValueError, match=r"name|surrogates"):
        dataclasses.replace(PAYLOAD, original_name=name)
    header, stored = split(encode(PAYLOAD))
    header["original"]["name"] = name
    if name != "\udce9.dcm":
        with pytest.raises(ContainerDamaged):
            decode(joined(header, stored))


def test_name_may_hold_dots_and_any_script() -> None:
    for name in ("..a", "a..b", "...", "脳 MRI.dcm", "IM000001"):
        assert (
            decode(encode(dataclasses.replace(PAYLOAD, original_name=name))).original_name == name
        )


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize(
    "value",
    [0.5, float("nan"), 2**53, -(2**53), (1, 2), b"x", {1: 2}, {"é": 1}, "\ud800", nested(40)],
    ids=repr,
)
def test_recipe_is_plain_json(value: Any) -> None:
    with pytest.raises(ValueError, match=r"recipe|surrogates"):
        dataclasses.replace(PAYLOAD, recipe={"value": value})


@pytest.mark.parametrize(
    "change",
    [
        {"subject": "somebody"},
        {"original_sha256": "x"},
        {"original_length": -1},
        {"original_length": True},
        {"mode": "both"},
        {"recipe": []},
        {"parts": {"A": b""}},
        {"parts": {"": b""}},
        {"parts": {"../x": b""}},
        {"parts": {"x": "text"}},
        {"parts": {f"p{i}": b"" for i in range(1001)}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_payload_is_valid_once_made(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        dataclasses.replace(PAYLOAD, **change)


def test_long_recipe_is_refused_when_sealing() -> None:
    with pytest.raises(ValueError, match="recipe is too long"):
        encode(dataclasses.replace(PAYLOAD, recipe={"list": "x" * HEADER_LIMIT}))


# --- Damage


def test_truncation_anywhere_is_damage() -> None:
    data = encode(PAYLOAD)
    for end in range(len(data)):
        with pytest.raises(ContainerDamaged):
            decode(data[:end])


@pytest.mark.parametrize("garbage", [b"\0", b"x", b"\0\0"])
def test_trailing_garbage_is_damage(garbage: bytes) -> None:
    with pytest.raises(ContainerDamaged):
        decode(encode(PAYLOAD) + garbage)


def test_every_flipped_bit_in_the_header_is_damage_or_another_payload() -> None:
    data = encode(PAYLOAD)
    for position in range(len(data) - len(NOISE)):
        flipped = bytearray(data)
        flipped[position] ^= 1
        with suppress(ContainerDamaged):
            assert decode(bytes(flipped)) != PAYLOAD


def edit(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Set what lies at `path` in a header; `...` takes it away."""

    def change(header: dict[str, Any]) -> None:
        *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        target: Any = header
        for key in parents:
            target = target[key]
        if value is ...:
            del target[last]
        else:
            target[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        edit("extra", 1),
        edit("recipe", ...),
        edit("recipe", []),
        edit("recipe.x", 0.5),
        edit("recipe.x", 2**60),
        edit("version", ...),
        edit("version", "1"),
        edit("version", True),
        edit("subject", 1),
        edit("mode", "neither"),
        edit("original", []),
        edit("original.extra", 1),
        edit("original.length", -1),
        edit("original.length", 1.5),
        edit("original.sha256", None),
        edit("parts", {}),
        edit("parts", ...),
        edit("parts.0", "correction"),
        edit("parts.0.name", "logo"),
        edit("parts.0.name", 1),
        edit("parts.0.codec", "gzip"),
        edit("parts.0.codec", []),
        edit("parts.0.codec", "raw"),
        edit("parts.0.extra", 1),
        edit("parts.0.length", 4999),
        edit("parts.0.length", 5001),
        edit("parts.0.length", "5000"),
        edit("parts.0.length", -1),
        edit("parts.0.stored", -1),
        edit("parts.0.stored", 0),
        edit("parts.2.length", 10**15),
        edit("parts.2.codec", "zstd"),
    ],
)
def test_lying_header_is_damage(change: Callable[[dict[str, Any]], None]) -> None:
    header, stored = split(encode(PAYLOAD))
    change(header)
    with pytest.raises(ContainerDamaged, match="damaged"):
        decode(joined(header, stored))


def test_newer_version_asks_for_an_update() -> None:
    header, stored = split(encode(PAYLOAD))
    with pytest.raises(ContainerDamaged, match="newer version"):
        decode(joined(header | {"version": 2, "added": 1}, stored))


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":NaN}', b'{ "a":1}', b"\xff", b"[]"])
def test_header_that_is_no_canonical_object(text: bytes) -> None:
    with pytest.raises(ContainerDamaged):
        decode(len(text).to_bytes(4, "big") + text)


def test_header_length_is_bounded() -> None:
    with pytest.raises(ContainerDamaged, match="header does not fit"):
        decode((HEADER_LIMIT + 1).to_bytes(4, "big") + b" " * (HEADER_LIMIT + 1))


def test_part_of_the_limit_is_read_and_one_byte_more_is_not() -> None:
    data = encode(PAYLOAD)
    total = sum(len(content) for content in PAYLOAD.parts.values())
    assert decode(data, limit=total) == PAYLOAD
    with pytest.raises(ContainerDamaged, match="longer than is allowed"):
        decode(data, limit=total - 1)


@pytest.mark.parametrize("length", [0, len(zstd_frame(0, 0))])
def test_zstd_that_saves_nothing_is_damage(length: int) -> None:
    with pytest.raises(ContainerDamaged, match="does not go with its lengths"):
        decode(with_part("zstd", zstd_frame(length, length), length))


def refuse_to_inflate(*_: object, **__: object) -> bytes:
    raise AssertionError("inflated")


def test_frame_made_by_hand_is_read() -> None:
    """So that the lies below are refused for being lies."""
    assert decode(with_part("zstd", zstd_frame(1000, 1000), 1000)).parts == {"a": bytes(1000)}


@pytest.mark.parametrize(
    "data",
    [
        with_part("zstd", zstd_frame(1000, 2**40), 2**40),
        with_part("zstd", zstd_frame(1000, 2**40), 1000),
        with_part("zstd", zstd_frame(1000, 2**31), 2**31),
        with_part("zstd", zstandard.compress(bytes(10**6)), 1000),
        with_part("zstd", zstandard.ZstdCompressor(write_content_size=False).compress(NOISE), 100),
        with_part("zstd", b"\x50\x2a\x4d\x18" + (100).to_bytes(4, "little") + bytes(50), 100),
        with_part("zstd", b"", 100),
        with_part("zstd", b"x", 100),
    ],
    ids=["1 TiB", "secret 1 TiB", "2 GiB", "1 MB", "unsized", "skippable", "empty", "junk"],
)
def test_bombs_are_refused_before_inflating(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zstandard, "ZstdDecompressor", refuse_to_inflate)
    with pytest.raises(ContainerDamaged):
        decode(data)


@pytest.mark.parametrize(
    "stored",
    [
        zstd_frame(999, 1000),
        zstd_frame(1001, 1000),
        zstd_frame(1000, 1000)[:-1],
        zstd_frame(1000, 1000) + b"\0",
        zstd_frame(1000, 1000) * 2,
    ],
    ids=["short", "long", "cut", "garbage", "two frames"],
)
def test_frame_holds_what_it_says_and_no_more(stored: bytes) -> None:
    with pytest.raises(ContainerDamaged):
        decode(with_part("zstd", stored, 1000))


# --- Recipients


RECIPIENTS = ("age1abc", "ssh-ed25519 AAAA")


def test_recipients_come_back() -> None:
    payload = dataclasses.replace(PAYLOAD, recipients=RECIPIENTS)
    assert split(encode(payload))[0]["recipients"] == list(RECIPIENTS)
    assert decode(encode(payload)) == payload


@pytest.mark.parametrize(
    "recipients",
    [
        None,
        [],
        {},
        "age1abc",
        [""],
        [1],
        [None],
        ["line\nbreak"],
        [" age1abc"],
        ["ä"],
        ["b", "a"],
        ["a", "a"],
        ["a", 1],
        ["x" * 4097],
        [f"{n:04}" for n in range(1001)],
    ],
)
def test_recipients_that_are_none(recipients: object) -> None:
    header, stored = split(encode(PAYLOAD))
    with pytest.raises(ContainerDamaged):
        decode(joined(header | {"recipients": recipients}, stored))
