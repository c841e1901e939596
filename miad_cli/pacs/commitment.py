"""Storage commitment (PS3.4 Annex J): the PACS says that it keeps what it was sent.

We ask with N-ACTION; it answers with N-EVENT-REPORT, on the same association or, as most do,
on one that it opens to us. So we listen, on loopback unless told otherwise.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.uid import UID, generate_uid
from pynetdicom import evt
from pynetdicom.presentation import build_context

from miad_cli.errors import PacsFailed
from miad_cli.pacs.destinations import Destination
from miad_cli.pacs.outcome import Instance
from miad_cli.pacs.retrieve import Handlers, application_entity, established
from miad_cli.pacs.security import AskPassphrase, server_context

_PUSH_MODEL = UID("1.2.840.10008.1.20.1")
_PUSH_MODEL_INSTANCE = UID("1.2.840.10008.1.20.1.1")
_REASONS = {
    0x0110: "the PACS could not process it",
    0x0112: "the PACS does not have it",
    0x0119: "the PACS has it as another class",
    0x0122: "the PACS does not commit to objects of this kind",
    0x0131: "the PACS saw the request twice",
    0x0213: "the PACS has no resources",
}


@dataclass(frozen=True)
class Committed:
    """What the PACS committed to, and what not, with the reason."""

    kept: frozenset[str]
    refused: Mapping[str, str]


def request_commitment(
    destination: Destination,
    tls: ssl.SSLContext | None,
    instances: Sequence[Instance],
    passphrase: AskPassphrase | None = None,
) -> Committed:
    """Ask for commitment to `instances`, and wait for the answer.

    Raises:
        PacsFailed: it takes no such request, or no answer came in time.
    """
    transaction = str(generate_uid())
    answer = _Answer(transaction)
    context = server_context(destination.tls, passphrase) if destination.tls else None
    handlers: Handlers = [(evt.EVT_N_EVENT_REPORT, answer.take)]
    with _listening(destination, context, handlers):
        _ask(destination, tls, instances, transaction, handlers, answer)
        if not answer.came.wait(destination.commit.wait):
            where = f"{destination.commit.host}:{destination.commit.port}"
            raise PacsFailed(
                f"no answer about storage commitment came within {destination.commit.wait:g} s",
                hint=f"The PACS has to know {destination.calling_aet} at {where}.",
            )
    return answer.result


class _Answer:
    """What N-EVENT-REPORT brought for our transaction; another's is not ours."""

    def __init__(self, transaction: str) -> None:
        self._transaction = transaction
        self.came = threading.Event()
        self.result = Committed(frozenset(), {})

    def take(self, event: evt.Event) -> tuple[int, None]:
        information = event.event_information
        if str(information.get("TransactionUID", "")) != self._transaction:
            return 0x0110, None
        kept = {_uid(one) for one in information.get("ReferencedSOPSequence") or []}
        refused = {
            _uid(one): _REASONS.get(int(one.get("FailureReason") or 0), "the PACS refuses it")
            for one in information.get("FailedSOPSequence") or []
        }
        self.result = Committed(frozenset(kept) - refused.keys(), refused)
        self.came.set()
        return 0x0000, None


def _uid(item: Dataset) -> str:
    return str(item.get("ReferencedSOPInstanceUID", ""))


@contextmanager
def _listening(
    destination: Destination, context: ssl.SSLContext | None, handlers: Handlers
) -> Iterator[None]:
    place = (destination.commit.host, destination.commit.port)
    entity = application_entity(destination)
    entity.add_supported_context(_PUSH_MODEL, scu_role=False, scp_role=True)
    entity.add_supported_context("1.2.840.10008.1.1")
    try:
        server = entity.start_server(place, block=False, evt_handlers=handlers, ssl_context=context)
    except OSError as error:
        raise PacsFailed(
            f"nobody can listen on {place[0]}:{place[1]} for the answer ({error.strerror})",
            hint="Name another port in the destination's table commit.",
        ) from None
    try:
        yield
    finally:
        if server is not None:
            server.shutdown()


def _ask(
    destination: Destination,
    tls: ssl.SSLContext | None,
    instances: Sequence[Instance],
    transaction: str,
    handlers: Handlers,
    answer: _Answer,
) -> None:
    """N-ACTION (PS3.4 J.3.2), and a moment for an answer on the same association."""
    wanted = Dataset()
    wanted.TransactionUID = transaction
    wanted.ReferencedSOPSequence = [_reference(one) for one in instances]
    with established(destination, tls, [build_context(_PUSH_MODEL)], (), handlers) as association:
        status, _ = association.send_n_action(wanted, 1, _PUSH_MODEL, _PUSH_MODEL_INSTANCE)
        code = status.get("Status")
        if code != 0:
            said = "no answer" if code is None else f"0x{code:04X}"
            raise PacsFailed(f"the PACS takes no request for storage commitment ({said})")
        answer.came.wait(0.5)


def _reference(instance: Instance) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = instance.sop_class_uid
    item.ReferencedSOPInstanceUID = instance.sop_instance_uid
    return item
