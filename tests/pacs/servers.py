"""Real servers on loopback, each in a folder of its own, ended by their process id.

Orthanc (with its DICOMweb plugin), and storescp and dcmqrscp of DCMTK. None of them can be told
to listen on loopback alone, so they are started with `loopback.c` in front of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

HOST = "127.0.0.1"
ORTHANC_PLUGINS = (Path("/usr/share/orthanc/plugins"), Path("/usr/lib/orthanc/plugins"))
DEBIAN = {
    "cc": "gcc",
    "Orthanc": "orthanc",
    "libOrthancDicomWeb.so": "orthanc-dicomweb",
}
"""Debian's package of a program; those that are not named are in dcmtk."""


def need(name: str) -> str:
    """The path of a program or plugin. Where it is missing the test is skipped; in CI it fails.

    Programs beside this Python do not count: pynetdicom brings some with the names of DCMTK's.
    """
    beside = Path(sys.executable).parent
    places = [one for one in os.get_exec_path() if Path(one) != beside]
    found = shutil.which(name, path=os.pathsep.join([*places, "/usr/sbin"]))
    if name.endswith(".so"):
        there = [place / name for place in ORTHANC_PLUGINS if (place / name).exists()]
        found = str(there[0]) if there else None
    if found is None:
        message = f"{name} is not installed (Debian: {DEBIAN.get(name, 'dcmtk')})"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def build_loopback(folder: Path) -> Path:
    """The library that keeps a server on loopback."""
    library = folder / "loopback.so"
    source = Path(__file__).with_name("loopback.c")
    line = [need("cc"), "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(line, check=True, capture_output=True)
    return library


def _end_with_parent() -> None:
    """In the child: be killed when the tests are, so that no server outlives them (Linux)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@dataclass
class Server:
    """A server process that can be killed and started again in the same place.

    Attributes:
        line: the command line.
        folder: where it keeps what it is given.
        http_port: of Orthanc, with REST at `/` and DICOMweb at `/dicom-web`; 0 for the others.
        https_port: of a `TlsFront` before that port, or 0.
    """

    aet: str
    port: int
    line: Sequence[str]
    folder: Path
    preload: Path
    http_port: int = 0
    https_port: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    host: str = HOST

    @property
    def dest(self) -> str:
        """As `--dest` takes it."""
        return f"{self.aet}@{self.host}:{self.port}"

    @property
    def http_url(self) -> str:
        return f"http://{self.host}:{self.http_port}"

    @property
    def web_url(self) -> str:
        """The DICOMweb service; https where TLS stands before it."""
        if self.https_port:
            return f"https://localhost:{self.https_port}/dicom-web"
        return f"{self.http_url}/dicom-web"

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")

    def start(self) -> Server:
        """Start it and wait until it listens."""
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                self.line,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.environment, "LD_PRELOAD": str(self.preload)},
                preexec_fn=_end_with_parent,  # noqa: PLW1509  # it does one system call
            )
        for port in filter(None, (self.port, self.http_port)):
            self._wait_for(port)
        return self

    def _wait_for(self, port: int) -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            if self.process is None or self.process.poll() is not None:
                pytest.fail(f"{self.line[0]} ended at once:\n{self.log}")
            try:
                socket.create_connection((self.host, port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        pytest.fail(f"{self.line[0]} does not listen on {port}:\n{self.log}")

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, by its process id."""
        process, self.process = self.process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        self.end(signal.SIGKILL)

    # --- Orthanc's own interface ----------------------------------------------------------

    def rest(self, method: str, path: str, content: object = None) -> Any:
        """What Orthanc's REST interface answers: JSON, or bytes."""
        return self.rest_file(
            method, path, None if content is None else json.dumps(content).encode()
        )

    def rest_file(self, method: str, path: str, sent: bytes | None) -> Any:
        """The same with bytes instead of JSON."""
        request = urllib.request.Request(f"{self.http_url}{path}", sent, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            got = answer.read()
            if "json" in answer.headers.get("Content-Type", ""):
                return json.loads(got)
            return got

    def instances(self) -> dict[str, bytes]:
        """Every instance that Orthanc holds, as a file, by its SOP Instance UID."""
        held = {}
        for one in self.rest("GET", "/instances?expand"):
            uid = one["MainDicomTags"]["SOPInstanceUID"]
            held[uid] = self.rest("GET", f"/instances/{one['ID']}/file")
        return held

    def clear(self) -> None:
        """Forget every patient."""
        for patient in self.rest("GET", "/patients"):
            self.rest("DELETE", f"/patients/{patient}")

    def introduce(self, aet: str, port: int, tls: bool = False) -> None:
        """Tell Orthanc where an application entity listens (C-MOVE, storage commitment)."""
        facts = {"AET": aet, "Host": self.host, "Port": port, "UseDicomTls": tls}
        self.rest("PUT", f"/modalities/{aet}", facts)


StartServer = Callable[..., Server]


class TlsFront:
    """TLS before a server that speaks without: what comes in at `port` goes on to `behind`.

    Debian's Orthanc ends when it is asked over HTTPS, so this does it instead.
    """

    def __init__(self, certificate: Path, key: Path, behind: int) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._behind = behind
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                taken, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=(taken,), daemon=True).start()

    def _pass_on(self, taken: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as open_sockets:
            open_sockets.enter_context(taken)
            outer = open_sockets.enter_context(self._context.wrap_socket(taken, server_side=True))
            inner = open_sockets.enter_context(socket.create_connection((HOST, self._behind)))
            while True:
                waiting = [outer] if outer.pending() else select.select([outer, inner], [], [])[0]
                for one in waiting:
                    got = one.recv(65536)
                    if not got:
                        return
                    (inner if one is outer else outer).sendall(got)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def make_orthanc(
    folder: Path, preload: Path, *, tls: tuple[Path, Path, Path] | None = None, **settings: Any
) -> Server:
    """An Orthanc that is not started yet; `tls` is its certificate, its key and the CA."""
    folder.mkdir(parents=True, exist_ok=True)
    port, http_port = free_port(), free_port()
    facts: dict[str, Any] = {
        "Name": "tests",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [need("libOrthancDicomWeb.so")],
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": "ORTHANC",
        "DicomPort": port,
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True,
        "StableAge": 1,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": True},
    }
    if tls is not None:
        certificate, key, trusted = tls
        facts |= {
            "DicomTlsEnabled": True,
            "DicomTlsCertificate": str(certificate),
            "DicomTlsPrivateKey": str(key),
            "DicomTlsTrustedCertificates": str(trusted),
            "DicomTlsRemoteCertificateRequired": True,
        }
    place = folder / "orthanc.json"
    place.write_text(json.dumps(facts | settings))
    line = [need("Orthanc"), str(place)]
    return Server("ORTHANC", port, line, folder, preload, http_port)


def make_storescp(folder: Path, preload: Path, *options: str) -> Server:
    """DCMTK's storescp that is not started yet; what it gets is written to `folder`/stored."""
    (folder / "stored").mkdir(parents=True, exist_ok=True)
    port = free_port()
    line = [need("storescp"), "--aetitle", "STORESCP", "--output-directory", str(folder / "stored")]
    line += ["+B", *options, str(port)]
    return Server("STORESCP", port, line, folder, preload)


def make_dcmqrscp(folder: Path, preload: Path, peers: Mapping[str, int] | None = None) -> Server:
    """DCMTK's dcmqrscp (archive `QRSCP`) that is not started yet; `peers` may be moved to."""
    archive = folder / "archive"
    archive.mkdir(parents=True, exist_ok=True)
    port = free_port()
    hosts = [f"h{n} = ({aet}, {HOST}, {to})" for n, (aet, to) in enumerate((peers or {}).items())]
    place = folder / "dcmqrscp.cfg"
    place.write_text(
        "\n".join(
            [
                f"NetworkTCPPort = {port}",
                "MaxPDUSize = 131072",
                "MaxAssociations = 16",
                "HostTable BEGIN",
                *hosts,
                "HostTable END",
                "VendorTable BEGIN",
                "VendorTable END",
                "AETable BEGIN",
                f"QRSCP {archive} RW (200, 1024mb) ANY",
                "AETable END",
                "",
            ]
        )
    )
    return Server("QRSCP", port, [need("dcmqrscp"), "-c", str(place)], folder, preload)
