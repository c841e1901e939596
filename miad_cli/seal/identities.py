"""Who can open: age identities, and the recipients that instances are sealed to.

An identity opens instances and signs nothing. Its files are those of age (C2SP age
specification) and of OpenSSH.

The identities here turn into their secret under `str()`: never format or log one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import pyrage
from pyrage import passphrase as age_passphrase
from pyrage import ssh, x25519

from miad_cli.errors import KeyUnusable
from miad_cli.seal.key_files import create_key_file, key_lines, read_key_file, refuse_public_key

Identity: TypeAlias = x25519.Identity | ssh.Identity
AgeRecipient: TypeAlias = x25519.Recipient | ssh.Recipient

_AGE_FILE_STARTS = (b"age-encryption.org/", b"-----BEGIN AGE ENCRYPTED FILE-----")


def new_identity(path: Path, passphrase: str = "") -> str:
    """Make an X25519 identity, write it to a new age identity file (0600), return `age1…`.

    With a passphrase the file is encrypted by age, in its armoured form.

    Raises:
        OutputExists: something is at `path` already.
    """
    identity = x25519.Identity.generate()
    recipient = str(identity.to_public())
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    content = f"# created: {created}\n# public key: {recipient}\n{identity}\n".encode()
    if passphrase:
        content = bytes(age_passphrase.encrypt(content, passphrase, armored=True))
    create_key_file(path, content, mode=0o600)
    return recipient


def load_identities(path: Path, passphrase: Callable[[], str] | None = None) -> list[Identity]:
    """Every identity in an age identity file, or the one in an SSH private key.

    A file that age encrypted with a passphrase, binary or armoured, is opened first;
    `passphrase` is called only then.

    Raises:
        KeyUnusable: no such file, nothing in it that opens an instance, or a wrong passphrase.
    """
    content = read_key_file(path)
    if content.startswith(_AGE_FILE_STARTS):
        content = _open_identity_file(path, content, passphrase)
    refuse_public_key(path, content)
    if content.lstrip().startswith(b"-----BEGIN"):
        return [_parse_ssh_identity(path, content)]
    identities = [_parse_identity(path, number, line) for number, line in key_lines(path, content)]
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


@dataclass(frozen=True)
class Recipient:
    """Somebody whom instances are sealed to.

    `text` is the public key as it is written, `age1…` or `ssh-… …` without its comment: equal
    keys have equal texts. Made by `parse_recipient`, which is what checks it.
    """

    text: str

    @property
    def age(self) -> AgeRecipient:
        """The key as age takes it."""
        kind = ssh.Recipient if self.text.startswith("ssh-") else x25519.Recipient
        return kind.from_str(self.text)


def parse_recipient(text: str) -> Recipient:
    """The recipient in `age1…`, or in a public key line `ssh-ed25519 …` or `ssh-rsa …`.

    Raises:
        KeyUnusable: it is none of these. The text is not repeated: it might be a secret.
    """
    text = text.strip()
    if text.upper().startswith("AGE-SECRET-KEY-"):
        hint = "Give the public key, age1…, and keep this one to yourself."
        raise KeyUnusable("This is a secret identity, not a recipient.", hint)
    try:
        if text.startswith("ssh-"):
            ssh.Recipient.from_str(text)
            return Recipient(" ".join(text.split()[:2]))
        return Recipient(str(x25519.Recipient.from_str(text)))
    except pyrage.RecipientError:
        hint = "A recipient is age1…, or a line that starts ssh-ed25519 or ssh-rsa."
        raise KeyUnusable("This is not a recipient that can be sealed to.", hint) from None


def load_recipients(path: Path) -> list[Recipient]:
    """The recipients in a file, one a line; empty lines and lines from `#` do not count.

    Raises:
        KeyUnusable: no such file, a line that is no recipient, or none at all.
    """
    recipients = []
    for number, line in key_lines(path, read_key_file(path)):
        try:
            recipients.append(parse_recipient(line))
        except KeyUnusable as error:
            raise KeyUnusable(f"Line {number} of {path}: {error.message}", error.hint) from None
    if not recipients:
        raise KeyUnusable(f"{path} names no recipient.")
    return recipients
