"""An association that stores: the part of DICOM's upper layer (PS3.8) that a sender needs.

One thread, one socket, one message at a time. pynetdicom encodes and decodes what is negotiated;
the messages themselves are written here, because a picture then leaves in one piece, without
waiting for a polling thread or for Nagle's algorithm, exactly as it was verified, and because a
TLS alert or a lost connection arrives as what it is.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import build_context

from miad_cli import __version__
from miad_cli.errors import PacsFailed
from miad_cli.pacs.destinations import Destination

CONTEXT_LIMIT = 128
"""Presentation contexts in one association (PS3.8 9.3.2.2: odd numbers of one byte)."""

LARGEST_PDU = 1 << 20
"""Bytes of a PDU that are believed; what comes back to a sender is short."""

CHUNK = 4 << 20
"""Bytes that are put together before they go to the socket."""

VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"

_OUR_CLASS_UID = "2.25.145433018027251365428596346149828296720"
_ACCEPT, _REJECT, _DATA, _RELEASE_RQ, _RELEASE_RP, _ABORT = 2, 3, 4, 5, 6, 7
_STORE, _ECHO = 0x0001, 0x0030
_NO_DATA_SET = 0x0101
_TRANSIENT = 2

Context = tuple[str, str]
"""A SOP class and one transfer syntax."""


class ConnectionLost(PacsFailed):
    """An association that ended before it was released, or never came about.

    `may_pass` is False where another attempt would end the same way.
    """

    def __init__(self, message: str, hint: str = "", may_pass: bool = True) -> None:
        super().__init__(message, hint)
        self.may_pass = may_pass


class Wire:
    """An established association. `accepted` are the contexts that may be used, by number;
    `answers` is what became of each that was proposed (PS3.8 Table 9-18: 0 accepted, 3 SOP class
    unknown, 4 transfer syntax refused)."""

    def __init__(self, connection: socket.socket, destination: Destination) -> None:
        self._socket = connection
        self._destination = destination
        self._waiting = b""
        self._message = 0
        self._largest = 0
        self.accepted: dict[Context, int] = {}
        self.answers: dict[Context, int] = {}

    def negotiate(self, contexts: Sequence[Context]) -> None:
        """Ask for the association.

        Raises:
            ConnectionLost: it was rejected, or nobody answered.
        """
        self._send(_request(self._destination, contexts))
        kind, content = self._pdu("the request for an association")
        if kind == _REJECT:
            rejection = A_ASSOCIATE_RJ()
            rejection.decode(content)
            raise ConnectionLost(
                f"the association was rejected: {rejection.reason_str.lower()}",
                hint=_rejection_hint(self._destination, rejection.source or 0,
                                     rejection.reason_diagnostic or 0),
                may_pass=rejection.result == _TRANSIENT,
            )  # fmt: skip
        if kind != _ACCEPT:
            raise ConnectionLost(
                "it ended the connection instead of accepting an association",
                may_pass=kind == _ABORT,
            )
        answer = A_ASSOCIATE_AC()
        try:
            answer.decode(content)
            self._note(answer, contexts)
        except Exception as error:  # what a broken peer sends makes the decoder raise anything
            raise ConnectionLost(
                f"its answer to the request for an association is broken ({type(error).__name__})",
                may_pass=False,
            ) from None
        self._socket.settimeout(self._destination.timeouts.message)

    def _note(self, answer: A_ASSOCIATE_AC, contexts: Sequence[Context]) -> None:
        for item in answer.presentation_context:
            number = int(item.presentation_context_id or 0)
            proposed = contexts[number // 2]
            self.answers[proposed] = int(item.result or 0)
            if item.result == 0 and str(item.transfer_syntax) == proposed[1]:
                self.accepted[proposed] = number
        information = answer.user_information
        largest = information.maximum_length if information is not None else None
        self._largest = int(largest or 0)

    def echo(self) -> int:
        """C-ECHO (PS3.7 9.1.5): the status."""
        number = self.accepted[(VERIFICATION, IMPLICIT_LITTLE)]
        return self._exchange(number, _ECHO, VERIFICATION)

    def store(self, context: Context, sop_instance_uid: str, data_set: bytes | memoryview) -> int:
        """C-STORE (PS3.7 9.1.1) of a data set in the context's transfer syntax: the status.

        Raises:
            ConnectionLost: no answer came, so the instance may be there or not.
        """
        number = self.accepted[context]
        return self._exchange(number, _STORE, context[0], sop_instance_uid, data_set)

    def release(self) -> None:
        """End the association in good order; whoever does not answer is left."""
        with suppress(OSError, ConnectionLost):
            self._socket.settimeout(min(5.0, self._destination.timeouts.message))
            self._send(struct.pack(">BxL4x", _RELEASE_RQ, 4))
            self._pdu("the release")

    def abort(self) -> None:
        """End it at once."""
        with suppress(OSError, ConnectionLost):
            self._send(struct.pack(">BxLxxBB", _ABORT, 4, 0, 0))

    def close(self) -> None:
        with suppress(OSError):
            self._socket.close()

    # --- Messages (PS3.7 Annex E) ---------------------------------------------------------

    def _exchange(
        self,
        number: int,
        command: int,
        sop_class_uid: str,
        sop_instance_uid: str = "",
        data_set: bytes | memoryview = b"",
    ) -> int:
        self._message = self._message % 0xFFFF + 1
        elements = [
            _uid_element(0x0002, sop_class_uid),
            _short_element(0x0100, command),
            _short_element(0x0110, self._message),
        ]
        if sop_instance_uid:
            elements += [
                _short_element(0x0700, 0),
                _short_element(0x0800, 0x0001),
                _uid_element(0x1000, sop_instance_uid),
            ]
        else:
            elements.append(_short_element(0x0800, _NO_DATA_SET))
        body = b"".join(elements)
        message = struct.pack("<HHLL", 0, 0, 4, len(body)) + body
        outgoing = [*_fragments(number, message, self._largest, is_command=True)]
        outgoing += _fragments(number, data_set, self._largest, is_command=False)
        self._send_parts(outgoing)
        answer = self._answer()
        if answer.get(0x0120) != self._message or 0x0900 not in answer:
            self.abort()
            raise ConnectionLost("its answer belongs to no message that was sent")
        return answer[0x0900]

    def _answer(self) -> dict[int, int]:
        """The short integers of the next command set, by element number."""
        command = b""
        while True:
            kind, content = self._pdu("a message")
            if kind != _DATA:
                raise ConnectionLost("it ended the association")
            place = 6
            while place + 6 <= len(content):
                length, _, control = struct.unpack_from(">LBB", content, place)
                if length < 2 or place + 4 + length > len(content):
                    raise ConnectionLost("its answer is broken")
                if control & 1:
                    command += content[place + 6 : place + 4 + length]
                if control & 3 == 3:
                    return _short_elements(command)
                place += 4 + length
            if len(command) > LARGEST_PDU:
                raise ConnectionLost("its answer is too long")

    # --- Bytes ----------------------------------------------------------------------------

    def _send_parts(self, parts: Sequence[bytes | memoryview]) -> None:
        """Send without a copy of everything at once: a picture can be large."""
        waiting: list[bytes | memoryview] = []
        size = 0
        for part in parts:
            waiting.append(part)
            size += len(part)
            if size >= CHUNK:
                self._send(b"".join(waiting))
                waiting, size = [], 0
        if waiting:
            self._send(b"".join(waiting))

    def _send(self, content: bytes) -> None:
        try:
            self._socket.sendall(content)
        except OSError as error:
            raise _lost(error, self._destination) from None

    def _pdu(self, what: str) -> tuple[int, bytes]:
        """The next PDU: its type, and all of it."""
        header = self._take(6, what)
        length = int.from_bytes(header[2:6], "big")
        if length > LARGEST_PDU:
            raise ConnectionLost("what it sends is not DICOM", may_pass=False)
        return header[0], header + self._take(length, what)

    def _take(self, length: int, what: str) -> bytes:
        while len(self._waiting) < length:
            _acknowledge_at_once(self._socket)
            try:
                got = self._socket.recv(1 << 16)
            except TimeoutError:
                raise ConnectionLost(f"no answer came to {what}") from None
            except OSError as error:
                raise _lost(error, self._destination) from None
            if not got:
                raise ConnectionLost("it closed the connection", _tls_hint(self._destination))
            self._waiting += got
        taken, self._waiting = self._waiting[:length], self._waiting[length:]
        return taken


@contextmanager
def associated(
    destination: Destination, context: ssl.SSLContext | None, contexts: Sequence[Context]
) -> Iterator[Wire]:
    """An association for as long as the block runs; released after it, aborted on an error.

    Raises:
        ConnectionLost: there is no way to it, or it does not want to.
    """
    wire = Wire(_connect(destination, context), destination)
    try:
        wire.negotiate(contexts)
        yield wire
    except BaseException:
        wire.abort()
        raise
    else:
        wire.release()
    finally:
        wire.close()


def _connect(destination: Destination, context: ssl.SSLContext | None) -> socket.socket:
    host, port = destination.host or "", destination.port or 0
    timeouts = destination.timeouts
    try:
        plain = socket.create_connection((host, port), timeouts.connect)
    except OSError as error:
        raise _unreachable(error, destination) from None
    plain.settimeout(timeouts.associate)
    # A small segment must not wait for the acknowledgement of the one before.
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is None:
        return plain
    name = destination.tls.server_name if destination.tls else None
    try:
        return context.wrap_socket(plain, server_hostname=name or host)
    except OSError as error:
        plain.close()
        raise _no_tls(error) from None


def _acknowledge_at_once(connection: socket.socket) -> None:
    """Linux: do not hold back the acknowledgement that the peer's Nagle is waiting for. The
    kernel forgets it, so it is said before every wait."""
    option = getattr(socket, "TCP_QUICKACK", None)
    if option is not None:
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, option, 1)


def _request(destination: Destination, contexts: Sequence[Context]) -> bytes:
    """The A-ASSOCIATE-RQ (PS3.8 9.3.2): context n has the number 2n + 1."""
    wanted = A_ASSOCIATE()
    wanted.application_context_name = UID("1.2.840.10008.3.1.1.1")
    wanted.calling_ae_title = destination.calling_aet
    wanted.called_ae_title = destination.aet or ""
    proposed = [build_context(sop_class, syntax) for sop_class, syntax in contexts]
    for number, one in enumerate(proposed):
        one.context_id = 2 * number + 1
    wanted.presentation_context_definition_list = proposed
    length = MaximumLengthNotification()
    length.maximum_length_received = 0
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID(_OUR_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = f"MIAD_{__version__}"[:16]
    wanted.user_information = [length, implementation, version]
    return A_ASSOCIATE_RQ(wanted).encode()


def _fragments(
    number: int, content: bytes | memoryview, largest: int, is_command: bool
) -> Iterator[bytes | memoryview]:
    """P-DATA-TF PDUs (PS3.8 9.3.5) with a piece of `content` each, header and piece by turns."""
    room = (largest if largest > 6 else LARGEST_PDU) - 6
    view = memoryview(content)
    for start in range(0, len(view), room):
        piece = view[start : start + room]
        control = int(is_command) | (2 if start + room >= len(view) else 0)
        yield struct.pack(">BxLLBB", _DATA, len(piece) + 6, len(piece) + 2, number, control)
        yield piece


def _uid_element(element: int, uid: str) -> bytes:
    value = uid.encode("ascii")
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHL", 0, element, len(value)) + value


def _short_element(element: int, value: int) -> bytes:
    return struct.pack("<HHLH", 0, element, 2, value)


def _short_elements(command: bytes) -> dict[int, int]:
    """The elements of a command set that are US (implicit VR little endian, PS3.7 6.3.1)."""
    found, place = {}, 0
    while place + 8 <= len(command):
        group, element, length = struct.unpack_from("<HHL", command, place)
        place += 8
        if group == 0 and length == 2 and place + 2 <= len(command):
            found[element] = int.from_bytes(command[place : place + 2], "little")
        place += length
    return found


# --- What went wrong ------------------------------------------------------------------------


def _unreachable(error: OSError, destination: Destination) -> ConnectionLost:
    hint = "Is it running, and are host and port right?"
    if isinstance(error, socket.gaierror):
        return ConnectionLost("its host name is not known", "Is it spelt right?", may_pass=False)
    if isinstance(error, ConnectionRefusedError):
        return ConnectionLost("the connection was refused: nobody listens there", hint)
    if isinstance(error, TimeoutError):
        seconds = destination.timeouts.connect
        return ConnectionLost(f"nobody answered within {seconds:g} s", hint)
    return ConnectionLost(f"it cannot be reached ({error.strerror or type(error).__name__})", hint)


def _no_tls(error: OSError) -> ConnectionLost:
    """Why a connection did not become a TLS connection."""
    if isinstance(error, ssl.SSLCertVerificationError):
        said = (error.verify_message or "it cannot be verified").rstrip(".")
        return ConnectionLost(
            f"its certificate is not trusted: {said}",
            hint="Nothing was sent. Is ca the authority that issued it, and host its name?",
            may_pass=False,
        )
    if isinstance(error, ssl.SSLError):
        return ConnectionLost(
            f"there is no TLS 1.2 or later to be had ({_reason(error)})",
            hint="Does it speak TLS on this port, and does it know our certificate?",
            may_pass=False,
        )
    if isinstance(error, TimeoutError):
        return ConnectionLost("nobody answered in TLS", "Does it speak TLS on this port?")
    return ConnectionLost(
        "it ended the connection when TLS was offered", "Does it speak TLS on this port?"
    )


def _lost(error: OSError, destination: Destination) -> ConnectionLost:
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return ConnectionLost(
            f"TLS was refused ({_reason(error)})",
            hint="Does it want a certificate of ours (cert and key)?",
            may_pass=False,
        )
    if isinstance(error, TimeoutError):
        return ConnectionLost("it takes nothing more")
    return ConnectionLost("the connection broke", _tls_hint(destination))


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or type(error).__name__).replace("_", " ").lower()


def _tls_hint(destination: Destination) -> str:
    if destination.tls is None:
        return "If it wants TLS, say so in the destinations file ([NAME.tls])."
    if destination.tls.cert is None:
        return "If it wants a certificate of ours, name cert and key in [NAME.tls]."
    return ""


def _rejection_hint(destination: Destination, source: int, reason: int) -> str:
    if (source, reason) == (1, 7):
        return f"It is not called {destination.aet}."
    if (source, reason) == (1, 3):
        return f"It does not know {destination.calling_aet}: let it, or set calling_aet."
    return ""


def answers_in_words(answers: Mapping[Context, int], wanted: Context) -> str:
    """Why a context may not be used, for people."""
    if answers.get(wanted) == 3:
        return "it takes no objects of this kind"
    return "it takes this kind of object, but neither as it is encoded nor uncompressed"
