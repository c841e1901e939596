"""Who signs: the owner's Ed25519 key. It signs manifests and derives UIDs; it opens nothing.

Its files are those of other tools: PKCS#8 and SubjectPublicKeyInfo in PEM (RFC 5958, RFC 8410).
"""

from __future__ import annotations

import hashlib
import hmac
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from miad_cli.errors import KeyUnusable
from miad_cli.seal.key_files import create_key_file, read_key_file, refuse_public_key
from miad_cli.seal.pkcs8 import encrypted_pem

_UID_KEY_INFO = b"miad/v1/uid"


@dataclass(frozen=True)
class OwnerPublicKey:
    """The Ed25519 public key that a verifier pins; `raw` is its 32 bytes (RFC 8032)."""

    raw: bytes

    @classmethod
    def load(cls, path: Path) -> OwnerPublicKey:
        """The key in an SPKI PEM file, or in an X.509 certificate (PEM).

        Of a certificate only the key counts: whoever pins it vouches for it, so its chain,
        dates and names are not judged.

        Raises:
            KeyUnusable: no such file, or no Ed25519 public key in it.
        """
        content = read_key_file(path)
        if b"PRIVATE KEY" in content or b"AGE-SECRET-KEY" in content:
            hint = "Give the public half, for example owner.pub.pem, and keep this one to yourself."
            raise KeyUnusable(f"{path} holds a private key, not an owner's public key.", hint)
        key: object
        try:
            if b"-----BEGIN CERTIFICATE" in content:
                key = x509.load_pem_x509_certificate(content).public_key()
            else:
                key = serialization.load_pem_public_key(content)
        except (ValueError, UnsupportedAlgorithm):
            raise KeyUnusable(f"{path} holds no public key in PEM form.") from None
        if not isinstance(key, Ed25519PublicKey):
            raise KeyUnusable(f"The key in {path} is not an Ed25519 key.")
        return cls(key.public_bytes_raw())

    def save(self, path: Path) -> None:
        """Write SPKI PEM to a new file.

        Raises:
            OutputExists: something is at `path` already.
        """
        create_key_file(path, self.pem, mode=0o644)

    @property
    def pem(self) -> bytes:
        """SubjectPublicKeyInfo in PEM."""
        return Ed25519PublicKey.from_public_bytes(self.raw).public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def key_id(self) -> str:
        """SHA-256 of the 32 raw bytes, 64 hex digits."""
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def fingerprint(self) -> str:
        """The first 80 bits of `key_id`, in groups of four, for people to compare."""
        short = self.key_id[:20]
        return "-".join(short[start : start + 4] for start in range(0, len(short), 4))

    def is_valid(self, signature: bytes, message: bytes) -> bool:
        """Whether the owner of this key made `signature` (64 bytes) over `message`."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, eq=False)
class OwnerKey:
    """The Ed25519 private key of whoever protects: signs manifests and derives UIDs."""

    _private: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> OwnerKey:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_raw(cls, raw: bytes) -> OwnerKey:
        """The key of these 32 bytes."""
        return cls(Ed25519PrivateKey.from_private_bytes(raw))

    @property
    def raw(self) -> bytes:
        """Its 32 bytes, to hand it to another process; they are never written anywhere."""
        return self._private.private_bytes_raw()

    @classmethod
    def load(cls, path: Path, passphrase: Callable[[], bytes] | None = None) -> OwnerKey:
        """The key in a PKCS#8 PEM file; `passphrase` is called only if the file needs one.

        Raises:
            KeyUnusable: no such file, no Ed25519 private key in it, or a wrong passphrase.
        """
        content = read_key_file(path)
        refuse_public_key(path, content)
        if b"AGE-SECRET-KEY" in content:
            hint = "Give the owner's signing key, for example owner.pem."
            raise KeyUnusable(f"{path} is an age identity: it opens, it cannot sign.", hint)
        key = _load_private_pem(path, content, passphrase)
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyUnusable(f"The key in {path} is not an Ed25519 key.")
        return cls(key)

    def save(self, path: Path, passphrase: bytes = b"") -> None:
        """Write PKCS#8 PEM, encrypted if there is a passphrase, to a new file of mode 0600.

        Raises:
            OutputExists: something is at `path` already.
        """
        form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        if passphrase:
            der = self._private.private_bytes(serialization.Encoding.DER, *form)
            pem = encrypted_pem(der, passphrase)
        else:
            pem = self._private.private_bytes(serialization.Encoding.PEM, *form)
        create_key_file(path, pem, mode=0o600)

    @property
    def public(self) -> OwnerPublicKey:
        return OwnerPublicKey(self._private.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature of `message` (RFC 8032, without pre-hashing)."""
        return self._private.sign(message)

    def derive_uid(self, kind: str, *parts: bytes) -> str:
        """A UID that only this key can derive, the same for the same `kind` and `parts`.

        HMAC-SHA256 under a key of HKDF-SHA256 (RFC 5869), cut to a version 8 UUID (RFC 9562)
        under the root 2.25 (PS3.5 B.2): nobody without the private key can confirm a guess at
        what it was derived from.
        """
        digest = hmac.digest(self._uid_key(), _message(kind, parts), "sha256")
        value = int.from_bytes(digest[:16], "big")
        value = value & ~(0xF << 76) | 8 << 76  # version 8: made by a rule of our own
        value = value & ~(0x3 << 62) | 2 << 62  # variant 10: an RFC 9562 UUID
        return f"2.25.{uuid.UUID(int=value).int}"

    def derive_tag(self, kind: str, *parts: bytes) -> str:
        """64 hex digits that only this key can derive, the same for the same `kind` and `parts`."""
        return hmac.digest(self._uid_key(), _message("tag " + kind, parts), "sha256").hex()

    def _uid_key(self) -> bytes:
        kdf = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=_UID_KEY_INFO)
        return kdf.derive(self._private.private_bytes_raw())


def _message(kind: str, parts: Sequence[bytes]) -> bytes:
    """Lengths go first, or ("ab", "c") and ("a", "bc") would be one message."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in (kind.encode(), *parts))


def _load_private_pem(path: Path, content: bytes, passphrase: Callable[[], bytes] | None) -> object:
    try:
        return serialization.load_pem_private_key(content, None)
    except TypeError:  # what cryptography raises when a passphrase is missing
        if passphrase is None:
            raise KeyUnusable(f"The key in {path} is protected by a passphrase.") from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyUnusable(f"{path} holds no private key in PEM form.") from None
    try:
        return serialization.load_pem_private_key(content, passphrase())
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise KeyUnusable(f"The passphrase does not open {path}.") from None
