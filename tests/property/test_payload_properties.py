"""Whatever a payload holds comes back, and no bytes at all break the reader."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from miad_cli.errors import ContainerDamaged
from miad_cli.seal.payload import Payload, decode, encode

INTEGERS = st.integers(-(2**53) + 1, 2**53 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
KEYS = st.text(st.characters(max_codepoint=127), max_size=10)
JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=10,
)
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\\\0"), min_size=1, max_size=200
).filter(lambda name: name not in (".", ".."))
CONTENTS = st.binary(max_size=200) | st.builds(
    lambda byte, count: byte * count, st.binary(min_size=1, max_size=3), st.integers(0, 3000)
)
PAYLOADS = st.builds(
    Payload,
    subject=DIGESTS.map("sha256:{}".format) | st.integers(0, 2**128).map("2.25.{}".format),
    original_name=NAMES,
    original_sha256=DIGESTS,
    original_length=st.integers(0, 2**53 - 1),
    mode=st.sampled_from(["compact", "original"]),
    recipe=st.dictionaries(KEYS, JSON, max_size=5),
    parts=st.dictionaries(
        st.text("abcdefghijklmnopqrstuvwxyz0123456789_.-", min_size=1, max_size=64),
        CONTENTS,
        max_size=4,
    ),
)


@settings(deadline=None)
@given(PAYLOADS)
def test_every_payload_comes_back(payload: Payload) -> None:
    data = encode(payload)
    assert decode(data) == payload
    assert encode(decode(data)) == data


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for candidate in (data, len(data).to_bytes(4, "big") + data):
        with suppress(ContainerDamaged):
            decode(candidate, limit=1 << 20)


@settings(deadline=None)
@given(PAYLOADS, st.data())
def test_damaged_payload_is_refused_or_is_another(payload: Payload, data: st.DataObject) -> None:
    encoded = bytearray(encode(payload))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= data.draw(st.integers(1, 255))
    try:
        read = decode(bytes(encoded), limit=1 << 20)
    except ContainerDamaged:
        return
    # An inflated part can be the same although its frame is not; then all of it is the same.
    assert read != payload or encode(read) == encode(payload)
