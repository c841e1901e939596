"""Containers: what was sealed comes back, and nothing else ever does."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pyrage
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from pyrage import x25519

from miad_cli.errors import (
    ContainerDamaged,
    KeyUnusable,
    MiadError,
    OwnerUnknown,
    SignatureInvalid,
    UsageError,
)
from miad_cli.seal import container as room
from miad_cli.seal.container import (
    SIGNED_PREFIX,
    Container,
    Draft,
    Manifest,
    check_signature,
    open_payload,
    parse,
    seal,
)
from miad_cli.seal.owner import OwnerKey

OWNER = OwnerKey(ed25519.Ed25519PrivateKey.from_private_bytes(b"o" * 32))
OTHER_OWNER = OwnerKey(ed25519.Ed25519PrivateKey.from_private_bytes(b"p" * 32))
IDENTITY = x25519.Identity.generate()
PLAINTEXT = b"the original, as it was"
DRAFT = Draft(
    subject="2.25.123",
    pixels_sha256="1" * 64,
    pixel_data_sha256="2" * 64,
    attributes_sha256="3" * 64,
    job="4" * 64,
    tiles="4" * 512,
    attributes={"Columns": "5" * 8, "Rows": "6" * 8},
    payload_mode="compact",
    tool="miad 0.1.0",
)


def sealed(draft: Draft = DRAFT, plaintext: bytes = PLAINTEXT, owner: OwnerKey = OWNER) -> bytes:
    return seal(draft, plaintext, [IDENTITY.to_public()], owner)


def unseal(data: bytes) -> bytes:
    """What a reader does, from bytes to plaintext."""
    container = parse(data)
    check_signature(container, [OWNER.public])
    return open_payload(container, [IDENTITY])


def signed(age_file: bytes, length: int = len(PLAINTEXT)) -> Container:
    """A container whose owner really signed this age file, whatever it is."""
    manifest = Manifest(
        **dataclasses.asdict(DRAFT),
        owner_key_id=OWNER.public.key_id,
        age_sha256=hashlib.sha256(age_file).hexdigest(),
        payload_length=length,
    )
    return Container(manifest, OWNER.sign(SIGNED_PREFIX + manifest.to_bytes()), age_file)


def with_manifest(change: Callable[[bytes], bytes]) -> bytes:
    """A container whose manifest bytes went through `change`, its length field adjusted."""
    data = sealed()
    length = int.from_bytes(data[5:9], "big")
    manifest = change(data[9 : 9 + length])
    return data[:5] + len(manifest).to_bytes(4, "big") + manifest + data[9 + length :]


def boundaries(data: bytes) -> list[int]:
    """Where each field of the layout starts, and the end."""
    manifest_end = 9 + int.from_bytes(data[5:9], "big")
    age = manifest_end + 1 + 64 + 8
    return [0, 4, 5, 9, manifest_end, manifest_end + 1, manifest_end + 65, age, len(data)]


# --- What was sealed comes back


def test_sealed_payload_comes_back() -> None:
    container = parse(sealed())
    assert check_signature(container, [OTHER_OWNER.public, OWNER.public]) == OWNER.public
    assert open_payload(container, [x25519.Identity.generate(), IDENTITY]) == PLAINTEXT
    assert container.manifest.payload_length == len(PLAINTEXT)
    assert container.manifest.subject == DRAFT.subject


@pytest.mark.parametrize("length", [0, 1, 65535, 65536, 65537, 200_000])
def test_every_length_comes_back(length: int) -> None:
    plaintext = (b"0123456789" * (length // 10 + 1))[:length]
    assert unseal(sealed(plaintext=plaintext)) == plaintext


def test_layout_is_that_of_the_format() -> None:
    """Read without the code under test."""
    data = sealed()
    assert data[:5] == b"MIAD\x01"
    manifest_end = 9 + int.from_bytes(data[5:9], "big")
    manifest = json.loads(data[9:manifest_end])
    assert data[manifest_end] == 1
    signature = data[manifest_end + 1 : manifest_end + 65]
    age_file = data[manifest_end + 73 :]
    assert int.from_bytes(data[manifest_end + 65 : manifest_end + 73], "big") == len(age_file)
    key = ed25519.Ed25519PublicKey.from_public_bytes(OWNER.public.raw)
    key.verify(signature, b"miad/v1/manifest\0" + data[9:manifest_end])
    assert pyrage.decrypt(age_file, [IDENTITY]) == PLAINTEXT
    assert manifest == {
        "age_sha256": hashlib.sha256(age_file).hexdigest(),
        "attributes": {"Columns": "5" * 8, "Rows": "6" * 8},
        "attributes_sha256": "3" * 64,
        "job": "4" * 64,
        "owner_key_id": hashlib.sha256(OWNER.public.raw).hexdigest(),
        "payload_length": len(PLAINTEXT),
        "payload_mode": "compact",
        "pixel_data_sha256": "2" * 64,
        "pixels_sha256": "1" * 64,
        "subject": "2.25.123",
        "tiles": "4" * 512,
        "tool": "miad 0.1.0",
        "version": 1,
    }
    assert data[9:manifest_end] == json.dumps(manifest, separators=(",", ":")).encode()


def test_parsing_is_undone_by_to_bytes() -> None:
    data = sealed()
    assert parse(data).to_bytes() == data


def test_recipients_change_and_nothing_else() -> None:
    before = parse(sealed())
    newcomer = x25519.Identity.generate()
    plaintext = open_payload(before, [IDENTITY])
    after = parse(seal(before.manifest, plaintext, [newcomer.to_public()], OWNER))
    assert open_payload(after, [newcomer]) == PLAINTEXT
    assert dataclasses.replace(after.manifest, age_sha256="0" * 64) == dataclasses.replace(
        before.manifest, age_sha256="0" * 64
    )
    with pytest.raises(KeyUnusable):
        open_payload(after, [IDENTITY])


def test_nobody_to_seal_to() -> None:
    with pytest.raises(ValueError, match="nobody"):
        seal(DRAFT, PLAINTEXT, [], OWNER)


def test_too_many_recipients_are_refused_when_sealing() -> None:
    with pytest.raises(UsageError, match="1001 recipients are too many"):
        seal(DRAFT, PLAINTEXT, [IDENTITY.to_public()] * 1001, OWNER)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("subject", ""),
        ("subject", "1.2.03"),
        ("subject", "2.25." + "1" * 60),
        ("subject", "sha256:" + "A" * 64),
        ("subject", "2.25.1\n"),
        ("pixels_sha256", "1" * 63),
        ("payload_mode", "both"),
        ("tool", "miad\n"),
        ("tool", " miad"),
        ("tool", "x" * 65),
        ("tool", 1),
        ("tiles", "4" * 511),
        ("tiles", "4" * 511 + "G"),
        ("attributes", None),
        ("attributes", {"Rows": "6" * 7}),
        ("attributes", {"Rows": 66666666}),
        ("attributes", {"": "6" * 8}),
        ("attributes", {"Ro ws": "6" * 8}),
        ("attributes", {1: "6" * 8}),
        ("attributes", {f"A{number}": "6" * 8 for number in range(65)}),
    ],
)
def test_draft_is_valid_once_made(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(DRAFT, **{field: value})


# --- Damage


@pytest.mark.parametrize("bit", [0, 3, 7])
def test_a_flipped_bit_anywhere_never_opens(bit: int) -> None:
    data = sealed()
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << bit
        with pytest.raises((ContainerDamaged, SignatureInvalid, OwnerUnknown)):
            unseal(bytes(flipped))


def test_a_flipped_bit_in_the_age_file_is_damage_and_not_a_wrong_key() -> None:
    container = parse(sealed())
    for position in range(len(container.age_file)):
        flipped = bytearray(container.age_file)
        flipped[position] ^= 1
        with pytest.raises(ContainerDamaged):
            open_payload(dataclasses.replace(container, age_file=bytes(flipped)), [IDENTITY])


def test_a_badly_made_age_file_never_opens() -> None:
    """Even where the owner signed it: every failure of age is one of ours."""
    age_file = parse(sealed()).age_file
    for position in range(len(age_file)):
        flipped = bytearray(age_file)
        flipped[position] ^= 1
        with pytest.raises((ContainerDamaged, KeyUnusable)):
            open_payload(signed(bytes(flipped)), [IDENTITY])
        with pytest.raises(ContainerDamaged):
            open_payload(signed(age_file[:position]), [IDENTITY])


def test_truncation_anywhere_is_damage() -> None:
    data = sealed()
    for end in range(len(data)):
        with pytest.raises(ContainerDamaged):
            parse(data[:end])


def test_insertion_at_every_boundary_never_opens() -> None:
    data = sealed()
    for position in boundaries(data)[:-1]:
        for added in (b"\0", b"x", b"\0" * 64):
            with pytest.raises((ContainerDamaged, SignatureInvalid)):
                unseal(data[:position] + added + data[position:])


def sealed_of_parity(odd: bool) -> bytes:
    for length in range(10):
        data = sealed(plaintext=b"x" * length)
        if len(data) % 2 == odd:
            return data
    return sealed_of_parity(odd)  # the length of what age adds is drawn by chance


def test_pad_byte_of_ob_is_not_part_of_the_container() -> None:
    data = sealed_of_parity(odd=True)
    assert parse(data + b"\0") == parse(data)


@pytest.mark.parametrize(
    ("odd", "garbage"),
    [
        (True, b"\1"),
        (True, b"\0\0"),
        (True, b"\0x"),
        (False, b"\0"),
        (False, b"x"),
        (False, b"\0" * 1000),
    ],
)
def test_trailing_garbage_is_damage(odd: bool, garbage: bytes) -> None:
    with pytest.raises(ContainerDamaged, match="follows its end"):
        parse(sealed_of_parity(odd) + garbage)


@pytest.mark.parametrize("position", [5, -1])
def test_huge_lengths_are_refused(position: int) -> None:
    data = sealed()
    start = 5 if position == 5 else boundaries(data)[-3]
    width = 4 if position == 5 else 8
    with pytest.raises(ContainerDamaged):
        parse(data[:start] + b"\xff" * width + data[start + width :])


def test_long_manifest_is_refused_although_it_is_there() -> None:
    with pytest.raises(ContainerDamaged, match="too long"):
        parse(with_manifest(lambda manifest: manifest + b" " * room.MANIFEST_LIMIT))


# --- The manifest


def edited(**changes: object) -> Callable[[bytes], bytes]:
    def change(manifest: bytes) -> bytes:
        content = json.loads(manifest) | changes
        content = {key: value for key, value in content.items() if value is not ...}
        return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()

    return change


@pytest.mark.parametrize(
    "change",
    [
        edited(extra="1"),
        edited(tool=...),
        edited(version=...),
        edited(version="1"),
        edited(version=True),
        edited(version=1.0),
        edited(version=None),
        edited(payload_length="5"),
        edited(payload_length=-1),
        edited(payload_length=5.0),
        edited(payload_length=True),
        edited(payload_length=2**53),
        edited(payload_length=float("nan")),
        edited(subject=["2.25.1"]),
        edited(subject="patient"),
        edited(payload_mode="neither"),
        edited(age_sha256="F" * 64),
        edited(tool="\u00e9"),
        lambda manifest: manifest.replace(b",", b", ", 1),
        lambda manifest: manifest.replace(b"{", b'{"age_sha256":"x",', 1),
        lambda manifest: manifest.replace(b"miad", b"\\u006diad"),
        lambda manifest: manifest.replace(b"miad", b"mi\xff\xfe"),
        lambda manifest: manifest.replace(b"miad", b"\\ud800"),
        lambda manifest: manifest + b"\n",
        lambda manifest: b"\xef\xbb\xbf" + manifest,
        lambda manifest: manifest[:-1],
        lambda manifest: b"[" * 60_000,
        lambda manifest: b"9" * 60_000,
        lambda manifest: b"[]",
        lambda manifest: b"",
    ],
)
def test_only_a_canonical_manifest_is_read(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ContainerDamaged, match="damaged"):
        parse(with_manifest(change))


def test_unknown_versions_ask_for_an_update() -> None:
    data = sealed()
    signature = boundaries(data)[4]
    for newer in (
        b"MIAD\x02" + data[5:],
        with_manifest(edited(version=2, added="in version 2")),
        data[:signature] + b"\x02" + data[signature + 1 :],
    ):
        with pytest.raises(ContainerDamaged) as caught:
            parse(newer)
        assert "Update" in caught.value.hint


def test_something_else_is_no_container() -> None:
    with pytest.raises(ContainerDamaged, match="not a miad container"):
        parse(b"\x89PNG\r\n\x1a\n")


# --- Signatures


def test_stripped_signature_is_told_from_a_wrong_one() -> None:
    data = sealed()
    at = boundaries(data)[4]
    with pytest.raises(SignatureInvalid, match="no signature"):
        parse(data[:at] + b"\0" + data[at + 65 :])
    with pytest.raises(SignatureInvalid, match="did not sign"):
        unseal(data[: at + 1] + b"\0" * 64 + data[at + 65 :])


def test_owner_who_is_not_trusted() -> None:
    container = parse(sealed(owner=OTHER_OWNER))
    for trusted in ([OWNER.public], []):
        with pytest.raises(OwnerUnknown):
            check_signature(container, trusted)


def test_signature_of_another_owner() -> None:
    container = parse(sealed())
    message = SIGNED_PREFIX + container.manifest.to_bytes()
    forged = dataclasses.replace(container, signature=OTHER_OWNER.sign(message))
    with pytest.raises(SignatureInvalid):
        check_signature(forged, [OWNER.public, OTHER_OWNER.public])


def test_signature_stands_for_manifests_alone() -> None:
    container = parse(sealed())
    bare = OWNER.sign(container.manifest.to_bytes())
    with pytest.raises(SignatureInvalid):
        check_signature(dataclasses.replace(container, signature=bare), [OWNER.public])


def test_every_field_is_signed() -> None:
    container = parse(sealed())
    changes: dict[str, Any] = {
        "subject": "2.25.124",
        "payload_mode": "original",
        "tool": "miad 9",
        "payload_length": 1,
        "pixels_sha256": "0" * 64,
        "pixel_data_sha256": "0" * 64,
        "attributes_sha256": "0" * 64,
        "job": "0" * 64,
        "tiles": "0" * 512,
        "attributes": {},
        "age_sha256": "0" * 64,
    }
    untested = {field.name for field in dataclasses.fields(Manifest)} - changes.keys()
    assert untested == {"version", "owner_key_id"}
    for name, value in changes.items():
        manifest = dataclasses.replace(container.manifest, **{name: value})
        with pytest.raises(SignatureInvalid):
            check_signature(dataclasses.replace(container, manifest=manifest), [OWNER.public])


def test_manifests_swapped_between_containers() -> None:
    first = parse(sealed())
    second = parse(sealed(dataclasses.replace(DRAFT, subject="2.25.999")))
    for swapped in (
        dataclasses.replace(first, manifest=second.manifest),
        dataclasses.replace(first, manifest=second.manifest, signature=second.signature),
        dataclasses.replace(first, age_file=second.age_file),
    ):
        with pytest.raises(SignatureInvalid):
            check_signature(swapped, [OWNER.public])


def test_algorithm_is_not_taken_for_another() -> None:
    container = dataclasses.replace(parse(sealed()), signature_algorithm=2)
    with pytest.raises(SignatureInvalid):
        check_signature(container, [OWNER.public])


# --- The age file


def test_wrong_key() -> None:
    container = parse(sealed())
    for identities in ([x25519.Identity.generate()], []):
        with pytest.raises(KeyUnusable, match="None of the keys"):
            open_payload(container, identities)


def test_four_errors_have_four_sentences() -> None:
    data = sealed()
    at = boundaries(data)[4]
    container = parse(data)
    forged = dataclasses.replace(container, signature=bytes(64))

    def message(step: Callable[[], object]) -> str:
        with pytest.raises(MiadError) as caught:
            step()
        return caught.value.message

    sentences = {
        message(lambda: open_payload(container, [x25519.Identity.generate()])),
        message(lambda: parse(data[:-1])),
        message(lambda: check_signature(forged, [OWNER.public])),
        message(lambda: parse(data[:at] + b"\0" + data[at + 65 :])),
    }
    assert len(sentences) == 4


def test_length_of_the_payload_is_checked() -> None:
    age_file = parse(sealed()).age_file
    with pytest.raises(ContainerDamaged, match="length"):
        open_payload(signed(age_file, len(PLAINTEXT) + 1), [IDENTITY])


def refuse_to_decrypt(*_: object) -> bytes:
    raise AssertionError("tried a key")


STANZA = b"-> X25519 " + b"A" * 43 + b"\n" + b"A" * 43 + b"\n"


@pytest.mark.parametrize(
    ("age_file", "sentence"),
    [
        (pyrage.encrypt(b"x", [IDENTITY.to_public()], armored=True), "no usable header"),
        (b"age-encryption.org/v2\n" + STANZA + b"--- mac\n", "no usable header"),
        (b"age-encryption.org/v1\n" + STANZA * 1_000_000 + b"--- mac\n", "no usable header"),
        (b"age-encryption.org/v1\n" + b"-> a\n\n" * 1001 + b"--- mac\n", "too many recipients"),
        (b"age-encryption.org/v1\n-> scrypt c2FsdA 40\nAA\n--- mac\n", "passphrase"),
        (b"age-encryption.org/v1\n" + STANZA + b"-> scrypt c2 4\nAA\n--- mac\n", "passphrase"),
        (b"", "no usable header"),
        (b"\n--- ", "no usable header"),
    ],
    ids=["armour", "v2", "million", "1001", "scrypt", "scrypt second", "empty", "end only"],
)
def test_costly_headers_are_refused_before_any_key_is_tried(
    monkeypatch: pytest.MonkeyPatch, age_file: bytes, sentence: str
) -> None:
    monkeypatch.setattr(pyrage, "decrypt", refuse_to_decrypt)
    with pytest.raises(ContainerDamaged, match=sentence):
        open_payload(signed(age_file), [IDENTITY])
