"""Whose signatures count: keys pinned by name, in the trust folder, or through a certificate.

Nothing here ever looks into a protected file. A key gets into the trust folder only when its
user puts it there; meeting an owner for the first time adds nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from miad_cli.errors import KeyUnusable, OutputExists
from miad_cli.seal.key_files import private_directory, read_key_file
from miad_cli.seal.owner import OwnerPublicKey
from miad_cli.seal.places import config_directory, local_owner

_CERTIFICATE = b"-----BEGIN CERTIFICATE"


@dataclass(frozen=True)
class TrustedOwner:
    """A key in the trust folder, and the file that holds it."""

    path: Path
    key: OwnerPublicKey


def trusted_owners(
    paths: Sequence[Path] = (), roots: Sequence[Path] = (), at: datetime | None = None
) -> list[OwnerPublicKey]:
    """Every owner whose signature counts: those named, those in the trust folder, and oneself.

    With `roots`, a certificate among `paths` counts only if its chain ends in one of them at
    the time `at` (now, unless said otherwise).

    Raises:
        KeyUnusable: a file is no key, or a chain does not verify.
    """
    anchors = [one for path in roots for one in load_certificates(path)]
    named = [load_owner(path, anchors, at) for path in paths]
    own = local_owner()
    return [*named, *(one.key for one in trust_list()), *([own] if own else [])]


# --- The trust folder ---------------------------------------------------------------------


def trust_directory() -> Path:
    """The folder of the keys this user trusts, whether it is there or not."""
    return config_directory() / "trust"


def trust_list() -> list[TrustedOwner]:
    """Every key in the trust folder, in the order of their file names.

    Raises:
        KeyUnusable: a .pem file in it is no owner's public key.
    """
    return [
        TrustedOwner(path, OwnerPublicKey.load(path))
        for path in sorted(trust_directory().glob("*.pem"))
    ]


def trust(key: OwnerPublicKey) -> bool:
    """Put a key into the trust folder; False where it is there already.

    Raises:
        KeyUnusable: the folder cannot be written.
    """
    if any(one.key == key for one in trust_list()):
        return False
    private_directory(config_directory())
    with suppress(OutputExists):  # another run was faster with the same key
        key.save(private_directory(trust_directory()) / f"{key.fingerprint}.pem")
    return True


def distrust(named: str) -> list[TrustedOwner]:
    """Take the keys out of the trust folder that `named` means: fingerprint, key id or key file.

    Raises:
        KeyUnusable: it means none of them.
    """
    wanted = OwnerPublicKey.load(Path(named)).key_id if Path(named).is_file() else named.lower()
    matching = [one for one in trust_list() if wanted in (one.key.fingerprint, one.key.key_id)]
    if not matching:
        hint = "See what is in it with: miad keys trust"
        raise KeyUnusable("No such key is in the trust folder.", hint)
    for one in matching:
        try:
            one.path.unlink(missing_ok=True)
        except OSError as error:
            raise KeyUnusable(f"{one.path} cannot be removed: {error.strerror}.") from None
    return matching


def trust_warning() -> str | None:
    """A sentence if others than its owner can write to the trust folder, else None."""
    folder = trust_directory()
    if os.name != "posix" or not folder.is_dir():
        return None
    mode = stat.S_IMODE(folder.stat().st_mode)
    if not mode & 0o022:
        return None
    return f"{folder} can be written by other users (mode {mode:04o}); run: chmod go-w {folder}"


# --- Certificates -------------------------------------------------------------------------


def load_owner(
    path: Path, roots: Sequence[x509.Certificate] = (), at: datetime | None = None
) -> OwnerPublicKey:
    """The key in a file that its user named as an owner's.

    Without `roots` a certificate counts as its key alone: naming it vouches for it. With them
    it counts only where its chain verifies.

    Raises:
        KeyUnusable: there is no Ed25519 public key, or the chain does not verify.
    """
    if not roots or _CERTIFICATE not in read_key_file(path):
        return OwnerPublicKey.load(path)
    leaf, *others = load_certificates(path)
    _check_chain(path, leaf, others, roots, at or datetime.now(UTC))
    key = leaf.public_key()
    if not isinstance(key, Ed25519PublicKey):
        raise KeyUnusable(f"The key in the first certificate of {path} is not an Ed25519 key.")
    return OwnerPublicKey(key.public_bytes_raw())


def load_certificates(path: Path) -> list[x509.Certificate]:
    """Every X.509 certificate in a PEM file, in its order.

    Raises:
        KeyUnusable: there is none, or one that cannot be read.
    """
    try:
        return x509.load_pem_x509_certificates(read_key_file(path))
    except ValueError:
        raise KeyUnusable(f"{path} holds no certificate in PEM form.") from None


def _check_chain(
    path: Path,
    leaf: x509.Certificate,
    others: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    at: datetime,
) -> None:
    """RFC 5280 path validation with the rules of the web's public key infrastructure for
    authorities, and `_owner_policy` for the owner. Revocation is not looked up."""
    verifier = (
        PolicyBuilder()
        .store(Store(list(roots)))
        .time(at)
        .extension_policies(
            ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=_owner_policy()
        )
        .build_client_verifier()
    )
    try:
        verifier.verify(leaf, list(others))
    except VerificationError:
        raise KeyUnusable(
            f"The certificate in {path} does not lead to the given root at this time.",
            "Its own certificate stands first in the file, then those between it and the root; "
            "authorities sign with RSA or ECDSA keys.",
        ) from None


def _owner_policy() -> ExtensionPolicy:
    """What an owner's certificate may say: anything but that it is an authority, or that its
    key is not for signatures."""
    return (
        ExtensionPolicy.permit_all()
        .may_be_present(x509.BasicConstraints, Criticality.AGNOSTIC, _refuse_authority)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _need_signatures)
    )


def _refuse_authority(
    _policy: Policy, _certificate: x509.Certificate, found: x509.BasicConstraints | None
) -> None:
    if found is not None and found.ca:
        raise ValueError("an authority's certificate")


def _need_signatures(
    _policy: Policy, _certificate: x509.Certificate, found: x509.KeyUsage | None
) -> None:
    if found is not None and not (found.digital_signature or found.content_commitment):
        raise ValueError("a key that is not for signatures")
