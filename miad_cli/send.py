"""Send protected files to a PACS: only what verifies, once, and proved where that is asked for."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from miad_cli.errors import (
    NoUsableInput,
    PacsFailed,
    PictureFailed,
    UsageError,
    VerificationFailed,
    exit_code_of,
)
from miad_cli.files import InputFile, collect_inputs, read_file
from miad_cli.imaging.dicom import DicomPicture, NoPicture, is_dicom, read_dicom
from miad_cli.imaging.picture import Identity, container_in, doubt_about, identify, read_picture
from miad_cli.imaging.raster import raster_format
from miad_cli.pacs.destinations import Destination
from miad_cli.pacs.journal import Journal, journal_path, key_of, stored_before
from miad_cli.pacs.outcome import Fetched, Instance, Outcome, Store
from miad_cli.pacs.security import AskPassphrase
from miad_cli.pacs.statuses import DUPLICATE
from miad_cli.pacs.transport import open_store
from miad_cli.seal.carriers import is_sidecar, parse_copies, picture_of
from miad_cli.seal.container import check_signature
from miad_cli.seal.owner import OwnerPublicKey
from miad_cli.seal.places import data_directory
from miad_cli.verify import Verdict, verify_file

State = Literal[
    "stored",
    "stored with warning",
    "kept",
    "planned",
    "left out",
    "passed over",
    "refused",
    "failed",
]
STATES: tuple[State, ...] = (
    "stored", "stored with warning", "kept", "planned", "left out", "passed over", "refused",
    "failed",
)  # fmt: skip
Progress = Callable[["FileReport", int], None]


@dataclass(frozen=True)
class FileReport:
    """What became of one file.

    Attributes:
        state: what the PACS said (`stored`, `stored with warning`, `failed`), what its journal
            says (`kept`), or why it was never asked: `refused` is not protected as it should be,
            `left out` is nothing for a PACS, `passed over` is a DICOM object without a picture.
        transcoded_to: the transfer syntax it was sent in, where that is not the file's.
        read_back: whether the PACS gave back the same picture and container; None if not asked.
        committed: whether the PACS committed to keep it; None if not asked.
    """

    name: PurePosixPath
    state: State
    reason: str = ""
    hint: str = ""
    exit_code: int = 0
    sop_instance_uid: str = ""
    status: int | None = None
    attempts: int = 0
    transcoded_to: str = ""
    read_back: bool | None = None
    committed: bool | None = None


@dataclass(frozen=True)
class SendReport:
    """A whole run."""

    destination: str
    files: tuple[FileReport, ...]
    dry_run: bool = False

    def count(self, state: State) -> int:
        return sum(one.state == state for one in self.files)

    @property
    def exit_code(self) -> int:
        codes = [one.exit_code for one in self.files]
        if all(one.state in ("left out", "passed over") for one in self.files):
            codes.append(NoUsableInput.exit_code)
        return exit_code_of(codes)


@dataclass(frozen=True)
class Wishes:
    """How to send: go on where a run was interrupted, read back, ask for storage commitment."""

    resume: bool = False
    read_back: bool = False
    commit: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class _Ready:
    """A file that may go out, and what has to come back."""

    instance: Instance
    identity: Identity
    container: bytes


@dataclass
class _Run:
    """The files of a run and what is known of each so far."""

    order: list[PurePosixPath]
    progress: Progress | None
    done: dict[PurePosixPath, FileReport] = field(default_factory=dict)

    def settle(self, report: FileReport) -> None:
        """The last word on a file, as far as sending goes."""
        self.done[report.name] = report
        if self.progress:
            self.progress(report, len(self.order))

    def amend(self, name: PurePosixPath, **changes: object) -> None:
        """What was found out later about a file that was sent."""
        self.done[name] = replace(self.done[name], **changes)  # type: ignore[arg-type]

    def fail(
        self, name: PurePosixPath, reason: str, hint: str, exit_code: int, **changes: object
    ) -> None:
        """It was sent, and that was not enough."""
        self.amend(name, state="failed", reason=reason, hint=hint, exit_code=exit_code, **changes)


def send_study(
    paths: Sequence[Path],
    destination: Destination,
    owners: Collection[OwnerPublicKey],
    wishes: Wishes = Wishes(),
    *,
    not_clinical: bool = False,
    passphrase: AskPassphrase | None = None,
    progress: Progress | None = None,
    store: Store | None = None,
) -> SendReport:
    """Send every protected file below `paths` that is authentic to one of `owners`.

    All are judged before the first is sent, and each is read again, and compared, as it goes
    out. `not_clinical` stands for the purpose of a destination that was written out; `store` is
    the transport, where it should not be the destination's own.

    Raises:
        UsageError: nobody declared what the destination is for.
        NoUsableInput: there is no file.
        PacsFailed: the destination does not answer; nothing was sent.
        KeyUnusable: a certificate's key cannot be used.
    """
    destination.check_purpose(not_clinical)
    if wishes.commit and destination.kind != "dimse":
        raise UsageError(
            "storage commitment is a service of DIMSE", hint="Use --verify with DICOMweb."
        )
    files = [one for one in collect_inputs(paths) if not _is_sidecar_of_picture(one.path)]
    run = _Run([one.relative for one in files], progress)
    ready = _judged(files, owners, run)
    if wishes.dry_run:
        for one in ready:
            said = "would be sent"
            run.settle(FileReport(one.instance.name, "planned", said, sop_instance_uid=_uid(one)))
    elif ready:
        transport = store or open_store(destination, passphrase)
        transport.check()
        _send(ready, destination, transport, wishes, run)
        if wishes.commit:
            _commit([one for one in ready if _is_there(run, one)], destination, passphrase, run)
    reports = tuple(run.done[name] for name in run.order)
    return SendReport(destination.name, reports, wishes.dry_run)


# --- What may be sent -----------------------------------------------------------------------


def _judged(
    files: Iterable[InputFile], owners: Collection[OwnerPublicKey], run: _Run
) -> list[_Ready]:
    """The files that may go out; the others are settled."""
    ready: list[_Ready] = []
    seen: dict[str, _Ready] = {}
    for file in files:
        judged = _judge(file, owners)
        if isinstance(judged, FileReport):
            run.settle(judged)
            continue
        other = seen.setdefault(_uid(judged), judged)
        if other is judged:
            ready.append(judged)
        elif key_of(other.instance) == key_of(judged.instance):
            reason = f"the same instance as {other.instance.name}"
            run.settle(FileReport(file.relative, "left out", reason))
        else:
            run.settle(
                FileReport(
                    file.relative,
                    "refused",
                    f"another file of the same SOP Instance UID as {other.instance.name}",
                    "A PACS keeps only one of them; say which, by naming it alone.",
                    PictureFailed.exit_code,
                )
            )
    return ready


def _judge(file: InputFile, owners: Collection[OwnerPublicKey]) -> _Ready | FileReport:
    """Whether one file may go out: a DICOM picture whose container travels in it, signed by an
    owner who is trusted, over exactly these pixels and attributes."""
    if file.obstacle:
        return FileReport(file.relative, "left out", file.obstacle)
    if is_sidecar(file.path):
        return FileReport(file.relative, "left out", "a sidecar; a PACS keeps none")
    try:
        content = read_file(file.path)
        if not is_dicom(content[:132]) and raster_format(content[:16]):
            return FileReport(file.relative, "left out", "not DICOM; a PACS takes only that")
        if not is_dicom(content[:132]) and read_picture(content, file.path) is None:
            return FileReport(file.relative, "left out", "not an image")
        picture = read_dicom(content)
    except PictureFailed as error:
        return _refused(file, error.message, error.hint, VerificationFailed.exit_code)
    if isinstance(picture, NoPicture):
        return _without_picture(file, picture, owners)
    try:
        identity, container = _authentic(picture, owners)
    except VerificationFailed:
        return _why_not(file, owners)
    if not _has_uids(picture):
        reason = "it does not say to which study and series it belongs"
        return _refused(file, reason, "", PictureFailed.exit_code)
    dataset = picture.dataset
    instance = Instance(
        file.path,
        file.relative,
        hashlib.sha256(content).hexdigest(),
        str(dataset.SOPClassUID),
        identity.subject,
        str(dataset.file_meta.TransferSyntaxUID),
        str(dataset.StudyInstanceUID),
        str(dataset.SeriesInstanceUID),
    )
    return _Ready(instance, identity, container)


def _authentic(picture: DicomPicture, owners: Collection[OwnerPublicKey]) -> tuple[Identity, bytes]:
    """The identity of an authentic picture and the container inside it.

    Raises:
        VerificationFailed: it is not authentic as it stands, without its sidecar.
    """
    embedded = container_in(picture)
    container = parse_copies([embedded])[0]
    check_signature(container, owners)
    manifest, identity = container.manifest, identify(picture)
    sealed = Identity(
        manifest.subject,
        manifest.pixels_sha256,
        manifest.pixel_data_sha256,
        manifest.attributes_sha256,
    )
    if identity != sealed:
        raise VerificationFailed("not what was sealed")
    if doubt := doubt_about(picture):
        raise VerificationFailed(doubt)
    return identity, (embedded or b"").removesuffix(b"\0")


def _has_uids(picture: DicomPicture) -> bool:
    wanted = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    return all(picture.dataset.get(keyword) for keyword in wanted)


def _why_not(file: InputFile, owners: Collection[OwnerPublicKey]) -> FileReport:
    """What `verify` says of a file that may not go out."""
    found = verify_file(file.path, owners, name=file.relative)
    if found.verdict is Verdict.AUTHENTIC:
        return _refused(
            file,
            "its container is in the sidecar only, and a PACS keeps no sidecar",
            "Protect it again with --carrier both, or hand it over as a file with its sidecar.",
            PictureFailed.exit_code,
        )
    reason = f"{found.verdict.value}: {found.reason}" if found.reason else found.verdict.value
    hint = ""
    if found.verdict is Verdict.NOT_PROTECTED:
        reason, hint = "not protected by miad", "Protect it first; originals are never sent."
    elif found.verdict is Verdict.OWNER_UNKNOWN:
        hint = "Name the owner's public key with --owner."
    return _refused(file, reason, hint, VerificationFailed.exit_code)


def _without_picture(
    file: InputFile, picture: NoPicture, owners: Collection[OwnerPublicKey]
) -> FileReport:
    found = verify_file(file.path, owners, name=file.relative)
    if found.verdict is Verdict.NO_PICTURE:
        return FileReport(file.relative, "passed over", f"nothing to protect: {picture.reason}")
    reason = f"{found.verdict.value}: {found.reason}"
    return _refused(file, reason, "", VerificationFailed.exit_code)


def _refused(file: InputFile, reason: str, hint: str, exit_code: int) -> FileReport:
    return FileReport(file.relative, "refused", reason, hint, exit_code)


def _is_sidecar_of_picture(path: Path) -> bool:
    return is_sidecar(path) and picture_of(path).exists()


def _uid(ready: _Ready) -> str:
    return ready.instance.sop_instance_uid


# --- Sending --------------------------------------------------------------------------------


def _send(
    ready: Sequence[_Ready],
    destination: Destination,
    store: Store,
    wishes: Wishes,
    run: _Run,
) -> None:
    """Send what is not there yet, note what is, and read back."""
    place = journal_path(data_directory(), destination)
    before = stored_before(place) if wishes.resume else set()
    known = {_uid(one): one for one in ready}
    for one in ready:
        if key_of(one.instance) in before:
            run.settle(_report(Outcome(one.instance, "kept", reason="it was stored before")))
    unsent = [one.instance for one in ready if key_of(one.instance) not in before]
    with Journal(place) as journal:
        for outcome in store.send(unsent):
            settled = outcome
            if outcome.status == DUPLICATE:
                settled = _if_the_same(outcome, known[outcome.instance.sop_instance_uid], store)
            if settled.is_stored:
                journal.note(settled)
            run.settle(_report(settled))
        if wishes.read_back:
            there = [one for one in ready if _is_there(run, one)]
            _read_back(there, destination, store, run, journal)


def _if_the_same(outcome: Outcome, ready: _Ready, store: Store) -> Outcome:
    """A UID that the PACS has already is no failure where it is this very instance."""
    fetched = next(iter(store.fetch([outcome.instance])), None)
    if fetched is None or _difference(fetched, ready):
        return outcome
    reason = "the PACS had it already, the same"
    return replace(outcome, state="stored", reason=reason, hint="", exit_code=0)


def _report(outcome: Outcome) -> FileReport:
    return FileReport(
        outcome.instance.name,
        outcome.state,
        outcome.reason,
        outcome.hint,
        outcome.exit_code,
        outcome.instance.sop_instance_uid,
        outcome.status,
        0 if outcome.state == "kept" else outcome.attempts,
        outcome.transfer_syntax_uid if outcome.was_transcoded else "",
    )


def _is_there(run: _Run, ready: _Ready) -> bool:
    return run.done[ready.instance.name].state in ("stored", "stored with warning", "kept")


# --- Proof ----------------------------------------------------------------------------------


def _read_back(
    stored: Sequence[_Ready], destination: Destination, store: Store, run: _Run, journal: Journal
) -> None:
    """Compare what the PACS gives back; what it does not give yet is asked for again."""
    retries = destination.retries
    missing = {_uid(one): one for one in stored}
    for attempt in range(1, retries.times + 2):
        last = attempt > retries.times
        for fetched in store.fetch([one.instance for one in missing.values()]):
            if fetched.content is None and fetched.may_pass and not last:
                continue
            _proved(fetched, missing.pop(fetched.instance.sop_instance_uid), run, journal)
        if not missing:
            return
        time.sleep(retries.pause(attempt))


def _proved(fetched: Fetched, ready: _Ready, run: _Run, journal: Journal) -> None:
    """Note whether the PACS holds what was sent. What it does not hold is not stored."""
    wrong = _difference(fetched, ready)
    if not wrong:
        run.amend(ready.instance.name, read_back=True)
        return
    kind = PacsFailed if fetched.content is None else VerificationFailed
    reason, hint = wrong
    run.fail(ready.instance.name, reason, hint, kind.exit_code, read_back=False)
    journal.forget(ready.instance)


def _difference(fetched: Fetched, ready: _Ready) -> tuple[str, str] | None:
    """What is wrong with what came back, and what to do; None where it is what was sent."""
    if fetched.content is None:
        return f"stored, but not proved: {fetched.reason}", ""
    try:
        picture = read_dicom(fetched.content)
        if not isinstance(picture, DicomPicture):
            return "the PACS gives back something that is no picture", ""
        identity = identify(picture)
        container = container_in(picture)
    except PictureFailed as error:
        return f"what the PACS gives back cannot be read: {error.message}", ""
    if identity.subject != ready.identity.subject:
        return "the PACS gives back another instance", ""
    if identity.pixels_sha256 != ready.identity.pixels_sha256:
        return (
            "the PACS holds other pixels under this UID",
            "It may have kept an older instance of the same UID: delete that there, and send.",
        )
    if container is None:
        return (
            "the PACS dropped the container",
            "Whoever is to unlock it needs the sidecar; ask for private attributes to be kept.",
        )
    if container.removesuffix(b"\0") != ready.container:
        return "the PACS holds another container", "It may have kept an older instance."
    if identity.attributes_sha256 != ready.identity.attributes_sha256:
        return "the PACS changed geometry, display or UIDs", "Ask whoever runs it."
    return None


def _commit(
    stored: Sequence[_Ready],
    destination: Destination,
    passphrase: AskPassphrase | None,
    run: _Run,
) -> None:
    """Note what the PACS commits to; what it does not is a failure."""
    from miad_cli.pacs.commitment import request_commitment
    from miad_cli.pacs.security import client_context

    if not stored:
        return
    tls = client_context(destination.tls, passphrase) if destination.tls else None
    try:
        answer = request_commitment(destination, tls, [one.instance for one in stored], passphrase)
    except PacsFailed as error:
        for one in stored:
            _not_committed(run, one, error.message, error.hint)
        return
    with Journal(journal_path(data_directory(), destination)) as journal:
        for one in stored:
            if _uid(one) in answer.kept:
                run.amend(one.instance.name, committed=True)
                continue
            reason = answer.refused.get(_uid(one), "the PACS says nothing about it")
            _not_committed(run, one, f"no storage commitment: {reason}", "")
            journal.forget(one.instance)


def _not_committed(run: _Run, ready: _Ready, reason: str, hint: str) -> None:
    code = PacsFailed.exit_code
    run.fail(ready.instance.name, reason, hint, code, committed=False)
