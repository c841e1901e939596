"""Reading back: which instances a PACS lists (C-FIND), and their bytes (C-GET)."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from miad_cli.errors import PacsFailed
from miad_cli.pacs.destinations import Destination
from miad_cli.pacs.outcome import Fetched, Instance
from miad_cli.pacs.transcoding import FALLBACKS
from miad_cli.pacs.wire import CONTEXT_LIMIT, VERIFICATION, ConnectionLost

_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
_GET = "1.2.840.10008.5.1.4.1.2.2.3"
"""Study Root Query/Retrieve Information Model (PS3.4 C.6.2)."""
_MOST_ANSWERS = 100_000
"""Answers of a C-FIND in one series; more than any series has."""

_PENDING = (0xFF00, 0xFF01)
_TOGETHER = 16
"""Instances that one C-GET asks for, so that not a whole study has to be held."""

Handlers = list[tuple[Any, ...]]


def retrieve(
    destination: Destination, tls: ssl.SSLContext | None, instances: Sequence[Instance]
) -> Iterator[Fetched]:
    """One answer for each instance; what goes wrong is said in it."""
    for batch in _batches(instances):
        answered: set[str] = set()
        try:
            for fetched in _retrieve_batch(destination, tls, batch):
                answered.add(fetched.instance.sop_instance_uid)
                yield fetched
        except ConnectionLost as error:
            for instance in batch:
                if instance.sop_instance_uid not in answered:
                    yield Fetched(instance, None, f"it cannot be read back: {error.message}")


def _retrieve_batch(
    destination: Destination, tls: ssl.SSLContext | None, batch: Sequence[Instance]
) -> Iterator[Fetched]:
    wanted = {one.sop_instance_uid for one in batch}
    got: dict[str, bytes] = {}

    def keep(event: evt.Event) -> int:
        uid = str(getattr(event.request, "AffectedSOPInstanceUID", ""))  # data, and never a path
        if uid in wanted:
            got[uid] = event.encoded_dataset()
        return 0x0000

    pairs = {(one.sop_class_uid, one.transfer_syntax_uid) for one in batch}
    pairs |= {(one.sop_class_uid, syntax) for one in batch for syntax in FALLBACKS}
    contexts = [build_context(sop_class, [syntax]) for sop_class, syntax in sorted(pairs)]
    roles = [build_role(uid, scp_role=True) for uid in {one.sop_class_uid for one in batch}]
    queries = [build_context(model) for model in (VERIFICATION, _FIND, _GET)]
    handlers: Handlers = [(evt.EVT_C_STORE, keep)]
    with established(destination, tls, [*queries, *contexts], roles, handlers) as association:
        accepted = {context.abstract_syntax for context in association.accepted_contexts}
        if _GET not in accepted:
            reason = "the PACS gives nothing back (no C-GET)"
            yield from (Fetched(instance, None, reason, may_pass=False) for instance in batch)
            return
        for _, group in groupby(batch, key=lambda one: one.series_instance_uid):
            series = list(group)
            listed = _listed(association, series) if _FIND in accepted else None
            for start in range(0, len(series), _TOGETHER):
                part = series[start : start + _TOGETHER]
                there = [one for one in part if listed is None or one.sop_instance_uid in listed]
                if there:
                    _get(association, there)
                for instance in part:
                    yield _answer(instance, got, listed)


def _answer(instance: Instance, got: dict[str, bytes], listed: set[str] | None) -> Fetched:
    content = got.pop(instance.sop_instance_uid, None)
    if content is not None:
        return Fetched(instance, content)
    if listed is not None and instance.sop_instance_uid not in listed:
        return Fetched(instance, None, "the PACS does not list it")
    return Fetched(instance, None, "the PACS lists it, but does not give it back")


def _listed(association: Association, series: Sequence[Instance]) -> set[str]:
    """The SOP Instance UIDs that the PACS lists in a series, out of those asked for."""
    query = _query(series[0])
    query.SOPInstanceUID = ""
    wanted = {one.sop_instance_uid for one in series}
    found: set[str] = set()
    for answers, (status, identifier) in enumerate(association.send_c_find(query, _FIND)):
        if status.get("Status") is None:
            raise ConnectionLost("it ended the association during C-FIND")
        if answers > _MOST_ANSWERS:
            raise PacsFailed("its answers to C-FIND do not end")
        if status.Status in _PENDING and identifier is not None:
            found |= wanted & {str(identifier.get("SOPInstanceUID", ""))}
    return found


def _get(association: Association, instances: Sequence[Instance]) -> None:
    """Ask for instances of one series; they arrive at the handler."""
    query = _query(instances[0])
    query.SOPInstanceUID = [one.sop_instance_uid for one in instances]
    for status, _ in association.send_c_get(query, _GET):
        if status.get("Status") is None:
            raise ConnectionLost("it ended the association during C-GET")


def _query(instance: Instance) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID = instance.study_instance_uid
    query.SeriesInstanceUID = instance.series_instance_uid
    return query


def _batches(instances: Sequence[Instance]) -> Iterator[list[Instance]]:
    """By series, and so that each needs no more contexts than an association has."""
    ordered = sorted(instances, key=lambda one: (one.study_instance_uid, one.series_instance_uid))
    batch: list[Instance] = []
    pairs: set[tuple[str, str]] = set()
    for instance in ordered:
        needed = {(instance.sop_class_uid, instance.transfer_syntax_uid)}
        needed |= {(instance.sop_class_uid, syntax) for syntax in FALLBACKS}
        if len(pairs | needed) > CONTEXT_LIMIT - 3:
            yield batch
            batch, pairs = [], set()
        batch.append(instance)
        pairs |= needed
    if batch:
        yield batch


@contextmanager
def established(
    destination: Destination,
    tls: ssl.SSLContext | None,
    contexts: Sequence[Any],
    roles: Sequence[Any] = (),
    handlers: Handlers | None = None,
) -> Iterator[Association]:
    """An association of pynetdicom, released after the block, aborted on an error.

    Raises:
        ConnectionLost: it did not come about.
    """
    entity = application_entity(destination)
    name = (destination.tls.server_name if destination.tls else None) or destination.host or ""
    try:
        association = entity.associate(
            destination.host or "",
            destination.port or 0,
            contexts=list(contexts),
            ae_title=destination.aet or "",
            max_pdu=0,
            ext_neg=list(roles),
            tls_args=(tls, name) if tls else None,
            evt_handlers=[(evt.EVT_CONN_OPEN, _open), *(handlers or [])],
        )
    except OSError as error:
        raise ConnectionLost(f"it cannot be reached ({error.strerror})") from None
    if not association.is_established:
        raise ConnectionLost("the PACS accepts no association for this")
    try:
        yield association
    except BaseException:
        association.abort()
        raise
    finally:
        if association.is_established:
            association.release()


def application_entity(destination: Destination) -> AE:
    """Ourselves, with the destination's patience."""
    entity = AE(ae_title=destination.calling_aet)
    entity.acse_timeout = destination.timeouts.associate
    entity.dimse_timeout = destination.timeouts.message
    entity.network_timeout = destination.timeouts.network
    entity.connection_timeout = destination.timeouts.connect
    return entity


def _open(event: evt.Event) -> None:
    """A connection that neither waits for acknowledgements nor blocks without end."""
    wrapped = event.assoc.dul.socket
    connection = wrapped.socket if wrapped is not None else None
    if connection is not None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(event.assoc.network_timeout)
