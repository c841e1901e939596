"""A DICOMweb service as HTTP: requests and their answers, byte for byte, and what went wrong.

No redirect is followed, no proxy and no login is taken from anywhere but the destination, and
only its authorities are trusted.
"""

from __future__ import annotations

import base64
import re
import secrets
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
)
from urllib3.exceptions import SSLError as TlsError

from miad_cli import __version__
from miad_cli.errors import PacsFailed, UsageError
from miad_cli.pacs.destinations import Destination, Tls
from miad_cli.pacs.security import AskPassphrase, client_context

LARGEST_ANSWER = 32 << 20
"""Bytes that are read of an answer, unless more is asked for."""

DICOM, JSON = "application/dicom", "application/dicom+json"

_CHUNK = 256 << 10
_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,200})"|([^\s";,]{1,200}))', re.IGNORECASE)

Scope = Literal["everything", "batch", "perhaps one"]


class RequestFailed(PacsFailed):
    """A request that came to nothing.

    `scope` says whom it concerns: `everything` that would be sent, the `batch`, or `perhaps one`
    instance of it. `may_pass` is True where another attempt could end otherwise.
    """

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        status: int | None = None,
        scope: Scope = "everything",
        may_pass: bool = False,
        wait: float = 0,
    ) -> None:
        super().__init__(message, hint)
        self.status, self.scope, self.may_pass, self.wait = status, scope, may_pass, wait


@dataclass(frozen=True)
class Answer:
    """What the server said; `media_type` in lower case, without parameters."""

    status: int
    content: bytes
    content_type: str
    headers: Mapping[str, str]

    @property
    def media_type(self) -> str:
        return self.content_type.partition(";")[0].strip().lower()


class Service:
    """The service of a destination, for any number of requests.

    Raises:
        UsageError, KeyUnusable: the certificates or the login cannot be used.
    """

    def __init__(self, destination: Destination, passphrase: AskPassphrase | None = None) -> None:
        self._destination = destination
        self.base = (destination.url or "").rstrip("/")
        self._headers = {
            "User-Agent": f"miad/{__version__}",
            "Accept-Encoding": "identity",
            **_login(destination),
        }
        timeouts = destination.timeouts
        self._pool = urllib3.PoolManager(
            retries=False,
            timeout=urllib3.Timeout(connect=timeouts.connect, read=timeouts.message),
            **_tls_settings(destination, passphrase),
        )

    def ask(
        self,
        method: str,
        path: str,
        accept: str,
        body: Multipart | None = None,
        at_most: int = LARGEST_ANSWER,
    ) -> Answer:
        """One request, and all of its answer.

        Raises:
            RequestFailed: there is none.
        """
        headers = {**self._headers, "Accept": accept}
        if body is not None:
            headers |= {"Content-Type": body.content_type, "Content-Length": str(len(body))}
        with _in_words(self._destination):
            response = self._pool.request(
                method,
                f"{self.base}/{path}",
                body=cast("Any", body),  # bytes and memoryviews, which urllib3 sends as they are
                headers=headers,
                redirect=False,
                preload_content=False,
            )
            try:
                content = _read(response, at_most)
            finally:
                response.release_conn()
        answer = response.headers
        return Answer(response.status, content, answer.get("Content-Type", ""), answer)


class Multipart:
    """multipart/related (RFC 2387) of whole files, given out in pieces that are not copied
    together, as often as it is asked for."""

    def __init__(self, files: Sequence[bytes]) -> None:
        self._boundary = f"miad-{secrets.token_hex(16)}"
        self._files = files

    @property
    def content_type(self) -> str:
        return f'multipart/related; type="{DICOM}"; boundary={self._boundary}'

    def __len__(self) -> int:
        ends = len(self._files) * len(self._head) + len(self._tail)
        return ends + sum(len(one) for one in self._files)

    def __iter__(self) -> Iterator[bytes | memoryview]:
        for one in self._files:
            yield self._head
            view = memoryview(one)
            for start in range(0, len(view), _CHUNK):
                yield view[start : start + _CHUNK]
        yield self._tail

    @property
    def _head(self) -> bytes:
        return f"\r\n--{self._boundary}\r\nContent-Type: {DICOM}\r\n\r\n".encode()

    @property
    def _tail(self) -> bytes:
        return f"\r\n--{self._boundary}--\r\n".encode()


