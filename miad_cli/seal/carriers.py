"""Where containers travel: inside the file, and in a sidecar beside it. Either copy is enough."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from miad_cli.errors import ContainerDamaged, NotProtected, VerificationFailed
from miad_cli.seal.container import Container, parse

SIDECAR_SUFFIX = ".miad"
SIDECAR_LIMIT = 5 << 30


def sidecar_of(picture: Path) -> Path:
    """`NAME.dcm` has its sidecar in `NAME.dcm.miad`."""
    return picture.with_name(picture.name + SIDECAR_SUFFIX)


def read_sidecar(picture: Path) -> bytes | None:
    """The sidecar's bytes, or None where there is none.

    Raises:
        ContainerDamaged: it cannot be read.
    """
    path = sidecar_of(picture)
    try:
        if path.stat().st_size > SIDECAR_LIMIT:
            raise ContainerDamaged("the sidecar is larger than any container")
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ContainerDamaged(f"the sidecar cannot be read ({error.strerror})") from None


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
