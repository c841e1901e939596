"""What a key file holds, for people to see: kind, public part, fingerprint; never a secret."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from pyrage import x25519

from miad_cli.errors import KeyUnusable
from miad_cli.seal.identities import load_identities, load_recipients
from miad_cli.seal.key_files import read_key_file
from miad_cli.seal.owner import OwnerKey, OwnerPublicKey


@dataclass(frozen=True)
class KeyFacts:
    """One key. `public` can be given to anybody, `is_private` says whether the file cannot."""

    kind: str
    public: str
    fingerprint: str
    is_private: bool


def facts_of(path: Path, passphrase: Callable[[], str] | None = None) -> list[KeyFacts]:
    """Every key in a file; `passphrase` is called only if its public part lies under one.

    Raises:
        KeyUnusable: it holds no key known here, or the passphrase is missing or wrong.
    """
    content = read_key_file(path)
    if b"-----BEGIN CERTIFICATE" in content:
        return [_of_owner("owner, X.509 certificate", OwnerPublicKey.load(path), False)]
    if b"-----BEGIN PUBLIC KEY" in content:
        return [_of_owner("owner, public key", OwnerPublicKey.load(path), False)]
    if b"-----BEGIN PRIVATE KEY" in content or b"-----BEGIN ENCRYPTED PRIVATE KEY" in content:
        ask = passphrase
        owner = OwnerKey.load(path, (lambda: ask().encode()) if ask else None)
        return [_of_owner("owner, signing key", owner.public, True)]
    if content.lstrip().startswith(b"-----BEGIN") and b"PRIVATE KEY" in content:
        load_identities(path)  # says so where age could not use it
        return [_of_recipient(_ssh_public(path, content), True)]
    if content.startswith(b"-----BEGIN AGE") or b"AGE-SECRET-KEY" in content.upper():
        return _of_identities(path, passphrase)
    if content.startswith(b"age-encryption.org/"):
        return _of_identities(path, passphrase)
    return [_of_recipient(one.text, False) for one in load_recipients(path)]


def _of_identities(path: Path, passphrase: Callable[[], str] | None) -> list[KeyFacts]:
    return [
        _of_recipient(str(one.to_public()), True)
        for one in load_identities(path, passphrase)
        if isinstance(one, x25519.Identity)
    ]


def _of_owner(kind: str, key: OwnerPublicKey, is_private: bool) -> KeyFacts:
    return KeyFacts(kind, key.pem.decode().strip(), key.fingerprint, is_private)


def _of_recipient(text: str, is_private: bool) -> KeyFacts:
    name = "identity" if is_private else "recipient"
    if text.startswith("ssh-"):
        return KeyFacts(f"{name}, SSH key", text, _ssh_fingerprint(text), is_private)
    digest = hashlib.sha256(text.encode()).hexdigest()[:20]
    groups = "-".join(digest[start : start + 4] for start in range(0, len(digest), 4))
    return KeyFacts(f"{name}, age", text, groups, is_private)


def _ssh_fingerprint(text: str) -> str:
    """As `ssh-keygen -l` writes it."""
    digest = hashlib.sha256(base64.b64decode(text.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _ssh_public(path: Path, content: bytes) -> str:
    load = serialization.load_pem_private_key
    if b"OPENSSH" in content:
        load = serialization.load_ssh_private_key
    try:
        public = load(content, None).public_key()
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise KeyUnusable(f"{path} is not an SSH key that can be read.") from None
    form = (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return public.public_bytes(*form).decode()