def parts_of(answer: Answer) -> list[bytes]:
    """The parts of a multipart/related answer, byte for byte; none where it is no such thing."""
    match = _BOUNDARY.search(answer.content_type)
    if match is None or answer.media_type != "multipart/related":
        return []
    delimiter = b"\r\n--" + (match[1] or match[2]).encode("ascii", "replace")
    # The first delimiter may stand at the very beginning, without a line before it.
    content = b"\r\n" + answer.content
    parts, start = [], content.find(delimiter)
    while start >= 0:
        start += len(delimiter)
        if content[start : start + 2] == b"--":
            break
        end = content.find(delimiter, start)
        body = content.find(b"\r\n\r\n", start)
        if end < 0 or not 0 <= body < end:
            return []  # cut short
        parts.append(content[body + 4 : end])
        start = end
    return parts


def _read(response: Any, at_most: int) -> bytes:
    """All of an answer.

    Raises:
        RequestFailed: it is longer than can be meant.
    """
    chunks, size = [], 0
    for chunk in response.stream(1 << 20, decode_content=False):
        size += len(chunk)
        if size > at_most:
            response.close()
            raise RequestFailed("the server's answer has no end", scope="batch")
        chunks.append(chunk)
    return b"".join(chunks)


# --- Login and TLS --------------------------------------------------------------------------


def _login(destination: Destination) -> dict[str, str]:
    """The header that logs in.

    Raises:
        UsageError: there is no secret, or it cannot stand in a header.
    """
    auth = destination.auth
    if auth is None:
        return {}
    secret = auth.secret()
    if auth.kind == "basic":
        if ":" in (auth.user or ""):
            raise UsageError("a user's name cannot hold a colon in HTTP")
        pair = f"{auth.user}:{secret}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode('ascii')}"}
    if not secret.isascii():
        raise UsageError("a bearer token is ASCII; what is named as one is not")
    return {"Authorization": f"Bearer {secret}"}


def _tls_settings(destination: Destination, passphrase: AskPassphrase | None) -> dict[str, Any]:
    """What the connections need for https; nothing for http on this machine."""
    if urlsplit(destination.url or "").scheme != "https":
        return {}
    tls = destination.tls or Tls()
    settings: dict[str, Any] = {"ssl_context": client_context(tls, passphrase)}
    if not tls.check_host:
        settings["assert_hostname"] = False
    if tls.server_name:
        settings["server_hostname"] = tls.server_name
    return settings


# --- What went wrong ------------------------------------------------------------------------


@contextmanager
def _in_words(destination: Destination) -> Iterator[None]:
    """Errors of the connection as sentences.

    Raises:
        RequestFailed: instead of them.
    """
    try:
        yield
    except (HTTPError, OSError) as error:
        raise _failure(error, destination) from None


def _failure(error: Exception, destination: Destination) -> RequestFailed:
    certificate = _caused_by(error, ssl.SSLCertVerificationError)
    if isinstance(certificate, ssl.SSLCertVerificationError):
        said = (certificate.verify_message or "it cannot be verified").rstrip(".")
        return RequestFailed(
            f"its certificate is not trusted: {said}",
            hint="Nothing was sent. Is ca the authority that issued it, and host its name?",
        )
    broken = _caused_by(error, ssl.SSLError)
    if isinstance(broken, ssl.SSLError) or isinstance(error, TlsError):
        reason = (getattr(broken, "reason", None) or type(error).__name__).replace("_", " ").lower()
        return RequestFailed(
            f"there is no TLS 1.2 or later to be had ({reason})",
            hint="Does it speak TLS on this port, or does it want a certificate of ours?",
        )
    hint = "Is it running, and are host and port right?"
    if isinstance(error, NameResolutionError) or _caused_by(error, socket.gaierror):
        return RequestFailed("its host name is not known", "Is it spelt right?")
    if _caused_by(error, ConnectionRefusedError):
        said = "the connection was refused: nobody listens there"
        return RequestFailed(said, hint, may_pass=True)
    if isinstance(error, ConnectTimeoutError):
        said = f"nobody answered within {destination.timeouts.connect:g} s"
        return RequestFailed(said, hint, may_pass=True)
    if isinstance(error, NewConnectionError):
        return RequestFailed("it cannot be reached", hint, may_pass=True)
    if isinstance(error, ReadTimeoutError) or _caused_by(error, TimeoutError):
        return RequestFailed("no answer came", scope="perhaps one", may_pass=True)
    return RequestFailed("the connection broke", scope="perhaps one", may_pass=True)


def _caused_by(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    """The error itself, or one behind it, of that kind."""
    waiting: list[object] = [error]
    for _ in range(20):
        if not waiting:
            break
        one = waiting.pop()
        if isinstance(one, kind):
            return one
        if isinstance(one, BaseException):
            waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
    return None
