"""Keys named on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from miad_cli import console

if TYPE_CHECKING:
    from miad_cli.commands.passphrases import Passphrases
    from miad_cli.seal.identities import Identity, Recipient
    from miad_cli.seal.owner import OwnerKey, OwnerPublicKey


def trusted_owners(
    paths: Sequence[Path] | None,
    roots: Sequence[Path] | None = None,
    manners: console.Manners | None = None,
) -> list[OwnerPublicKey]:
    """The owners named, those in the trust folder, and this machine's own.

    A key that came inside a protected file is never among them.
    """
    from miad_cli.seal import trust

    if warning := trust.trust_warning():
        console.warn(warning, manners or console.Manners())
    return trust.trusted_owners(paths or [], roots or [])


def read_identities(
    paths: Sequence[Path], manners: console.Manners, passphrases: Passphrases | None = None
) -> list[Identity]:
    """Every identity in the key files, with a warning for a file that others can read."""
    from miad_cli.seal.identities import load_identities

    identities: list[Identity] = []
    for path in paths:
        warn_of_readers(path, manners)
        ask = partial(passphrases.of, path) if passphrases else None
        identities += load_identities(path, ask)
    return identities


def read_owner(path: Path, manners: console.Manners, passphrases: Passphrases) -> OwnerKey:
    """The owner's signing key, with a warning for a file that others can read."""
    from miad_cli.seal.owner import OwnerKey

    warn_of_readers(path, manners)
    return OwnerKey.load(path, partial(passphrases.bytes_of, path))


def read_recipients(
    texts: Sequence[str] | None, paths: Sequence[Path] | None = None
) -> list[Recipient]:
    """The recipients named one by one and those in files, in that order."""
    from miad_cli.seal.identities import load_recipients, parse_recipient

    named = [parse_recipient(text) for text in texts or []]
    return named + [one for path in paths or [] for one in load_recipients(path)]


def warn_of_readers(path: Path, manners: console.Manners) -> None:
    """Warn of a private key that others than its owner can read."""
    from miad_cli.seal.key_files import permission_warning

    if warning := permission_warning(path):
        console.warn(warning, manners)
