"""Keys named on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from miad_cli import console

if TYPE_CHECKING:
    from miad_cli.seal.keys import Identity, OwnerPublicKey


def trusted_owners(paths: Sequence[Path]) -> list[OwnerPublicKey]:
    """The owners named, and this machine's own owner key where it has one.

    A key that came inside a protected file is never among them.
    """
    from miad_cli.seal.keys import OwnerPublicKey, local_owner

    own = local_owner()
    return [OwnerPublicKey.load(path) for path in paths] + ([own] if own else [])


def read_identities(paths: Sequence[Path], manners: console.Manners) -> list[Identity]:
    """Every identity in the key files, with a warning for a file that others can read."""
    from miad_cli.seal.keys import load_identities, permission_warning

    for path in paths:
        if warning := permission_warning(path):
            console.warn(warning, manners)
    return [identity for path in paths for identity in load_identities(path)]
