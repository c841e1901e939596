"""The sealed container: an age file under a manifest that the owner signed.

The layout is in `docs/format.md`. Reading one is three steps, each with errors of its own:
`parse` (are these the bytes of a container), `check_signature` (did an owner whom we trust
make it) and `open_payload` (does one of our keys open it). The second comes before anything
in the container is believed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields

import pyrage

from miad_cli.errors import (
    ContainerDamaged,
    KeyUnusable,
    OwnerUnknown,
    SignatureInvalid,
    UsageError,
)
from miad_cli.seal.identities import AgeRecipient, Identity
from miad_cli.seal.owner import OwnerKey, OwnerPublicKey

MAGIC = b"MIAD\x01"
MANIFEST_VERSION = 1
SIGNED_PREFIX = b"miad/v1/manifest\0"
SIGNATURE_LENGTHS = {1: 64}
"""Bytes of a signature by `sig_alg`: 1 is Ed25519. 2 is kept for ML-DSA-65 (3309 bytes)."""

MANIFEST_LIMIT = 64 << 10
AGE_HEADER_LIMIT = 64 << 10
STANZA_LIMIT = 1000

TILE_DIGITS = 8 * 8 * 8
"""Hexadecimal digits of the field `tiles`: 8 x 8 tiles, 4 bytes each."""

ATTRIBUTE_LIMIT = 64
"""Entries of the field `attributes`."""

INTEGER_LIMIT = 2**53 - 1
"""The largest integer in JSON that every reader reads exactly (RFC 7493)."""

_ED25519 = 1
_UNSIGNED = 0
_NEWER = "Update miad, or ask whoever sent it for an older form."
_DIGEST = "[0-9a-f]{64}"
_UID = r"(?=.{1,64}\Z)[0-2](\.(0|[1-9][0-9]*))+"
_PATTERNS = {
    "owner_key_id": _DIGEST,
    "subject": f"(sha256:{_DIGEST}|{_UID})",
    "pixels_sha256": _DIGEST,
    "pixel_data_sha256": _DIGEST,
    "attributes_sha256": _DIGEST,
    "age_sha256": _DIGEST,
    "job": _DIGEST,
    "tiles": f"[0-9a-f]{{{TILE_DIGITS}}}",
    "payload_mode": "(compact|original)",
    "tool": "[!-~]([ -~]{0,62}[!-~])?",
}


@dataclass(frozen=True)
class Draft:
    """What the owner says about a protected picture, before the payload is encrypted.

    `subject` is the SOPInstanceUID of the protected instance, or `sha256:` and the digest of a
    raster picture's identity; the digests (64 lower-case hex digits) are those of
    `docs/format.md`; `tiles` and `attributes` are the short digests that say where a picture
    was changed and in which attributes; `job` is a tag by which the owner alone can tell whether
    this is the same original, protected in the same way; `payload_mode` is `compact` or
    `original`; `tool` names the program.

    Raises:
        ValueError: a field cannot stand in a manifest.
    """

    subject: str
    pixels_sha256: str
    pixel_data_sha256: str
    attributes_sha256: str
    tiles: str
    attributes: Mapping[str, str]
    job: str
    payload_mode: str
    tool: str

    def __post_init__(self) -> None:
        for field in fields(self):
            check_field(field.name, getattr(self, field.name))


@dataclass(frozen=True)
class Manifest(Draft):
    """The signed part of a container: `Draft`, and what ties it to one owner and one payload.

    `age_sha256` is the SHA-256 of the age file and `payload_length` the bytes of plaintext in
    it. The integrity of everything else in a container follows from the manifest's signature.
    """

    owner_key_id: str
    age_sha256: str
    payload_length: int
    version: int = MANIFEST_VERSION

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.version != MANIFEST_VERSION:
            raise ValueError("version is not 1")

    def to_bytes(self) -> bytes:
        """The one encoding of this manifest."""
        return canonical_json({field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def from_bytes(cls, encoded: bytes) -> Manifest:
        """Read a manifest; any bytes but `to_bytes` of some manifest are refused.

        Raises:
            ContainerDamaged: they are something else, or of a version not known here.
        """
        try:
            content = parse_canonical_json(encoded)
            if content.get("version") != MANIFEST_VERSION and type(content.get("version")) is int:
                raise ContainerDamaged("The container's manifest is of a newer version.", _NEWER)
            if content.keys() != {field.name for field in fields(cls)}:
                raise ValueError("other keys than a manifest's")
            return cls(**content)  # type: ignore[arg-type]  # __post_init__ checks them
        except ValueError as error:
            raise ContainerDamaged(f"The container's manifest is damaged: {error}.") from None


@dataclass(frozen=True)
class Container:
    """A container as read: well formed, which says nothing yet about who made it."""

    manifest: Manifest
    signature: bytes
    age_file: bytes
    signature_algorithm: int = _ED25519

    def to_bytes(self) -> bytes:
        """The container as it stands in a file, of odd or even length, unpadded."""
        manifest = self.manifest.to_bytes()
        return b"".join(
            [
                MAGIC,
                len(manifest).to_bytes(4, "big"),
                manifest,
                self.signature_algorithm.to_bytes(1, "big"),
                self.signature,
                len(self.age_file).to_bytes(8, "big"),
                self.age_file,
            ]
        )


def seal(
    draft: Draft, plaintext: bytes, recipients: Collection[AgeRecipient], owner: OwnerKey
) -> bytes:
    """Encrypt `plaintext` to `recipients` (one at least), sign, and give the container.

    Never the same bytes twice: age takes a fresh file key each time. To change the recipients
    of a container, its manifest serves as `draft` and its opened payload as `plaintext`.

    Raises:
        UsageError: more recipients than one container holds.
        ValueError: no recipient.
    """
    if not recipients:
        raise ValueError("nobody to seal to")
    age_file = bytes(pyrage.encrypt(plaintext, list(recipients)))
    try:
        _check_age_header(age_file)
    except ContainerDamaged:
        raise UsageError(f"{len(recipients)} recipients are too many for one container.") from None
    manifest = Manifest(
        **{field.name: getattr(draft, field.name) for field in fields(Draft)},
        owner_key_id=owner.public.key_id,
        age_sha256=hashlib.sha256(age_file).hexdigest(),
        payload_length=len(plaintext),
    )
    signature = owner.sign(SIGNED_PREFIX + manifest.to_bytes())
    return Container(manifest, signature, age_file).to_bytes()


def parse(data: bytes) -> Container:
    """Read a container; `data` is all of it, and nothing else.

    One zero byte after a container of odd length is taken for the padding of a DICOM value
    (PS3.5 Section 6.2, OB).

    Raises:
        ContainerDamaged: `data` is no container, or one of a version not known here.
        SignatureInvalid: the container is marked as unsigned.
    """
    cursor = _Cursor(data)
    magic = cursor.take(len(MAGIC))
    if magic != MAGIC:
        newer = magic[:4] == MAGIC[:4]
        raise ContainerDamaged(
            "The container is of a newer version." if newer else "This is not a miad container.",
            _NEWER if newer else "",
        )
    manifest = Manifest.from_bytes(cursor.take(cursor.integer(4), at_most=MANIFEST_LIMIT))
    algorithm = cursor.integer(1)
    if algorithm == _UNSIGNED:
        raise SignatureInvalid("The container carries no signature: anyone can have made it.")
    if algorithm not in SIGNATURE_LENGTHS:
        raise ContainerDamaged("The container is signed in a way that is not known here.", _NEWER)
    signature = cursor.take(SIGNATURE_LENGTHS[algorithm])
    age_file = cursor.take(cursor.integer(8))
    cursor.finish()
    return Container(manifest, signature, age_file, algorithm)


def check_signature(container: Container, owners: Collection[OwnerPublicKey]) -> OwnerPublicKey:
    """The one of the trusted `owners` who signed this container, its age file included.

    Raises:
        OwnerUnknown: the manifest names an owner who is none of them.
        SignatureInvalid: the named owner did not sign this manifest over this age file.
    """
    manifest = container.manifest
    owner = next((owner for owner in owners if owner.key_id == manifest.owner_key_id), None)
    if owner is None:
        hint = "Get the owner's public key by a way you trust, and name it."
        raise OwnerUnknown("The container names an owner whose key is not trusted here.", hint)
    if container.signature_algorithm != _ED25519 or not owner.is_valid(
        container.signature, SIGNED_PREFIX + manifest.to_bytes()
    ):
        raise SignatureInvalid("The owner did not sign this container's manifest.")
    if not _is_signed_age_file(container):
        raise SignatureInvalid("The sealed payload is not the one that the owner signed.")
    return owner


def open_payload(container: Container, identities: Collection[Identity]) -> bytes:
    """Decrypt the payload; call it on a container whose signature was checked.

    Raises:
        KeyUnusable: sealed to none of `identities`.
        ContainerDamaged: the age file is corrupt, or not of the length in the manifest.
    """
    # An altered stanza looks to age as if it were another's. The digest tells the two apart.
    if not _is_signed_age_file(container):
        raise ContainerDamaged("The sealed payload is damaged: it is not the one signed for.")
    _check_age_header(container.age_file)
    try:
        plaintext = bytes(pyrage.decrypt(container.age_file, list(identities)))
    except pyrage.DecryptError as error:
        if str(error) == "No matching keys found":
            hint = "Ask the owner to seal it to your key, or name the right identity file."
            raise KeyUnusable("None of the keys given opens this container.", hint) from None
        raise ContainerDamaged("The sealed payload is damaged: it does not decrypt.") from None
    if len(plaintext) != container.manifest.payload_length:
        raise ContainerDamaged("The sealed payload is not of the length that was signed.")
    return plaintext


def _is_signed_age_file(container: Container) -> bool:
    return hashlib.sha256(container.age_file).hexdigest() == container.manifest.age_sha256


def _check_age_header(age_file: bytes) -> None:
    """Refuse what is costly to try before any key is tried on it (C2SP age, "Header")."""
    header, end, _ = age_file[:AGE_HEADER_LIMIT].partition(b"\n--- ")
    version, *lines = header.split(b"\n")
    if not end or version != b"age-encryption.org/v1":
        raise ContainerDamaged("The sealed payload is damaged: it has no usable header of age v1.")
    stanzas = [line.split(b" ")[1:] for line in lines if line.startswith(b"->")]
    if len(stanzas) > STANZA_LIMIT:
        raise ContainerDamaged("The sealed payload is damaged: it names too many recipients.")
    if any(stanza[:1] == [b"scrypt"] for stanza in stanzas):
        raise ContainerDamaged("The payload is sealed by a passphrase, which miad never does.")


@dataclass
class _Cursor:
    """Takes fields off the front of `data`, and never more than is there."""

    data: bytes
    position: int = 0

    def take(self, length: int, at_most: int | None = None) -> bytes:
        if length > len(self.data) - self.position:
            raise ContainerDamaged("The container is cut short.")
        if at_most is not None and length > at_most:
            raise ContainerDamaged("The container is damaged: a part of it is too long.")
        start, self.position = self.position, self.position + length
        return self.data[start : self.position]

    def integer(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def finish(self) -> None:
        padding = b"\0" if self.position % 2 else b""
        if self.data[self.position :] not in (b"", padding):
            raise ContainerDamaged("The container is damaged: something follows its end.")


# --- What manifest and payload share ------------------------------------------------------


def check_field(name: str, value: object) -> None:
    """Raise ValueError unless `value` can be the field `name` of a manifest."""
    if name in _PATTERNS:
        if type(value) is not str or not re.fullmatch(_PATTERNS[name], value):
            raise ValueError(f"{name} is not in its form")
    elif name == "attributes":
        if not isinstance(value, dict) or len(value) > ATTRIBUTE_LIMIT:
            raise ValueError(f"{name} is not a short object")
        if not all(_is_attribute(key, digest) for key, digest in value.items()):
            raise ValueError(f"{name} is not in its form")
    elif type(value) is not int or not 0 <= value <= INTEGER_LIMIT:
        raise ValueError(f"{name} is not a count")


def _is_attribute(key: object, digest: object) -> bool:
    """Whether this can be an entry of `attributes`: a keyword, and 4 bytes in hexadecimal."""
    known = isinstance(key, str) and re.fullmatch("[A-Za-z][A-Za-z0-9]{0,63}", key)
    return bool(known and isinstance(digest, str) and re.fullmatch("[0-9a-f]{8}", digest))


def canonical_json(content: object) -> bytes:
    """UTF-8, keys sorted, no white space, only what JSON says must be escaped is escaped.

    With keys in ASCII and integers within `INTEGER_LIMIT` for numbers this is RFC 8785.

    Raises:
        ValueError: text that is not Unicode (a lone surrogate), or lists in lists without end.
    """
    try:
        text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return text.encode("utf-8")


def parse_canonical_json(encoded: bytes) -> dict[str, object]:
    """The object that `canonical_json` turned into exactly `encoded`.

    Raises:
        ValueError: there is none.
    """
    try:
        content = json.loads(encoded.decode("utf-8"))
    except (ValueError, RecursionError):
        raise ValueError("no JSON") from None
    if not isinstance(content, dict):
        raise ValueError("no JSON object")
    if canonical_json(content) != encoded:
        raise ValueError("not in canonical form")
    return content
