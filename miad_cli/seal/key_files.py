"""Key files: read with a bound, written whole, for their owner alone, and never over another."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from miad_cli.errors import KeyUnusable, OutputExists

KEY_FILE_LIMIT = 1 << 20
"""Bytes of the largest key file that is read."""

_PUBLIC_KEY_STARTS = (b"age1", b"ssh-", b"-----BEGIN PUBLIC KEY", b"-----BEGIN CERTIFICATE")


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


def private_directory(path: Path) -> Path:
    """The folder, made for its owner alone where it is not there yet.

    Raises:
        KeyUnusable: it cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise KeyUnusable(f"The key folder {path} cannot be made: {error.strerror}.") from None
    return path


def read_key_file(path: Path) -> bytes:
    """All of a key file.

    Raises:
        KeyUnusable: it cannot be read, or is too large to be one.
    """
    try:
        with path.open("rb") as file:
            content = file.read(KEY_FILE_LIMIT + 1)
    except OSError as error:
        raise KeyUnusable(f"The key file {path} cannot be read: {error.strerror}.") from None
    if len(content) > KEY_FILE_LIMIT:
        raise KeyUnusable(f"{path} is too large to be a key file.")
    return content


def refuse_public_key(path: Path, content: bytes) -> None:
    """Raise KeyUnusable where a private key is needed and `content` is a public one."""
    if content.lstrip().startswith(_PUBLIC_KEY_STARTS):
        hint = "Give the private half of the pair."
        raise KeyUnusable(f"{path} holds a public key where a private one is needed.", hint)


def key_lines(path: Path, content: bytes) -> Iterator[tuple[int, str]]:
    """Number and text of every line that is neither empty nor a comment."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise KeyUnusable(f"{path} is not a key file.") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            yield number, line.strip()


def create_key_file(path: Path, content: bytes, mode: int) -> None:
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
