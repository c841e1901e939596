"""Check a PACS with a small probe study: what survives there, and how to send accordingly."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import Any, Literal

from miad_cli.errors import PacsFailed, PictureFailed, VerificationFailed, exit_code_of
from miad_cli.pacs.destinations import Destination
from miad_cli.pacs.dicomweb import DicomwebStore
from miad_cli.pacs.outcome import Fetched, Outcome, Store
from miad_cli.pacs.security import AskPassphrase
from miad_cli.pacs.transport import open_store
from miad_cli.probe import (
    Finding,
    Probe,
    ProbePicture,
    container_tag,
    judge,
    judge_metadata,
    make_probe,
)

Advice = Literal["embed", "both", "sidecar", "unknown"]

_EXPLICIT = "1.2.840.10008.1.2.1"
_AGAIN = 2
"""How often what does not come back yet is asked for again."""


@dataclass(frozen=True)
class Stored:
    """What the server said when a picture of the probe was stored.

    Attributes:
        sent_as: the transfer syntax it went out in; `transcoded` where that is not its own.
    """

    picture: str
    is_stored: bool
    reason: str = ""
    hint: str = ""
    sent_as: str = ""
    transcoded: bool = False


@dataclass(frozen=True)
class Skipped:
    """A way back that was not tried, and why."""

    way: str
    reason: str


@dataclass(frozen=True)
class CheckReport:
    """A whole check.

    Attributes:
        left_behind: why the probe study is still there; empty where it was deleted.
    """

    destination: str
    study_instance_uid: str
    stored: tuple[Stored, ...]
    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...] = ()
    left_behind: str = ""

    @property
    def advice(self) -> Advice:
        """Where the container has to travel so that what this PACS gives back can be unlocked."""
        judged = [one.restores for one in self.findings if one.restores is not None]
        if not judged:
            return "unknown"
        return "embed" if all(judged) else "both" if any(judged) else "sidecar"

    @property
    def needs_original(self) -> bool:
        """Whether not even the sidecar helps, because pixels came back changed."""
        return any(one.restores_with_sidecar is False for one in self.findings)

    @property
    def exit_code(self) -> int:
        return exit_code_of(self._code_of(one) for one in self.stored)

    def _code_of(self, stored: Stored) -> int:
        """0: it came back and opens, on every way; 3: on some; 6: on none; 10: nothing came."""
        judged = [
            one.restores
            for one in self.findings
            if one.picture == stored.picture and one.restores is not None
        ]
        if not stored.is_stored or not judged:
            return PacsFailed.exit_code
        if all(judged):
            return 0
        return PictureFailed.exit_code if any(judged) else VerificationFailed.exit_code


def check_pacs(
    destination: Destination,
    study_instance_uid: str,
    *,
    not_clinical: bool = False,
    passphrase: AskPassphrase | None = None,
    store: Store | None = None,
) -> CheckReport:
    """Store a probe under that Study Instance UID, fetch it back in every way, and judge.

    Whatever happens after the first picture went out, the study is deleted where the server
    offers that. `store` is the transport, where it should not be the destination's own.

    Raises:
        UsageError: nobody declared what the destination is for.
        PacsFailed: it does not answer; nothing was stored.
        KeyUnusable: a certificate's key cannot be used.
    """
    destination.check_purpose(not_clinical)
    transport = store or open_store(destination, passphrase)
    transport.check()
    with TemporaryDirectory(prefix="miad-probe-") as folder:
        probe = make_probe(Path(folder), study_instance_uid)
        left_behind = ""
        try:
            outcomes = {
                one.instance.sop_instance_uid: one
                for one in transport.send([one.instance for one in probe.pictures])
            }
            there = [one for one in probe.pictures if outcomes[_uid(one)].is_stored]
            findings = tuple(_findings(probe, there, transport, destination)) if there else ()
        finally:
            left_behind = _clean_up(transport, study_instance_uid)
        stored = tuple(_stored(one, outcomes[_uid(one)]) for one in probe.pictures)
    skipped = () if isinstance(transport, DicomwebStore) else (_NO_MOVE,)
    return CheckReport(
        destination.name,
        study_instance_uid,
        stored,
        findings,
        skipped,
        left_behind if any(one.is_stored for one in stored) else "",
    )


_NO_MOVE = Skipped("C-MOVE", "it needs a listener that the PACS knows by name and address")


def _findings(
    probe: Probe, pictures: Sequence[ProbePicture], store: Store, destination: Destination
) -> Iterator[Finding]:
    """What every way back gives for every picture that was stored."""
    if not isinstance(store, DicomwebStore):
        yield from _on_way(probe, pictures, store, destination, "C-GET")
        return
    yield from _on_way(probe, pictures, store, destination, "WADO-RS")
    for fetched in store.fetch([one.instance for one in pictures], _EXPLICIT):
        picture = _of(fetched, pictures)
        # A server that does not transcode loses nothing: the first way is still there.
        yield _judged(probe, picture, "WADO-RS, uncompressed", fetched)
    for picture in pictures:
        yield _metadata(store, picture)


def _on_way(
    probe: Probe,
    pictures: Sequence[ProbePicture],
    store: Store,
    destination: Destination,
    way: str,
) -> Iterator[Finding]:
    """Files as the server keeps them; what is not there yet is asked for again."""
    missing = {_uid(one): one for one in pictures}
    for attempt in range(1, _AGAIN + 2):
        for fetched in store.fetch([one.instance for one in missing.values()]):
            if fetched.content is None and attempt <= _AGAIN:
                continue
            picture = missing.pop(fetched.instance.sop_instance_uid)
            yield _judged(probe, picture, way, fetched)
        if not missing:
            return
        sleep(destination.retries.pause(attempt))


def _judged(probe: Probe, picture: ProbePicture, way: str, fetched: Fetched) -> Finding:
    if fetched.content is None:
        return Finding(picture.label, way, False, fetched.reason)
    return judge(probe, picture, way, fetched.content)


def _metadata(store: DicomwebStore, picture: ProbePicture) -> Finding:
    way = "WADO-RS metadata"
    try:
        facts = store.metadata(picture.instance)
        return judge_metadata(picture, way, facts, _container_by(store, facts))
    except PacsFailed as error:
        return Finding(picture.label, way, False, error.message)


def _container_by(store: DicomwebStore, facts: dict[str, Any]) -> bytes | None:
    """Our container out of metadata: in line, or by the reference if that leads to the service."""
    element = facts.get(container_tag(facts))
    if not isinstance(element, dict):
        return None
    inline, reference = element.get("InlineBinary"), element.get("BulkDataURI")
    if isinstance(inline, str):
        try:
            return base64.b64decode(inline, validate=True)
        except (binascii.Error, ValueError):
            return b""
    return store.bulk_data(reference) if isinstance(reference, str) else None


def _clean_up(store: Store, study_instance_uid: str) -> str:
    """Delete the probe where that is possible; otherwise why it is still there."""
    if not isinstance(store, DicomwebStore):
        return "DICOM has no service to delete it"
    try:
        store.delete_study(study_instance_uid)
    except PacsFailed as error:
        return error.message
    return ""


def _stored(picture: ProbePicture, outcome: Outcome) -> Stored:
    return Stored(
        picture.label,
        outcome.is_stored,
        outcome.reason,
        outcome.hint,
        outcome.transfer_syntax_uid,
        outcome.was_transcoded,
    )


def _of(fetched: Fetched, pictures: Sequence[ProbePicture]) -> ProbePicture:
    uid = fetched.instance.sop_instance_uid
    return next(one for one in pictures if _uid(one) == uid)


def _uid(picture: ProbePicture) -> str:
    return picture.instance.sop_instance_uid
