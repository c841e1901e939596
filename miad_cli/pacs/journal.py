"""What was stored where, so that a run that was interrupted can go on.

A file for each destination, in the user's data directory; a line for each protected instance that
the PACS said it has: its UID, the digest of the file, the state, the time. No attribute of a
patient, no path, and no name of the destination.
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from miad_cli.errors import UsageError
from miad_cli.pacs.destinations import Destination
from miad_cli.pacs.outcome import Instance, Outcome

FOLDER = "sent"
_GONE = "gone"


def journal_path(folder: Path, destination: Destination) -> Path:
    """The journal of a destination below the user's data directory, there or not."""
    name = hashlib.sha256(destination.identity.encode()).hexdigest()[:16]
    return folder / FOLDER / f"{name}.jsonl"


class Journal:
    """Open for as long as the block runs. A line is with the operating system before the next
    instance goes out, so it survives a killed process.

    Raises:
        UsageError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> Journal:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
            self._descriptor = os.open(self._path, flags, 0o600)
            self._end_torn_line()
        except OSError as error:
            message = f"what is sent cannot be noted ({error.strerror})"
            raise UsageError(message, hint="Set MIAD_HOME to a folder of yours.") from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)

    def note(self, outcome: Outcome) -> None:
        """One instance is there."""
        self._write(outcome.instance, outcome.state)

    def forget(self, instance: Instance) -> None:
        """It turned out that one is not there."""
        self._write(instance, _GONE)

    def _write(self, instance: Instance, state: str) -> None:
        uid, digest = key_of(instance)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        line = {"uid": uid, "sha256": digest, "state": state, "at": at}
        os.write(self._descriptor, json.dumps(line).encode() + b"\n")

    def _end_torn_line(self) -> None:
        """A killed run may have left half a line; what follows starts a new one."""
        if os.lseek(self._descriptor, 0, os.SEEK_END):
            os.lseek(self._descriptor, -1, os.SEEK_END)
            if os.read(self._descriptor, 1) != b"\n":
                os.write(self._descriptor, b"\n")


def stored_before(path: Path) -> set[tuple[str, str]]:
    """UID and SHA-256 of every instance that a journal knows; lines that are none do not count."""
    found: set[tuple[str, str]] = set()
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return found
    except OSError as error:
        raise UsageError(f"what was sent before cannot be read ({error.strerror})") from None
    for line in lines:
        try:
            entry = json.loads(line)
            key, gone = (str(entry["uid"]), str(entry["sha256"])), entry["state"] == _GONE
        except (ValueError, KeyError, TypeError):
            continue
        (found.discard if gone else found.add)(key)
    return found


def key_of(instance: Instance) -> tuple[str, str]:
    """How the journal knows an instance: another file of the same UID is another one."""
    return instance.sop_instance_uid, instance.sha256
