"""DIMSE: C-ECHO, C-STORE and, to read back, C-FIND and C-GET."""

from __future__ import annotations

import ssl
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from miad_cli.errors import PacsFailed, PictureFailed
from miad_cli.imaging.structure import read_file_meta
from miad_cli.pacs.destinations import Destination
from miad_cli.pacs.outcome import Fetched, Instance, Outcome
from miad_cli.pacs.retrieve import retrieve
from miad_cli.pacs.security import AskPassphrase, client_context
from miad_cli.pacs.statuses import hint_of, kind_of, sentence_of
from miad_cli.pacs.transcoding import FALLBACKS, transcoded
from miad_cli.pacs.wire import (
    CONTEXT_LIMIT,
    IMPLICIT_LITTLE,
    VERIFICATION,
    ConnectionLost,
    Context,
    Wire,
    answers_in_words,
    associated,
)

_ECHO: Context = (VERIFICATION, IMPLICIT_LITTLE)
_IN_VAIN = 3
"""Instances in a row that were tried as often as allowed, after which no other is waited for."""


@dataclass(frozen=True)
class _Posted:
    """The data set of an instance as it goes out: in its own encoding or in another."""

    context: Context
    data_set: memoryview


@dataclass
class _Tries:
    """How often each instance was tried, and how many in a row were tried in vain."""

    numbers: Counter[str] = field(default_factory=Counter)
    in_vain: int = 0

    def of(self, instance: Instance) -> int:
        return self.numbers[instance.sop_instance_uid]

    def count(self, instance: Instance) -> int:
        """One more."""
        self.numbers[instance.sop_instance_uid] += 1
        return self.of(instance)

    @property
    def are_hopeless(self) -> bool:
        """Whether it is the PACS and not the instance: then waiting for each has no end."""
        return self.in_vain >= _IN_VAIN


