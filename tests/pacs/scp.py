"""A storage SCP of pynetdicom that goes wrong in the way a test wants."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, Verification
from servers import HOST, free_port

CT = str(CTImageStorage)
Answer = Callable[[int, str], int | None]
"""The status for the n-th request (from 1) of an instance's UID; None aborts the association."""


@dataclass
class Scp:
    """What arrived: each instance as a file, by UID, in order; and how often we were called."""

    port: int
    aet: str = "FAULTY"
    got: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    associations: list[list[tuple[str, tuple[str, ...]]]] = field(default_factory=list)

    @property
    def dest(self) -> str:
        return f"{self.aet}@{HOST}:{self.port}"


@contextmanager
def scp(
    answer: Answer = lambda number, uid: 0x0000,
    *,
    port: int = 0,
    classes: Sequence[str] = (CT,),
    syntaxes: Sequence[str] = (ImplicitVRLittleEndian, ExplicitVRLittleEndian),
    maximum_pdu: int = 16382,
    tls: ssl.SSLContext | None = None,
    called: str = "",
    calling: str = "",
) -> Iterator[Scp]:
    """An SCP that keeps what it answers with success or a warning."""
    seen = Scp(port or free_port())

    def store(event: evt.Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        seen.requests.append(uid)
        status = answer(len(seen.requests), uid)
        if status is None:
            event.assoc.abort()
            return 0xC000
        if status == 0 or status >> 12 == 0xB:
            seen.got[uid] = event.encoded_dataset()
        return status

    def requested(event: evt.Event) -> None:
        proposed = event.assoc.requestor.primitive.presentation_context_definition_list
        seen.associations.append(
            [(str(one.abstract_syntax), tuple(map(str, one.transfer_syntax))) for one in proposed]
        )

    entity = AE(ae_title=seen.aet)
    entity.maximum_pdu_size = maximum_pdu
    entity.require_called_aet = bool(called)
    entity.require_calling_aet = [calling] if calling else []
    if called:
        entity.ae_title = called
    entity.add_supported_context(Verification)
    for one in classes:
        entity.add_supported_context(one, list(syntaxes))
    handlers = [(evt.EVT_C_STORE, store), (evt.EVT_REQUESTED, requested)]
    server = entity.start_server(
        (HOST, seen.port), block=False, evt_handlers=handlers, ssl_context=tls
    )
    try:
        yield seen
    finally:
        # It may take half a second to notice, which no test has to wait for.
        threading.Thread(target=server.shutdown).start()
