"""Where containers travel: inside the file, and in a sidecar beside it. Either copy is enough."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from miad_cli.errors import NotProtected, VerificationFailed
from miad_cli.seal.container import Container, parse

SIDECAR_SUFFIX = ".miad"
SIDECAR_LIMIT = 5 << 30


def sidecar_of(picture: Path) -> Path:
    """`NAME.dcm` has its sidecar in `NAME.dcm.miad`."""
    return picture.with_name(picture.name + SIDECAR_SUFFIX)


def is_sidecar(path: Path) -> bool:
    """True for `NAME.miad`; a file called just `.miad` is none."""
    return path.name.endswith(SIDECAR_SUFFIX) and path.name != SIDECAR_SUFFIX


def picture_of(sidecar: Path) -> Path:
    """The file that a sidecar belongs to."""
    return sidecar.with_name(sidecar.name.removesuffix(SIDECAR_SUFFIX))


def read_sidecar(picture: Path) -> bytes | None:
    """The sidecar's bytes; empty where it cannot be read; None where there is none.

    One that cannot be read is a damaged copy, and the copy in the file may still be good.
    """
    try:
        with open(sidecar_of(picture), "rb", opener=_open_without_waiting) as stream:
            about = os.fstat(stream.fileno())
            whole = stat.S_ISREG(about.st_mode) and about.st_size <= SIDECAR_LIMIT
            return stream.read(about.st_size) if whole else b""
    except FileNotFoundError:
        return None
    except OSError:
        return b""


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file and neither follow a link, which leads out of the tree, nor wait for a pipe."""
    extra = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return os.open(path, flags | extra)


def parse_copies(copies: Iterable[bytes | None]) -> list[Container]:
    """Every readable container among the copies, the embedded one first, equal ones once.

    Raises:
        NotProtected: there is no copy at all.
        ContainerDamaged, SignatureInvalid: there are copies, and none can be used.
    """
    present = [copy for copy in copies if copy is not None]
    if not present:
        raise NotProtected("not protected by miad: no container in the file or beside it")
    containers: list[Container] = []
    damage: VerificationFailed | None = None
    for copy in present:
        if containers and copy.removesuffix(b"\0") == present[0].removesuffix(b"\0"):
            continue  # as a rule the sidecar is what the file holds
        try:
            container = parse(copy)
        except VerificationFailed as error:
            damage = error
            continue
        if container not in containers:
            containers.append(container)
    if not containers and damage is not None:
        raise damage
    return containers