class DimseStore:
    """A PACS that speaks DIMSE; what `outcome.Store` asks for.

    `pause` waits for that many seconds; tests count instead.

    Raises:
        UsageError, KeyUnusable: the certificates cannot be used.
    """

    def __init__(
        self,
        destination: Destination,
        passphrase: AskPassphrase | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.destination = destination
        self.tls: ssl.SSLContext | None = None
        if destination.tls is not None:
            self.tls = client_context(destination.tls, passphrase)
        self._pause = pause

    def check(self) -> None:
        """C-ECHO.

        Raises:
            PacsFailed: nobody answers, or not to us.
        """
        try:
            with associated(self.destination, self.tls, [_ECHO]) as wire:
                if _ECHO not in wire.accepted:
                    raise PacsFailed("it answers, but does not take a C-ECHO")
                status = wire.echo()
        except PacsFailed as error:
            message = f"{self.destination.name} cannot be used: {error.message}"
            raise PacsFailed(message, error.hint) from None
        if status:
            raise PacsFailed(f"{self.destination.name} refuses a C-ECHO (0x{status:04X})")

    def send(self, instances: Sequence[Instance]) -> Iterator[Outcome]:
        """Store the instances, in as few associations as their contexts allow."""
        for batch in batches(instances):
            yield from self._send_batch(batch)

    def fetch(self, instances: Sequence[Instance]) -> Iterator[Fetched]:
        """Get the instances back by C-FIND and C-GET."""
        return retrieve(self.destination, self.tls, instances)

    def _send_batch(self, batch: Sequence[Instance]) -> Iterator[Outcome]:
        """One association, and another one whenever it is lost."""
        retries = self.destination.retries
        waiting, tries = deque(batch), _Tries()
        losses = 0
        while waiting:
            try:
                with associated(self.destination, self.tls, contexts_for(batch)) as wire:
                    losses = 0
                    yield from self._send_over(wire, waiting, tries)
            except ConnectionLost as error:
                losses += 1
                if tries.of(waiting[0]) > retries.times:
                    # This one ends the association every time; the others may get through.
                    tries.in_vain += 1
                    yield _not_sent(waiting.popleft(), error, tries)
                if not error.may_pass or losses > retries.times or tries.are_hopeless:
                    while waiting:
                        yield _not_sent(waiting.popleft(), error, tries)
                elif waiting:
                    self._pause(retries.pause(max(losses, tries.of(waiting[0]))))

    def _send_over(self, wire: Wire, waiting: deque[Instance], tries: _Tries) -> Iterator[Outcome]:
        """Send what waits, the first again while the PACS is busy; what is done leaves."""
        retries = self.destination.retries
        while waiting:
            attempt = tries.count(waiting[0])
            outcome = replace(self._store(wire, waiting[0]), attempts=attempt)
            if is_busy(outcome):
                if attempt <= retries.times and not tries.are_hopeless:
                    self._pause(retries.pause(attempt))
                    continue
                tries.in_vain += 1
            else:
                tries.in_vain = 0
            waiting.popleft()
            yield outcome

    def _store(self, wire: Wire, instance: Instance) -> Outcome:
        """One C-STORE.

        Raises:
            ConnectionLost: it is not known whether the PACS has it.
        """
        try:
            posted = _posted(wire, instance)
        except PictureFailed as error:
            return Outcome(instance, "failed", None, error.message, error.hint, exit_code=3)
        except PacsFailed as error:
            return Outcome(instance, "failed", None, error.message, error.hint, exit_code=10)
        status = wire.store(posted.context, instance.sop_instance_uid, posted.data_set)
        kind = kind_of(status)
        failed = kind in ("busy", "failed")
        return Outcome(
            instance,
            "failed" if failed else "stored with warning" if status else "stored",
            status,
            sentence_of(status),
            hint_of(status),
            posted.context[1],
            exit_code=PacsFailed.exit_code if failed else 0,
        )


def is_busy(outcome: Outcome) -> bool:
    """Whether the PACS may take it later."""
    return outcome.status is not None and kind_of(outcome.status) == "busy"


def contexts_for(instances: Sequence[Instance]) -> list[Context]:
    """What to propose: C-ECHO's, each class in each exact syntax, then each class uncompressed,
    for the case that the syntax is refused."""
    exact = dict.fromkeys((one.sop_class_uid, one.transfer_syntax_uid) for one in instances)
    others = ((sop_class, syntax) for sop_class, _ in exact for syntax in FALLBACKS)
    return list(dict.fromkeys([_ECHO, *exact, *others]))


def batches(instances: Sequence[Instance]) -> Iterator[list[Instance]]:
    """The instances in their order, split where an association would need too many contexts."""
    batch: list[Instance] = []
    proposed: set[Context] = {_ECHO}
    for instance in instances:
        needed = set(contexts_for([instance]))
        if len(proposed | needed) > CONTEXT_LIMIT:
            yield batch
            batch, proposed = [], {_ECHO}
        batch.append(instance)
        proposed |= needed
    if batch:
        yield batch


def data_set_of(content: bytes) -> memoryview:
    """What follows the file meta information (PS3.10 7.1), without a copy.

    Raises:
        PictureFailed: the file does not say where that is.
    """
    meta = read_file_meta(content)
    if meta is None or not meta.length_fits:
        raise PictureFailed("its file header does not end where it says")
    return memoryview(content)[meta.end :]


def _posted(wire: Wire, instance: Instance) -> _Posted:
    """The instance's bytes for a context that was accepted, its own if that can be.

    Raises:
        PictureFailed: it cannot be read, or not be encoded so without loss.
        PacsFailed: no context that would do was accepted.
    """
    content = instance.read()
    own = (instance.sop_class_uid, instance.transfer_syntax_uid)
    if own in wire.accepted:
        return _Posted(own, data_set_of(content))
    for syntax in FALLBACKS:
        context = (instance.sop_class_uid, syntax)
        if context in wire.accepted:
            return _Posted(context, data_set_of(transcoded(content, syntax)))
    raise PacsFailed(
        answers_in_words(wire.answers, own),
        hint="Ask whoever runs the PACS whether it is meant to take this.",
    )


def _not_sent(instance: Instance, error: ConnectionLost, tries: _Tries) -> Outcome:
    attempts = tries.of(instance)
    said = error.message if attempts else f"not sent: {error.message}"
    return Outcome(
        instance, "failed", None, said, error.hint, attempts=attempts,
        exit_code=PacsFailed.exit_code,
    )  # fmt: skip
