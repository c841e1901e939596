"""What a run has measured so far, so that one that was interrupted can go on.

A file of JSON lines in a folder (`--work`), a line for each finished unit of work. Each names the
digest of everything that decides its figures; lines of another digest stay and do not count, so a
run with other settings starts anew and coming back to the old ones finds them again. What a
killed run left of a line does not count either.

One process writes at a time: the file is locked while it is open, because two runs would measure
everything twice. Further processes work on `Notes`, and give their figures to the process that
holds the ledger. No path, no attribute of a patient and no name of a picture is in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from miad_cli.errors import OutputExists, UsageError

FILE = "measured.jsonl"

_LOCKED_BYTE = 1 << 40
"""Where Windows locks: beyond the end, since what is locked there nobody else can read."""


class Key(NamedTuple):
    """A unit of work: `case` is the opaque reference of a picture, None for a cell as a whole."""

    protocol: str
    cell: str
    case: int | str | None = None


class Memory(Protocol):
    """What was measured so far."""

    def known(self, key: Key) -> dict[str, Any] | None:
        """The figures of a unit of work that is done, else None."""
        ...

    def add(self, key: Key, figures: Mapping[str, Any]) -> None:
        """One unit of work is done."""
        ...


@dataclass(frozen=True)
class Progress:
    """How many of the planned units of work are done."""

    done: int
    total: int


def work_folder(report: Path) -> Path:
    """Where the ledger of a report lies by default: `out.html` gives `out-work/`."""
    return report.with_name(f"{report.stem}-work")


def digest_of(facts: Mapping[str, Any]) -> str:
    """SHA-256 of what decides the figures: settings, models' and logo's digests, seed, version.

    The order of the facts does not count; they consist of what JSON has.

    Raises:
        TypeError: a fact is something else, whose text might not say what it is.
    """
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Ledger:
    """Open for as long as the block runs; a unit that was added survives a loss of power.

    Args:
        folder: is made where it is not there.
        digest: of everything that decides the figures, see `digest_of`.

    Raises:
        OutputExists: another run has it open.
        UsageError: it cannot be read or written.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        self._path = folder / FILE
        self._digest = digest
        self._descriptor = -1
        self._known: dict[Key, dict[str, Any]] = {}

    def __enter__(self) -> Ledger:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
            self._descriptor = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise self._refusal(error) from None
        try:
            self._lock()
            self._read()
        except OSError as error:
            self._close()
            raise self._refusal(error) from None
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def known(self, key: Key) -> dict[str, Any] | None:
        """The figures of a unit of work that is done, else None."""
        found = self._known.get(key)
        return None if found is None else dict(found)

    def add(self, key: Key, figures: Mapping[str, Any]) -> None:
        """One unit of work is done; on the disk when this returns. The last of a key counts.

        Numbers of numpy become plain ones; NaN and infinity stay what they are.

        Raises:
            UsageError: it cannot be written.
        """
        record = {"digest": self._digest, "key": list(key), "figures": dict(figures)}
        line = _text(record).encode() + b"\n"
        try:
            self._append(line)
        except OSError as error:
            raise self._refusal(error) from None
        self._known[key] = json.loads(line)["figures"]

    def progress(self, planned: Iterable[Key]) -> Progress:
        """How many of the units of work that a run will need are there already."""
        keys = set(planned)
        return Progress(len(keys & self._known.keys()), len(keys))

    def __len__(self) -> int:
        return len(self._known)

    def _append(self, line: bytes) -> None:
        """With O_APPEND, and the rest where the system took only a part."""
        while line:
            line = line[os.write(self._descriptor, line) :]
        os.fsync(self._descriptor)

    def _read(self) -> None:
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        with os.fdopen(os.dup(self._descriptor), "rb") as stream:
            last = b"\n"
            for last in stream:
                record = _record(last, self._digest)
                if record is not None:
                    self._known[record[0]] = record[1]
        if not last.endswith(b"\n"):  # half a line of a killed run; what follows starts anew
            self._append(b"\n")

    def _lock(self) -> None:
        try:
            if sys.platform == "win32":
                import msvcrt

                os.lseek(self._descriptor, _LOCKED_BYTE, os.SEEK_SET)
                msvcrt.locking(self._descriptor, msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise OutputExists(
                f"{self._path.parent}: another run is writing its figures there",
                hint="Wait until it is done, or name another folder with --work.",
            ) from None

    def _close(self) -> None:
        """Closing gives the lock back, and so does the system when a process is killed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _refusal(self, error: OSError) -> UsageError:
        return UsageError(
            f"{self._path}: figures cannot be kept there ({error.strerror})",
            hint="Name a folder that can be written to with --work.",
        )


class Notes:
    """The memory of a process that does not hold the ledger: what the file held when it began, and
    what it measured itself.

    Raises:
        UsageError: the file cannot be read.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        path = folder / FILE
        try:
            lines = path.read_bytes().splitlines()
        except OSError as error:
            raise UsageError(f"{path}: figures cannot be read there ({error.strerror})") from None
        found = (_record(line, digest) for line in lines)
        self._known = dict(one for one in found if one is not None)
        self._new: dict[Key, dict[str, Any]] = {}

    def known(self, key: Key) -> dict[str, Any] | None:
        """The figures of a unit of work that is done, else None."""
        found = self._known.get(key)
        return None if found is None else dict(found)

    def add(self, key: Key, figures: Mapping[str, Any]) -> None:
        """One unit of work is done; the figures are what the ledger would give back."""
        self._known[key] = self._new[key] = json.loads(_text(dict(figures)))

    def handed_over(self) -> list[tuple[Key, dict[str, Any]]]:
        """What was added since this was last asked, in its order."""
        new, self._new = self._new, {}
        return list(new.items())


def _text(record: Mapping[str, Any]) -> str:
    return json.dumps(record, default=_plain, separators=(",", ":"))


def _record(line: bytes, digest: str) -> tuple[Key, dict[str, Any]] | None:
    """A line's key and figures; None for half a line, and for one of another digest."""
    try:
        record = json.loads(line)
        if record["digest"] != digest or not isinstance(record["figures"], dict):
            return None
        protocol, cell, case = record["key"]
        key = Key(protocol, cell, case)
        hash(key)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return key, record["figures"]


def _plain(value: Any) -> Any:
    """A number or an array of numpy as JSON has it."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is nothing that a ledger holds")
