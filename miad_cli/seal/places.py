"""Where this user's keys are kept, and the ones that are made without being asked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import platformdirs
from pyrage import x25519

from miad_cli.errors import KeyUnusable, OutputExists
from miad_cli.seal.identities import load_identities, new_identity
from miad_cli.seal.key_files import private_directory
from miad_cli.seal.owner import OwnerKey, OwnerPublicKey


def data_directory() -> Path:
    """Where this user's keys are kept: `MIAD_HOME`, or the platform's place for user data."""
    home = os.environ.get("MIAD_HOME")
    return Path(home) if home else platformdirs.user_data_path("miad")


def config_directory() -> Path:
    """Where this user's settings are kept: `MIAD_HOME`, or the platform's place for them."""
    home = os.environ.get("MIAD_HOME")
    return Path(home) if home else platformdirs.user_config_path("miad")


def own_key_path() -> Path:
    """Where this user's own signing key lies, whether it is there or not."""
    return data_directory() / "owner.pem"


def public_half_of(path: Path) -> Path:
    """Where the public half of an owner's key is written: `owner.pub.pem` for `owner.pem`."""
    return path.with_name(f"{path.stem if path.suffix == '.pem' else path.name}.pub.pem")


def default_owner(passphrase: Callable[[], bytes] | None = None) -> OwnerKey:
    """This user's own signing key, made on first use with its public half beside it.

    Two processes that start at once end up with the same key.

    Raises:
        KeyUnusable: the key is there and cannot be read, or the public half is another key's.
    """
    directory = private_directory(data_directory())
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
    path = chosen or job_identity_path(output)
    if not path.exists():
        if chosen is None:
            private_directory(private_directory(data_directory()) / path.parent.name)
        with suppress(OutputExists):
            new_identity(path)
    identity = load_identities(path)[0]
    if not isinstance(identity, x25519.Identity):
        raise KeyUnusable(f"{path} is not an age identity.", "Move it elsewhere and run again.")
    return path, str(identity.to_public())


def job_identity_path(output: Path) -> Path:
    """Where the identity of the job that writes to `output` lies, whether it is there or not."""
    directory = data_directory() / "identities"
    name = hashlib.sha256(os.fsencode(os.path.abspath(output))).hexdigest()[:16]
    return directory / f"{name}.txt"
