"""A small DICOMweb server on loopback that can be told to misbehave."""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any, Literal

from pydicom import Dataset, dcmread

HOST = "127.0.0.1"
Reply = tuple[int, Mapping[str, str], bytes]
Script = Callable[[list[bytes]], Reply | None]
Alter = Callable[[bytes], bytes]

JSON = {"Content-Type": "application/dicom+json"}


def uid_of(content: bytes) -> str:
    return str(dcmread(BytesIO(content), stop_before_pixels=True).SOPInstanceUID)


def stow_answer(
    status: int, stored: Mapping[str, int] = {}, failed: Mapping[str, int] = {}
) -> Reply:
    """A STOW-RS answer: UIDs with the reason for a warning (0: none) or for a failure."""
    answer = Dataset()
    answer.ReferencedSOPSequence = [
        _item(uid, "WarningReason", code) for uid, code in stored.items()
    ]
    answer.FailedSOPSequence = [_item(uid, "FailureReason", code) for uid, code in failed.items()]
    return status, JSON, json.dumps(answer.to_json_dict()).encode()


def _item(uid: str, keyword: str, code: int) -> Dataset:
    item = Dataset()
    item.ReferencedSOPInstanceUID = uid
    if code:
        setattr(item, keyword, code)
    return item


@dataclass
class WebServer:
    """Keeps what it is sent and gives it back.

    Attributes:
        script: what to do with the next STOW-RS requests; None in place of an answer ends the
            connection. When it is empty everything is stored.
        alter: what is done to an instance before it is kept.
        recode: what is done to one that is asked for in another transfer syntax.
        refuses: reasons of failure by transfer syntax.
        posts: the files of every STOW-RS request.
        seen: method, path and headers of every request.
    """

    alter: Alter = bytes
    recode: Alter = bytes
    deletes: Literal["yes", "no", "says so"] = "yes"
    transcodes: bool = True
    refuses: Mapping[str, int] = field(default_factory=dict)
    script: deque[Script] = field(default_factory=deque)
    posts: list[list[bytes]] = field(default_factory=list)
    seen: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        server = self

        class Handler(_Handler):
            web = server

        self._http = ThreadingHTTPServer((HOST, 0), Handler)
        self._http.daemon_threads = True
        self.port = int(self._http.server_address[1])
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/dicom-web"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def keep(self, files: list[bytes]) -> Reply:
        stored, failed = {}, {}
        for content in files:
            head = dcmread(BytesIO(content), stop_before_pixels=True)
            uid = str(head.SOPInstanceUID)
            reason = self.refuses.get(head.file_meta.TransferSyntaxUID)
            if reason:
                failed[uid] = reason
            else:
                self.stored[uid], stored[uid] = self.alter(content), 0
        status = 200 if not failed else 202 if stored else 409
        return stow_answer(status, stored, failed)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: WebServer

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._note()
        boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])
        assert boundary is not None
        files = [
            part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
            for part in body.split(b"--" + boundary[1].encode())[1:-1]
        ]
        self.web.posts.append(files)
        script = self.web.script.popleft() if self.web.script else self.web.keep
        self._answer(script(files))

    def do_GET(self) -> None:
        self._note()
        path = self.path.partition("?")[0].removeprefix("/dicom-web/").split("/")
        if len(path) == 1:
            self._answer((200, JSON, b"[]"))
            return
        study = [one for one in self.web.stored.values() if path[1] in _uids(one)]
        if path[-1] == "metadata":
            named = [one for one in study if len(path) < 6 or path[5] in _uids(one)]
            facts = [dcmread(BytesIO(one)).to_json_dict() for one in named]
            self._answer((200 if facts else 404, JSON, json.dumps(facts).encode()))
            return
        content = self.web.stored.get(path[5])
        recoded = "syntax=1.2" in self.headers["Accept"]
        if content is None or (recoded and not self.web.transcodes):
            self._answer((404 if content is None else 406, {}, b""))
            return
        content = self.web.recode(content) if recoded else content
        kind = 'multipart/related; type="application/dicom"; boundary=abc'
        body = b"--abc\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--abc--\r\n"
        self._answer((200, {"Content-Type": kind}, body))

    def do_DELETE(self) -> None:
        self._note()
        if self.web.deletes != "yes":
            self._answer((405 if self.web.deletes == "no" else 204, {}, b""))
            return
        study = self.path.rpartition("/")[2]
        gone = [uid for uid, one in self.web.stored.items() if study in _uids(one)]
        for uid in gone:
            del self.web.stored[uid]
        self._answer((204, {}, b"") if gone else (404, {}, b""))

    def _note(self) -> None:
        self.web.seen.append((self.command, self.path, dict(self.headers)))

    def _answer(self, reply: Reply | None) -> None:
        if reply is None:
            self.close_connection = True
            return
        status, headers, body = reply
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _uids(content: bytes) -> list[str]:
    head = dcmread(BytesIO(content), stop_before_pixels=True)
    return [str(head.StudyInstanceUID), str(head.SeriesInstanceUID), str(head.SOPInstanceUID)]
