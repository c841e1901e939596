"""What both transports take and give: instances, outcomes, and the port `Store`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from miad_cli.errors import PictureFailed

State = Literal["stored", "stored with warning", "failed", "kept"]


@dataclass(frozen=True)
class Instance:
    """A DICOM file that may be sent, as it was when it was verified.

    Attributes:
        path: where it lies; for reading it, never for a log or a report.
        name: its place relative to what was named; what people see.
        sha256: of the file (hex); `read` refuses any other bytes.
    """

    path: Path
    name: PurePosixPath
    sha256: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str

    def read(self) -> bytes:
        """The file, byte for byte as it was verified.

        Raises:
            PictureFailed: it cannot be read, or is not what was verified.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise PictureFailed(f"cannot be read ({error.strerror})") from None
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise PictureFailed("it changed after it was verified, so it was not sent")
        return content


@dataclass(frozen=True)
class Outcome:
    """What became of one instance.

    Attributes:
        state: `stored`, `stored with warning` (the PACS changed or dropped something),
            `failed`, or `kept`: the journal says that it is there already.
        status: the DIMSE or HTTP status, where the PACS gave one.
        reason, hint: sentences for people; no attribute of the patient.
        transfer_syntax_uid: as it was sent; another than the file's where it was transcoded.
        attempts: how often it was tried.
    """

    instance: Instance
    state: State
    status: int | None = None
    reason: str = ""
    hint: str = ""
    transfer_syntax_uid: str = ""
    attempts: int = 1
    exit_code: int = 0

    @property
    def is_stored(self) -> bool:
        """Whether the PACS said that it has it."""
        return self.state != "failed"

    @property
    def was_transcoded(self) -> bool:
        sent_as = self.transfer_syntax_uid
        return bool(sent_as) and sent_as != self.instance.transfer_syntax_uid


@dataclass(frozen=True)
class Fetched:
    """What the PACS gave back for one instance: a file of PS3.10, or why there is none.

    `may_pass` is False where asking again would not help.
    """

    instance: Instance
    content: bytes | None
    reason: str = ""
    may_pass: bool = True


class Store(Protocol):
    """A transport to one destination. What it gets was verified; it judges nothing itself."""

    def check(self) -> None:
        """Ask whether somebody answers (C-ECHO, or a search that finds nothing).

        Raises:
            PacsFailed: nobody does, or not to us.
        """

    def send(self, instances: Sequence[Instance]) -> Iterator[Outcome]:
        """Store the instances; one outcome for each, as it happens, in any order.

        What fails is an outcome, not an exception: a lost connection too, once patience ends.
        """

    def fetch(self, instances: Sequence[Instance]) -> Iterator[Fetched]:
        """Get the instances back; one answer for each, in any order."""
