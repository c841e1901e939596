"""DICOMweb (PS3.18): STOW-RS to store, WADO-RS to read back, QIDO-RS to ask whether it is there.

The bytes of a file go out as they were verified, and come back as they are: nothing here encodes
or decodes a data set.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from miad_cli.errors import PacsFailed, PictureFailed
from miad_cli.pacs.destinations import Destination
from miad_cli.pacs.http import (
    DICOM,
    JSON,
    Answer,
    Multipart,
    RequestFailed,
    Scope,
    Service,
    parts_of,
)
from miad_cli.pacs.outcome import Fetched, Instance, Outcome
from miad_cli.pacs.security import AskPassphrase
from miad_cli.pacs.statuses import hint_of, kind_of, sentence_of

BATCH_BYTES = 32 << 20
"""Bytes of files in one request, unless a single file is larger."""
BATCH_COUNT = 100
"""Files in one request."""
LARGEST_GROWTH = 1 << 30
"""Bytes that an instance may have beyond four times its file when it comes back: a server may
give it uncompressed."""

_BUSY = (408, 429, 502, 503, 504, 507)
_PERHAPS_ONE = (202, 400, 409, 413, 415, 422, 500)
"""What a server may say of a whole batch because of one instance in it."""

_NO_SERVICE = "there is no DICOMweb service for this at that URL"
_SENTENCES = {
    400: "the server does not understand it",
    403: "the server does not allow us this",
    404: _NO_SERVICE,
    405: _NO_SERVICE,
    406: "the server does not give it in this form",
    409: "the server does not take it",
    410: "the server does not have it any more",
    413: "it is too large for the server",
    415: "the server does not take it as it is encoded",
    429: "the server wants us to be slower",
    501: _NO_SERVICE,
    507: "the server has no room for it",
}
_PATH_HINT = "Is the path right? Often it ends in /dicom-web."

_FAILED, _STORED = "00081198", "00081199"
_UID, _WARNING, _REASON = "00081155", "00081196", "00081197"


class DicomwebStore:
    """A DICOMweb service; what `outcome.Store` asks for, and what a check of it needs besides.

    `pause` waits for that many seconds; tests count instead.

    Raises:
        UsageError, KeyUnusable: the certificates or the login cannot be used.
    """

    def __init__(
        self,
        destination: Destination,
        passphrase: AskPassphrase | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.destination = destination
        self._service = Service(destination, passphrase)
        self._pause = pause

    # --- What every transport does ----------------------------------------------------------

    def check(self) -> None:
        """Search for a study that nobody has (QIDO-RS).

        Raises:
            PacsFailed: nobody answers, or not to us.
        """
        try:
            answer = self._service.ask("GET", "studies?StudyInstanceUID=2.25.1&limit=1", JSON)
            if answer.status in (400, 405, 406, 501):
                return  # it answers, and does not search
            if answer.status not in (200, 204):
                raise self._refusal(answer)
        except RequestFailed as error:
            message = f"{self.destination.name} cannot be used: {error.message}"
            raise PacsFailed(message, error.hint) from None

    def send(self, instances: Sequence[Instance]) -> Iterator[Outcome]:
        """Store the instances, a batch a request.

        A batch that is refused as a whole, perhaps because of one instance, is halved.
        """
        waiting = deque(batches(instances))
        tries = Counter[str]()
        patient = True
        while waiting:
            contents, unreadable = _contents(waiting.popleft())
            yield from unreadable
            batch = list(contents)
            if not batch:
                continue
            try:
                answer = self._store(contents, tries, patient)
                patient = True
            except RequestFailed as error:
                # Whoever waited in vain once does not wait for every batch that is left.
                patient = patient and not _is_worth_waiting(error, batch)
                if error.scope == "perhaps one" and len(batch) > 1:
                    waiting.extendleft(reversed(_halves(batch)))
                    continue
                yield from (_not_stored(one, error, tries) for one in batch)
                if error.scope == "everything":
                    rest = [one for left in waiting for one in left]
                    yield from (_not_stored(one, error, tries) for one in rest)
                    return
                continue
            again = []
            for outcome in _outcomes(batch, answer, tries):
                if self._may_try_again(outcome):
                    again.append(outcome.instance)
                else:
                    yield outcome
            if again:
                self._pause(self.destination.retries.pause(tries[again[0].sop_instance_uid]))
                waiting.appendleft(again)

    def fetch(self, instances: Sequence[Instance], transfer_syntax: str = "*") -> Iterator[Fetched]:
        """Get the instances back by WADO-RS, as they are stored or in one transfer syntax.

        Each is asked for once; whoever wants to be patient asks again.
        """
        stopped = ""
        for instance in instances:
            if stopped:
                yield Fetched(instance, None, stopped)
                continue
            try:
                yield Fetched(instance, self._retrieve(instance, transfer_syntax))
            except RequestFailed as error:
                reason = f"it cannot be read back: {error.message}"
                stopped = reason if error.scope == "everything" else ""
                yield Fetched(instance, None, reason)

    # --- What a check of the service needs besides ------------------------------------------

    def metadata(self, instance: Instance) -> dict[str, Any]:
        """The attributes of one instance in DICOM JSON (WADO-RS Retrieve Metadata).

        Raises:
            PacsFailed: they are not to be had.
        """
        answer = self._service.ask("GET", f"{_path(instance)}/metadata", JSON)
        if answer.status != 200:
            raise self._refusal(answer, wants="instance")
        found = _json(answer.content)
        first = found[0] if isinstance(found, list) and found else found
        if not isinstance(first, dict):
            raise RequestFailed("its metadata are no DICOM JSON", scope="batch")
        return first

    def bulk_data(self, reference: str) -> bytes | None:
        """A value that metadata give by reference (BulkDataURI); None where it leads out of this
        service, where nothing is asked for, or to nothing."""
        path = reference.removeprefix(f"{self._service.base}/")
        if path == reference or not re.fullmatch(r"[A-Za-z0-9./_%-]+", path) or ".." in path:
            return None
        wanted = 'multipart/related; type="application/octet-stream"'
        try:
            answer = self._service.ask("GET", path, wanted)
        except RequestFailed:
            return None
        if answer.status != 200:
            return None
        if answer.media_type != "multipart/related":
            return answer.content
        parts = parts_of(answer)
        return parts[0] if len(parts) == 1 else None

    def delete_study(self, study_instance_uid: str) -> None:
        """Delete a study. The standard has no such service; several servers do.

        Raises:
            PacsFailed: it is still there.
        """
        path = f"studies/{study_instance_uid}"
        answer = self._service.ask("DELETE", path, JSON)
        if answer.status not in (200, 202, 204):
            raise RequestFailed(f"the server does not delete studies (HTTP {answer.status})")
        if answer.status != 202 and self._is_there(path):
            raise RequestFailed("the server said that it deleted the study, and still has it")

    def _is_there(self, path: str) -> bool:
        return self._service.ask("GET", f"{path}/metadata", JSON).status == 200

    # --- Requests ---------------------------------------------------------------------------

    def _store(
        self, contents: Mapping[Instance, bytes], tries: Counter[str], patient: bool
    ) -> Answer:
        """One STOW-RS transaction, again while the server is busy.

        Raises:
            RequestFailed: the server says nothing about single instances.
        """
        retries = self.destination.retries
        attempt = 0
        while True:
            attempt += 1
            tries.update(one.sop_instance_uid for one in contents)
            try:
                return self._store_once(contents)
            except RequestFailed as error:
                worth = patient and _is_worth_waiting(error, contents)
                if not worth or attempt > retries.times:
                    raise
                self._pause(max(retries.pause(attempt), min(error.wait, retries.longest)))

    def _store_once(self, contents: Mapping[Instance, bytes]) -> Answer:
        body = Multipart(list(contents.values()))
        answer = self._service.ask("POST", "studies", JSON, body)
        named = _itemised(answer) is not None
        if (named and answer.status in (200, 202, 400, 409)) or answer.status == 200:
            return answer
        if answer.status == 202 and len(contents) == 1:
            return answer
        raise self._refusal(answer)

    def _retrieve(self, instance: Instance, transfer_syntax: str) -> bytes:
        """The file of one instance.

        Raises:
            RequestFailed: it is not to be had.
        """
        wanted = f'multipart/related; type="{DICOM}"'
        if transfer_syntax:
            wanted += f"; transfer-syntax={transfer_syntax}"
        at_most = 4 * _size(instance) + LARGEST_GROWTH
        answer = self._service.ask("GET", _path(instance), wanted, at_most=at_most)
        if answer.status != 200:
            raise self._refusal(answer, wants="instance")
        parts = [answer.content] if answer.media_type == DICOM else parts_of(answer)
        if len(parts) != 1 or parts[0][128:132] != b"DICM":
            raise RequestFailed("the server gives back something else", scope="batch")
        return parts[0]

    def _refusal(
        self, answer: Answer, wants: Literal["service", "instance"] = "service"
    ) -> RequestFailed:
        """What an answer that is no success means."""
        status, where = answer.status, f"(HTTP {answer.status})"
        if 300 <= status < 400:
            return RequestFailed(
                f"the server sends us elsewhere, and neither pictures nor login go there {where}",
                hint=_elsewhere(answer.headers.get("Location", "")),
                status=status,
            )
        if status == 401:
            has_login = self.destination.auth is not None
            said = "does not accept the login" if has_login else "wants a login"
            hint = "Name a file or a variable in [NAME.auth] of the destinations file."
            return RequestFailed(f"the server {said} {where}", hint, status=status)
        if status == 403:
            hint = "Ask whoever runs it to let us."
            return RequestFailed(f"{_SENTENCES[403]} {where}", hint, status=status)
        if status in _BUSY:
            said = _SENTENCES.get(status, "the server is busy or cannot be reached from its front")
            wait = answer.headers.get("Retry-After", "")
            return RequestFailed(
                f"{said} {where}", status=status, scope="batch", may_pass=True,
                wait=int(wait) if wait.isascii() and wait.isdigit() and len(wait) < 6 else 0,
            )  # fmt: skip
        if status == 404 and wants == "instance":
            return RequestFailed(f"the server does not have it {where}", status=404, scope="batch")
        if status in _PERHAPS_ONE or (status >= 500 and status not in (501, 505)):
            said = _SENTENCES.get(status, "the server failed")
            return RequestFailed(
                f"{said} {where}", status=status, scope="perhaps one", may_pass=status >= 500
            )
        said = _SENTENCES.get(status, "the server does not do this")
        hint = _PATH_HINT if said == _NO_SERVICE else ""
        scope: Scope = "everything" if wants == "service" else "batch"
        return RequestFailed(f"{said} {where}", hint, status=status, scope=scope)

    def _may_try_again(self, outcome: Outcome) -> bool:
        """Whether the server said of this one that it has no room now, and patience lasts."""
        busy = outcome.status is not None and kind_of(outcome.status) == "busy"
        return not outcome.is_stored and busy and outcome.attempts <= self.destination.retries.times


# --- What goes out --------------------------------------------------------------------------


def batches(
    instances: Sequence[Instance], most_bytes: int = BATCH_BYTES, most: int = BATCH_COUNT
) -> Iterator[list[Instance]]:
    """The instances in their order, so many together as bytes and count allow."""
    batch: list[Instance] = []
    size = 0
    for instance in instances:
        own = _size(instance)
        if batch and (size + own > most_bytes or len(batch) == most):
            yield batch
            batch, size = [], 0
        batch.append(instance)
        size += own
    if batch:
        yield batch


def _contents(batch: Sequence[Instance]) -> tuple[dict[Instance, bytes], list[Outcome]]:
    """The files of a batch, and an outcome for each that is not what was verified."""
    contents: dict[Instance, bytes] = {}
    unreadable = []
    for instance in batch:
        try:
            contents[instance] = instance.read()
        except PictureFailed as error:
            unreadable.append(
                Outcome(instance, "failed", None, error.message, error.hint, exit_code=3)
            )
    return contents, unreadable


def _is_worth_waiting(error: RequestFailed, batch: Collection[Instance]) -> bool:
    """Whether another attempt may end otherwise; a failure that one instance may have caused is
    looked for in halves first."""
    is_about_one = error.scope == "perhaps one" and error.status is not None
    return error.may_pass and (len(batch) == 1 or not is_about_one)


def _halves(batch: list[Instance]) -> list[list[Instance]]:
    middle = len(batch) // 2
    return [batch[:middle], batch[middle:]]


def _size(instance: Instance) -> int:
    try:
        return instance.path.stat().st_size
    except OSError:
        return 0  # reading it says why


def _path(instance: Instance) -> str:
    """An instance's resource, below the service's URL (PS3.18 10.4.1)."""
    return (
        f"studies/{instance.study_instance_uid}/series/{instance.series_instance_uid}"
        f"/instances/{instance.sop_instance_uid}"
    )


# --- What comes back ------------------------------------------------------------------------


def _outcomes(
    batch: Sequence[Instance], answer: Answer, tries: Mapping[str, int]
) -> Iterator[Outcome]:
    """What a STOW-RS answer says of each instance (PS3.18 10.5.3, PS3.18 Annex I)."""
    named = _itemised(answer)
    for instance in batch:
        attempts = tries[instance.sop_instance_uid]
        syntax = instance.transfer_syntax_uid
        if named is None:
            warned = answer.status != 200
            said = "stored, with a warning or a change (HTTP 202)" if warned else ""
            state: Any = "stored with warning" if warned else "stored"
            yield Outcome(instance, state, answer.status, said, "", syntax, attempts)
            continue
        stored, failed = named
        uid = instance.sop_instance_uid
        if uid in stored and uid not in failed:
            warning = stored[uid]
            said = _of_warning(warning) if warning else ""
            state = "stored with warning" if warning else "stored"
            yield Outcome(instance, state, warning, said, "", syntax, attempts)
            continue
        reason = failed.get(uid)
        said = "the server says nothing about it" if reason is None else _of_failure(reason)
        yield Outcome(
            instance, "failed", reason, said, hint_of(reason or 0), syntax, attempts,
            PacsFailed.exit_code,
        )  # fmt: skip


def _itemised(answer: Answer) -> tuple[dict[str, int], dict[str, int]] | None:
    """SOP Instance UIDs that were stored, with the reason for a warning or 0, and those that
    failed, with the reason; None where the answer names none."""
    facts = _json(answer.content)
    if isinstance(facts, list) and len(facts) == 1:
        facts = facts[0]
    if not isinstance(facts, dict):
        return None
    stored = _references(facts.get(_STORED), _WARNING, 0)
    failed = _references(facts.get(_FAILED), _REASON, 0x0110)
    return (stored, failed) if stored or failed else None


def _references(sequence: object, reason: str, default: int) -> dict[str, int]:
    """UID and reason of every item of a sequence in DICOM JSON (PS3.18 F.2)."""
    items = sequence.get("Value") if isinstance(sequence, dict) else None
    found: dict[str, int] = {}
    for item in items if isinstance(items, list) else []:
        uid = _value(item, _UID)
        if isinstance(uid, str):
            code = _value(item, reason)
            found[uid] = code if isinstance(code, int) and 0 < code < 1 << 16 else default
    return found


def _value(item: object, tag: str) -> object:
    """The first value of an element."""
    element = item.get(tag) if isinstance(item, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None


def _of_warning(code: int) -> str:
    if kind_of(code) == "stored with warning":
        return sentence_of(code)
    return f"stored, with a warning (0x{code:04X})"


def _of_failure(code: int) -> str:
    if kind_of(code) in ("failed", "busy"):
        return sentence_of(code)
    return f"the server refused it (0x{code:04X})"


def _not_stored(instance: Instance, error: RequestFailed, tries: Mapping[str, int]) -> Outcome:
    attempts = tries.get(instance.sop_instance_uid, 0)
    said = error.message if attempts else f"not sent: {error.message}"
    return Outcome(
        instance, "failed", error.status, said, error.hint, attempts=attempts,
        exit_code=PacsFailed.exit_code,
    )  # fmt: skip


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _elsewhere(location: str) -> str:
    """Where a redirect leads, without what a query may hold."""
    try:
        parts = urlsplit(location)
    except ValueError:
        return ""
    if not parts.netloc or "@" in parts.netloc:
        return _PATH_HINT
    return f"If that is the service, write it out: {parts.scheme}://{parts.netloc}{parts.path}"
