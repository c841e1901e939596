"""Every attack on containers that the specification names, against verify and unlock as a whole.

The container lies in a sidecar beside a file without one, and is replaced by what an attacker, or
an accident, makes of it. `tests/unit/test_container.py` takes the container's reader through the
same by single bytes, `mutate.py` by chance.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyrage
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from helpers import OWNER, build_dataset, marking_of, noisy_logo, picture_of, ramp, sealing_for
from pyrage import x25519

from miad_cli.instance import write_instance
from miad_cli.seal.carriers import sidecar_of
from miad_cli.seal.container import SIGNED_PREFIX, Container, open_payload, parse, seal
from miad_cli.seal.owner import OwnerKey
from miad_cli.seal.payload import decode, encode
from miad_cli.unlock import unlock
from miad_cli.verify import Verdict, verify_file
from miad_cli.watermark.blend import Mark

IDENTITY = x25519.Identity.generate()
STRANGER = OwnerKey(ed25519.Ed25519PrivateKey.from_private_bytes(b"s" * 32))
STANZA = b"-> X25519 " + b"A" * 43 + b"\n" + b"A" * 43 + b"\n"


def protect(folder: Path, seed: int) -> Path:
    words = np.roll(ramp(24, 32), seed, axis=2)
    dataset = build_dataset(words, bits_stored=12, SOPInstanceUID=f"1.2.3.{seed}")
    picture = picture_of(dataset)
    path = folder / f"{seed}.dcm"
    marking = marking_of(picture.image, Mark(3, 2, 200, noisy_logo(8, 10)))
    sealing = sealing_for(IDENTITY.to_public(), "original", "sidecar")
    write_instance(path, f"{seed}-original.dcm", picture, marking, sealing)
    return path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Container, Container]:
    """A protected file, its container, and the container of another instance."""
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere").mkdir()
    path, other = protect(tmp_path / "in", 1), protect(tmp_path / "elsewhere", 2)
    return path, *(parse(sidecar_of(one).read_bytes()) for one in (path, other))


def signed_over(container: Container, age_file: bytes, **changes: Any) -> bytes:
    """What the owner signs without looking: a manifest for any age file."""
    digest = hashlib.sha256(age_file).hexdigest()
    manifest = dataclasses.replace(container.manifest, age_sha256=digest, **changes)
    signature = OWNER.sign(SIGNED_PREFIX + manifest.to_bytes())
    return Container(manifest, signature, age_file).to_bytes()


def signature_at(content: bytes) -> int:
    return 9 + int.from_bytes(content[5:9], "big")


def stripped(own: Container, other: Container) -> bytes:
    content = own.to_bytes()
    at = signature_at(content)
    return content[:at] + b"\0" + content[at + 65 :]


def by_another_owner(own: Container, other: Container) -> bytes:
    plaintext = open_payload(own, [IDENTITY])
    return seal(own.manifest, plaintext, [IDENTITY.to_public()], STRANGER)


def signed_by_another_owner(own: Container, other: Container) -> bytes:
    signature = STRANGER.sign(SIGNED_PREFIX + own.manifest.to_bytes())
    return dataclasses.replace(own, signature=signature).to_bytes()


def of_version(own: Container, other: Container) -> bytes:
    content = own.to_bytes()
    return content[:4] + b"\x02" + content[5:]


def huge_scrypt(own: Container, other: Container) -> bytes:
    age_file = b"age-encryption.org/v1\n-> scrypt c2FsdHNhbHRzYWx0c2FsdA 62\nAA\n--- mac\n"
    return signed_over(own, age_file)


def million_stanzas(own: Container, other: Container) -> bytes:
    return signed_over(own, b"age-encryption.org/v1\n" + STANZA * 1_000_000 + b"--- mac\n")


def zstd_bomb(own: Container, other: Container) -> bytes:
    """A part of 4 bytes that says it inflates to 3 GiB."""
    plaintext = encode(decode(open_payload(own, [IDENTITY])))
    length = int.from_bytes(plaintext[:4], "big")
    header = json.loads(plaintext[4 : 4 + length])
    header["parts"] = [{"codec": "zstd", "length": 3 << 30, "name": "original", "stored": 50_000}]
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    frame = b"\x28\xb5\x2f\xfd\xe0" + (3 << 30).to_bytes(8, "little")
    payload = len(text).to_bytes(4, "big") + text + frame.ljust(50_000, b"\0")
    return seal(own.manifest, payload, [IDENTITY.to_public()], OWNER)


def payload_of_another(own: Container, other: Container) -> bytes:
    plaintext = open_payload(other, [IDENTITY])
    return seal(own.manifest, plaintext, [IDENTITY.to_public()], OWNER)


Attack = Callable[[Container, Container], bytes]
DAMAGED, INVALID, UNKNOWN = Verdict.DAMAGED, Verdict.SIGNATURE_INVALID, Verdict.OWNER_UNKNOWN

PUBLICLY_FOUND: dict[str, tuple[Attack, Verdict]] = {
    "truncated": (lambda own, other: own.to_bytes()[:-1], DAMAGED),
    "nothing left": (lambda own, other: b"", DAMAGED),
    "trailing garbage": (lambda own, other: own.to_bytes() + b"\0x", DAMAGED),
    "containers swapped": (lambda own, other: other.to_bytes(), Verdict.MOVED),
    "manifests swapped": (
        lambda own, other: dataclasses.replace(own, manifest=other.manifest).to_bytes(),
        INVALID,
    ),
    "payloads swapped": (
        lambda own, other: dataclasses.replace(own, age_file=other.age_file).to_bytes(),
        INVALID,
    ),
    "another owner": (by_another_owner, UNKNOWN),
    "another owner's signature": (signed_by_another_owner, INVALID),
    "signature stripped": (stripped, INVALID),
    "unknown version": (of_version, DAMAGED),
}
FOUND_WITH_THE_KEY: dict[str, Attack] = {
    "huge scrypt factor": huge_scrypt,
    "a million stanzas": million_stanzas,
    "zstd bomb": zstd_bomb,
    "payload of another, sealed again": payload_of_another,
}


@pytest.mark.parametrize("name", PUBLICLY_FOUND)
def test_attack_is_found_without_a_key(name: str, pair: tuple[Path, Container, Container]) -> None:
    path, own, other = pair
    attack, verdict = PUBLICLY_FOUND[name]
    sidecar_of(path).write_bytes(attack(own, other))
    found = verify_file(path, [OWNER.public])
    assert (found.verdict, found.exit_code) == (verdict, 6)
    assert found.reason


@pytest.mark.parametrize("name", FOUND_WITH_THE_KEY)
def test_attack_of_the_owner_is_found_with_the_key(
    name: str, pair: tuple[Path, Container, Container], tmp_path: Path
) -> None:
    """The signature is good: whoever signed this wanted to harm the reader."""
    path, own, other = pair
    sidecar_of(path).write_bytes(FOUND_WITH_THE_KEY[name](own, other))
    found = verify_file(path, [OWNER.public], [IDENTITY])
    assert (found.restorable, found.exit_code) == (False, 6)
    (outcome,) = unlock([path], tmp_path / "out", [IDENTITY]).outcomes
    assert (outcome.state, outcome.exit_code) == ("failed", 6)
    assert not [one for one in (tmp_path / "out").rglob("*") if one.is_file()]


def test_reference_is_authentic(pair: tuple[Path, Container, Container]) -> None:
    """What the attacks start from, so that they are what is found."""
    found = verify_file(pair[0], [OWNER.public], [IDENTITY])
    assert (found.verdict, found.restorable, found.recipe_holds) == (Verdict.AUTHENTIC, True, True)


def test_pad_byte_is_no_attack(pair: tuple[Path, Container, Container]) -> None:
    path, own, _ = pair
    content = own.to_bytes()
    sidecar_of(path).write_bytes(content + b"\0" * (len(content) % 2))
    assert verify_file(path, [OWNER.public]).verdict is Verdict.AUTHENTIC


def test_wrong_key_is_another_error(pair: tuple[Path, Container, Container]) -> None:
    found = verify_file(pair[0], [OWNER.public], [x25519.Identity.generate()])
    assert (found.verdict, found.restorable, found.exit_code) == (Verdict.AUTHENTIC, False, 7)


def test_identity_under_a_passphrase_with_the_wrong_one(tmp_path: Path) -> None:
    from miad_cli.errors import KeyUnusable
    from miad_cli.seal.identities import load_identities

    sealed = pyrage.passphrase.encrypt(str(IDENTITY).encode(), "right")
    (tmp_path / "key.age").write_bytes(sealed)
    with pytest.raises(KeyUnusable, match="does not open"):
        load_identities(tmp_path / "key.age", lambda: "wrong")
    assert load_identities(tmp_path / "key.age", lambda: "right")
