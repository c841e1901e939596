"""Containers of whole files: of a DICOMDIR, of an object without a picture.

Such a container speaks of the file beside it byte for byte, or of nothing where it stands for
itself; there are no pixels, and so no tiles of any.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from miad_cli.errors import VerificationFailed
from miad_cli.seal.carriers import read_sidecar
from miad_cli.seal.container import TILE_DIGITS, Manifest, parse

WHOLE_FILE = "0" * TILE_DIGITS
"""`tiles` of a manifest that speaks of a file and not of a picture."""


def companion_digest(written: bytes | None) -> str:
    """What a manifest says in place of the digests of pixels; None for no file at all."""
    return hashlib.sha256(written or b"").hexdigest()


def is_of_companion(manifest: Manifest) -> bool:
    """Whether a manifest speaks of a file as a whole and not of a picture."""
    return manifest.tiles == WHOLE_FILE


def is_unchanged(manifest: Manifest, written: bytes | None) -> bool:
    """Whether the file is byte for byte what the manifest speaks of; None where there is none.

    To be believed once the manifest's signature was checked.
    """
    return is_of_companion(manifest) and companion_digest(written) == manifest.pixels_sha256


def has_companion_seal(path: Path) -> bool:
    """Whether a readable container of a whole file lies beside `path`; who signed it is open."""
    sidecar = read_sidecar(path)
    if not sidecar:
        return False
    try:
        return is_of_companion(parse(sidecar).manifest)
    except VerificationFailed:
        return False
