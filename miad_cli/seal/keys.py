"""Who signs (Ed25519 owner keys), who can open (age identities), and where both are kept.

The owner's key signs manifests and derives UIDs; it opens nothing. An age identity opens
instances and signs nothing. Both are files that other tools read: PKCS#8 and SPKI PEM
(RFC 5958, RFC 5280), and the identity files of age (C2SP age specification).

The identities here turn into their secret under `str()`: never format or log one.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import platformdirs
import pyrage
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pyrage import passphrase as age_passphrase
from pyrage import ssh, x25519

from miad_cli.errors import KeyUnusable, OutputExists

Identity: TypeAlias = x25519.Identity | ssh.Identity
Recipient: TypeAlias = x25519.Recipient | ssh.Recipient

KEY_FILE_LIMIT = 1 << 20
"""Bytes of the largest key file that is read."""

_UID_KEY_INFO = b"miad/v1/uid"
_PUBLIC_KEY_STARTS = (b"age1", b"ssh-", b"-----BEGIN PUBLIC KEY", b"-----BEGIN CERTIFICATE")
_AGE_FILE_STARTS = (b"age-encryption.org/", b"-----BEGIN AGE ENCRYPTED FILE-----")


# --- The owner: signatures and UIDs -------------------------------------------------------


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
        content = _read_key_file(path)
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
        _create_file(path, self._pem(), mode=0o644)

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

    def _pem(self) -> bytes:
        return Ed25519PublicKey.from_public_bytes(self.raw).public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


@dataclass(frozen=True, eq=False)
class OwnerKey:
    """The Ed25519 private key of whoever protects: signs manifests and derives UIDs."""

    _private: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> OwnerKey:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path, passphrase: Callable[[], bytes] | None = None) -> OwnerKey:
        """The key in a PKCS#8 PEM file; `passphrase` is called only if the file needs one.

        Raises:
            KeyUnusable: no such file, no Ed25519 private key in it, or a wrong passphrase.
        """
        content = _read_key_file(path)
        _refuse_public_key(path, content)
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
        encryption = (
            serialization.BestAvailableEncryption(passphrase)
            if passphrase
            else serialization.NoEncryption()
        )
        pem = self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )
        _create_file(path, pem, mode=0o600)

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
        # Lengths go first, or ("ab", "c") and ("a", "bc") would be one message.
        message = b"".join(len(part).to_bytes(8, "big") + part for part in (kind.encode(), *parts))
        digest = hmac.digest(self._uid_key(), message, "sha256")
        value = int.from_bytes(digest[:16], "big")
        value = value & ~(0xF << 76) | 8 << 76  # version 8: made by a rule of our own
        value = value & ~(0x3 << 62) | 2 << 62  # variant 10: an RFC 9562 UUID
        return f"2.25.{uuid.UUID(int=value).int}"

    def _uid_key(self) -> bytes:
        kdf = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=_UID_KEY_INFO)
        return kdf.derive(self._private.private_bytes_raw())


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


# --- Identities and recipients: who can open ----------------------------------------------


def new_identity(path: Path) -> str:
    """Make an X25519 identity, write it to a new age identity file (0600), return `age1…`.

    Raises:
        OutputExists: something is at `path` already.
    """
    identity = x25519.Identity.generate()
    recipient = str(identity.to_public())
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    lines = f"# created: {created}\n# public key: {recipient}\n{identity}\n"
    _create_file(path, lines.encode(), mode=0o600)
    return recipient


def load_identities(path: Path, passphrase: Callable[[], str] | None = None) -> list[Identity]:
    """Every identity in an age identity file, or the one in an SSH private key.

    A file that age encrypted with a passphrase, binary or armoured, is opened first;
    `passphrase` is called only then.

    Raises:
        KeyUnusable: no such file, nothing in it that opens an instance, or a wrong passphrase.
    """
    content = _read_key_file(path)
    if content.startswith(_AGE_FILE_STARTS):
        content = _open_identity_file(path, content, passphrase)
    _refuse_public_key(path, content)
    if content.lstrip().startswith(b"-----BEGIN"):
        return [_parse_ssh_identity(path, content)]
    identities = [_parse_identity(path, number, line) for number, line in _key_lines(path, content)]
    if not identities:
        raise KeyUnusable(f"{path} holds no identity.", "An identity starts AGE-SECRET-KEY-1.")
    return identities


def _open_identity_file(path: Path, content: bytes, passphrase: Callable[[], str] | None) -> bytes:
    if passphrase is None:
        raise KeyUnusable(f"The identity in {path} is protected by a passphrase.")
    try:
        return bytes(age_passphrase.decrypt(content, passphrase()))
    except pyrage.DecryptError as error:
        if str(error) == "Decryption failed":
            raise KeyUnusable(f"The passphrase does not open {path}.") from None
        # pyrage caps the work factor of scrypt before it spends any time on it.
        raise KeyUnusable(f"{path} is not an identity that a passphrase can open.") from None


def _parse_identity(path: Path, number: int, line: str) -> Identity:
    # No message may quote the line: it is, or nearly is, a secret.
    if line.startswith("AGE-PLUGIN-") or line.startswith("AGE-SECRET-KEY-PQ-1"):
        hint = "X25519 identities (AGE-SECRET-KEY-1) and SSH keys are understood."
        raise KeyUnusable(f"Line {number} of {path} is a kind of identity not known here.", hint)
    try:
        return x25519.Identity.from_str(line)
    except pyrage.IdentityError:
        raise KeyUnusable(f"Line {number} of {path} is not an age identity.") from None


def _parse_ssh_identity(path: Path, content: bytes) -> Identity:
    if b"-----BEGIN PRIVATE KEY" in content or b"-----BEGIN ENCRYPTED PRIVATE KEY" in content:
        hint = "An owner's key signs; give the identity that the instances were sealed to."
        raise KeyUnusable(f"{path} is not an identity that opens instances.", hint)
    try:
        return ssh.Identity.from_buffer(content)
    except pyrage.IdentityError as error:
        encrypted = "decrypted first" in str(error) or "EncryptedPem" in str(error)
    if encrypted:
        hint = "Use an age identity, or take the passphrase off a copy with ssh-keygen -p."
        raise KeyUnusable(f"{path} is an SSH key under a passphrase, not opened here.", hint)
    raise KeyUnusable(f"{path} is not an SSH key that age can use.", "Ed25519 and RSA keys are.")


def parse_recipient(text: str) -> Recipient:
    """The recipient in `age1…`, or in a public key line `ssh-ed25519 …` or `ssh-rsa …`.

    Raises:
        KeyUnusable: it is none of these. The text is not repeated: it might be a secret.
    """
    text = text.strip()
    if text.upper().startswith("AGE-SECRET-KEY-"):
        hint = "Give the public key, age1…, and keep this one to yourself."
        raise KeyUnusable("This is a secret identity, not a recipient.", hint)
    kind = ssh.Recipient if text.startswith("ssh-") else x25519.Recipient
    try:
        return kind.from_str(text)
    except pyrage.RecipientError:
        hint = "A recipient is age1…, or a line that starts ssh-ed25519 or ssh-rsa."
        raise KeyUnusable("This is not a recipient that can be sealed to.", hint) from None


def load_recipients(path: Path) -> list[Recipient]:
    """The recipients in a file, one a line; empty lines and lines from `#` do not count.

    Raises:
        KeyUnusable: no such file, a line that is no recipient, or none at all.
    """
    recipients = []
    for number, line in _key_lines(path, _read_key_file(path)):
        try:
            recipients.append(parse_recipient(line))
        except KeyUnusable as error:
            raise KeyUnusable(f"Line {number} of {path}: {error.message}", error.hint) from None
    if not recipients:
        raise KeyUnusable(f"{path} names no recipient.")
    return recipients


# --- Default places -----------------------------------------------------------------------


def data_directory() -> Path:
    """Where this user's keys are kept: `MIAD_HOME`, or the platform's place for user data."""
    home = os.environ.get("MIAD_HOME")
    return Path(home) if home else platformdirs.user_data_path("miad")


def default_owner(passphrase: Callable[[], bytes] | None = None) -> OwnerKey:
    """This user's own signing key, made on first use with its public half beside it.

    Two processes that start at once end up with the same key.

    Raises:
        KeyUnusable: the key is there and cannot be read, or the public half is another key's.
    """
    directory = _private_directory(data_directory())
    private, public = directory / "owner.pem", directory / "owner.pub.pem"
    if not private.exists():
        with suppress(OutputExists):
            OwnerKey.generate().save(private)
    owner = OwnerKey.load(private, passphrase)
    with suppress(OutputExists):
        owner.public.save(public)
    if OwnerPublicKey.load(public) != owner.public:
        hint = "Move the public key elsewhere; it is written again from the private key."
        raise KeyUnusable(f"{public} does not belong to {private}.", hint)
    return owner


def local_owner() -> OwnerPublicKey | None:
    """The public half of this user's own key, if there is one; nothing is made.

    Raises:
        KeyUnusable: it is there and cannot be read.
    """
    path = data_directory() / "owner.pub.pem"
    return OwnerPublicKey.load(path) if path.exists() else None


def job_identity(output: Path, chosen: Path | None = None) -> tuple[Path, str]:
    """The identity file of one job, and its recipient; `output` is the job's output folder.

    Made on first use, the same on every rerun. It lies at `chosen`, else in the data directory,
    and never in or beside the output, which is what gets copied away.

    Raises:
        KeyUnusable: the identity is there and cannot be read.
    """
    path = chosen or _job_path(output)
    if not path.exists():
        with suppress(OutputExists):
            new_identity(path)
    identity = load_identities(path)[0]
    if not isinstance(identity, x25519.Identity):
        raise KeyUnusable(f"{path} is not an age identity.", "Move it elsewhere and run again.")
    return path, str(identity.to_public())


def _job_path(output: Path) -> Path:
    directory = _private_directory(_private_directory(data_directory()) / "identities")
    name = hashlib.sha256(os.fsencode(os.path.abspath(output))).hexdigest()[:16]
    return directory / f"{name}.txt"


# --- Key files ----------------------------------------------------------------------------


def permission_warning(path: Path) -> str | None:
    """A sentence if others than its owner can reach the secret at `path`, else None."""
    if os.name != "posix":  # the mode bits of other systems say nothing about access
        return None
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
    if not mode & 0o077:
        return None
    return f"{path} can be reached by other users (mode {mode:04o}); run: chmod go= {path}"


def _private_directory(path: Path) -> Path:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise KeyUnusable(f"The key folder {path} cannot be made: {error.strerror}.") from None
    return path


def _read_key_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(KEY_FILE_LIMIT + 1)
    except OSError as error:
        raise KeyUnusable(f"The key file {path} cannot be read: {error.strerror}.") from None
    if len(content) > KEY_FILE_LIMIT:
        raise KeyUnusable(f"{path} is too large to be a key file.")
    return content


def _refuse_public_key(path: Path, content: bytes) -> None:
    if content.lstrip().startswith(_PUBLIC_KEY_STARTS):
        hint = "Give the private half of the pair."
        raise KeyUnusable(f"{path} holds a public key where a private one is needed.", hint)


def _key_lines(path: Path, content: bytes) -> Iterator[tuple[int, str]]:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise KeyUnusable(f"{path} is not a key file.") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            yield number, line.strip()


def _create_file(path: Path, content: bytes, mode: int) -> None:
    """Write a whole new file under a temporary name and link it into place.

    A link is refused where something stands already, so nothing is ever overwritten, and
    whoever loses a race finds the winner's file complete.
    """
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        _write_exclusively(temporary, content, mode)
        try:
            os.link(temporary, path)
        except OSError:
            # Something is there, and is found here too; or the file system has no hard links,
            # and the file is exclusive still, but not complete at once.
            _write_exclusively(path, content, mode)
        _sync_directory(path.parent)
    except FileExistsError:
        raise OutputExists(f"{path} exists already; keys are never overwritten.") from None
    except OSError as error:
        raise KeyUnusable(f"The key file {path} cannot be written: {error.strerror}.") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def _write_exclusively(path: Path, content: bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink()  # ours, and no half of a key may be taken for a key
        raise


def _sync_directory(path: Path) -> None:
    # A lost identity is a lost original: the name must survive a power cut too.
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
