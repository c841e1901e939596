"""What the tests of the PACS share: servers on loopback, certificates, protected pictures.

`orthanc` and `orthanc_tls` are started once for all tests and emptied before each; a test that
wants to kill one starts its own with `start_orthanc`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from certificates import Certificates, make_certificates
from pictures import Study, copy_study, make_study
from servers import (
    Server,
    StartServer,
    TlsFront,
    build_loopback,
    make_dcmqrscp,
    make_orthanc,
    make_storescp,
)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library in front of a server's `bind`, so that it listens on loopback only."""
    return build_loopback(tmp_path_factory.mktemp("loopback"))


@pytest.fixture(scope="session")
def _orthanc(tmp_path_factory: pytest.TempPathFactory, loopback: Path) -> Iterator[Server]:
    server = make_orthanc(tmp_path_factory.mktemp("orthanc"), loopback)
    try:
        yield server.start()
    finally:
        server.kill()


@pytest.fixture(scope="session")
def _orthanc_tls(
    tmp_path_factory: pytest.TempPathFactory, loopback: Path, certificates: Certificates
) -> Iterator[Server]:
    files = (certificates.server, certificates.server_key, certificates.ca)
    server = make_orthanc(tmp_path_factory.mktemp("orthanc-tls"), loopback, tls=files)
    front = TlsFront(certificates.server, certificates.server_key, server.http_port)
    server.https_port = front.port
    try:
        yield server.start()
    finally:
        server.kill()
        front.close()


@pytest.fixture
def orthanc(_orthanc: Server) -> Server:
    """An empty Orthanc with DICOM (`dest`, `aet`, `port`) and DICOMweb (`web_url`)."""
    _orthanc.clear()
    return _orthanc


@pytest.fixture
def orthanc_tls(_orthanc_tls: Server) -> Server:
    """The same over TLS. DICOM asks for a client's certificate, `web_url` (https) does not."""
    _orthanc_tls.clear()
    return _orthanc_tls


@pytest.fixture
def _started() -> Iterator[Callable[[Server], Server]]:
    """Starts servers, and ends them after the test."""
    servers: list[Server] = []

    def start(server: Server) -> Server:
        servers.append(server)
        return server.start()

    try:
        yield start
    finally:
        for server in servers:
            server.kill()  # what it holds is not needed any more, and Orthanc takes its time


@pytest.fixture
def start_orthanc(
    tmp_path_factory: pytest.TempPathFactory, loopback: Path, _started: Callable[[Server], Server]
) -> StartServer:
    """Start an Orthanc of this test's own; settings of its configuration as keywords."""

    def start(**settings: Any) -> Server:
        return _started(make_orthanc(tmp_path_factory.mktemp("orthanc"), loopback, **settings))

    return start


@pytest.fixture
def start_storescp(
    tmp_path_factory: pytest.TempPathFactory, loopback: Path, _started: Callable[[Server], Server]
) -> StartServer:
    """Start a storescp of this test's own with more options."""

    def start(*options: str) -> Server:
        return _started(make_storescp(tmp_path_factory.mktemp("storescp"), loopback, *options))

    return start


@pytest.fixture
def storescp(start_storescp: StartServer) -> Server:
    """DCMTK's storescp; what it gets lies in `folder / "stored"`."""
    return start_storescp()


@pytest.fixture
def start_dcmqrscp(
    tmp_path_factory: pytest.TempPathFactory, loopback: Path, _started: Callable[[Server], Server]
) -> StartServer:
    """Start DCMTK's dcmqrscp; `peers` maps application entities to ports it may move to."""

    def start(peers: dict[str, int] | None = None) -> Server:
        return _started(make_dcmqrscp(tmp_path_factory.mktemp("dcmqrscp"), loopback, peers))

    return start


@pytest.fixture
def dcmqrscp(start_dcmqrscp: StartServer) -> Server:
    return start_dcmqrscp()


# --- Protected pictures -------------------------------------------------------------------


@pytest.fixture(scope="session")
def _study_once(tmp_path_factory: pytest.TempPathFactory) -> Study:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAD_HOME", str(tmp_path_factory.mktemp("home")))
        return make_study(tmp_path_factory.mktemp("study"), slices=3)


@pytest.fixture
def study(_study_once: Study, tmp_path: Path) -> Study:
    """Three slices of two series in two folders, protected, and this machine trusts the owner."""
    return copy_study(_study_once, tmp_path)
