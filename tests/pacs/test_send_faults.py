"""Everything that goes wrong at the other end: what is said, what is tried again, what is left."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from certificates import Certificates
from helpers import OWNER
from pictures import Study, make_study, miad
from pydicom import dcmread
from scp import Scp, scp
from servers import HOST, Server, StartServer, free_port

from miad_cli.pacs.destinations import Destination, Retries
from miad_cli.pacs.store import DimseStore
from miad_cli.send import FileReport, Wishes, send_study

QUICK = """
[there]
purpose = "release"
aet = "{aet}"
host = "{host}"
port = {port}
[there.retries]
times = {times}
delay = 0.05
longest = 0.2
[there.timeouts]
connect = 3
associate = 3
message = 3
"""

Send = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def send(tmp_path: Path, study: Study, capfd: pytest.CaptureFixture[str]) -> Send:
    """Send the study to a place that is declared with little patience: exit code and JSON."""

    def call(
        place: Scp | Server, *options: object, more: str = "", host: str = HOST, times: int = 3
    ) -> tuple[int, dict[str, Any]]:
        toml = tmp_path / "destinations.toml"
        facts = {"aet": place.aet, "host": host, "port": place.port, "times": times}
        toml.write_text(QUICK.format(**facts) + more)
        capfd.readouterr()
        code = miad(
            "send", study.protected, "--dest", "there", "--destinations", toml, "--json", *options
        )
        return code, json.loads(capfd.readouterr().out)

    return call


def states(said: dict[str, Any]) -> list[str]:
    return [one["state"] for one in said["files"]]


def pixels_of(study: Study) -> dict[str, bytes]:
    return {str(one.SOPInstanceUID): one.PixelData for one in map(dcmread, study.files)}


def arrived(seen: Scp) -> dict[str, bytes]:
    return {uid: dcmread(BytesIO(content)).PixelData for uid, content in seen.got.items()}


# --- Nobody there -----------------------------------------------------------------------------


def test_connection_refused(send: Send) -> None:
    code, said = send(Scp(free_port()))

    assert code == 10
    assert "refused" in said["error"] and said["exit_code"] == 10


def test_unknown_host(send: Send) -> None:
    code, said = send(Scp(104), host="no-such-host.invalid")

    assert code == 10 and "host name is not known" in said["error"]


def test_somebody_who_never_answers(send: Send) -> None:
    with socket.create_server((HOST, 0)) as mute:
        started = time.monotonic()
        code, said = send(Scp(mute.getsockname()[1]))

    assert code == 10 and "no answer came" in said["error"]
    assert time.monotonic() - started < 10


def test_something_that_is_not_dicom(send: Send) -> None:
    with _speaking(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n") as port:
        code, said = send(Scp(port))

    assert code == 10 and "not DICOM" in said["error"]


@contextmanager
def _speaking(words: bytes) -> Iterator[int]:
    with socket.create_server((HOST, 0)) as listener:

        def serve() -> None:
            taken, _ = listener.accept()
            with taken:
                taken.recv(1 << 16)
                taken.sendall(words)
                taken.recv(1 << 16)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("demand", "sentence"), [("called", "It is not called"), ("calling", "does not know MIAD")]
)
def test_rejected_association(send: Send, demand: str, sentence: str) -> None:
    with scp(**{demand: "SOMEBODY"}) as place:
        code, said = send(Scp(place.port))

    assert code == 10
    assert "rejected" in said["error"] and sentence in said["hint"]


# --- Statuses ---------------------------------------------------------------------------------


def test_busy_is_tried_again_until_it_is_stored(send: Send, study: Study) -> None:
    with scp(lambda number, uid: 0xA700 if number in (2, 3) else 0) as place:
        code, said = send(place)

    assert code == 0 and states(said) == ["stored"] * 3
    assert sorted(one["attempts"] for one in said["files"]) == [1, 1, 3]
    assert arrived(place) == pixels_of(study)


def test_busy_without_end_fails_after_a_few_times(send: Send) -> None:
    with scp(lambda number, uid: 0xA701) as place:
        code, said = send(place, times=2)

    assert code == 10 and states(said) == ["failed"] * 3
    assert {one["attempts"] for one in said["files"]} == {3}
    assert "no room" in said["files"][0]["reason"]


def test_warning_is_stored_and_counted(send: Send, study: Study) -> None:
    with scp(lambda number, uid: 0xB000 if number == 2 else 0) as place:
        code, said = send(place)

    assert code == 0
    assert said["counts"] == {"stored": 2, "stored with warning": 1}
    assert set(place.got) == set(study.uids)
    warned = next(one for one in said["files"] if one["state"] == "stored with warning")
    assert warned["status"] == 0xB000 and "0xB000" in warned["reason"]


@pytest.mark.parametrize("status", [0x0122, 0x0110, 0x0124, 0xA900, 0xC000, 0xC123, 0x1234])
def test_refusal_is_listed_and_not_tried_again(send: Send, study: Study, status: int) -> None:
    with scp(lambda number, uid: status if number == 1 else 0) as place:
        code, said = send(place)

    assert code == 10
    assert sorted(states(said)) == ["failed", "stored", "stored"]
    failed = next(one for one in said["files"] if one["state"] == "failed")
    assert failed["status"] == status and f"0x{status:04X}" in failed["reason"]
    assert place.requests.count(failed["sop_instance_uid"]) == 1


def test_sop_class_that_is_not_taken(send: Send) -> None:
    with scp(classes=["1.2.840.10008.5.1.4.1.1.4"]) as place:
        code, said = send(place)

    assert code == 10 and states(said) == ["failed"] * 3
    assert "no objects of this kind" in said["files"][0]["reason"]
    assert not place.requests


def test_duplicate_that_cannot_be_compared_fails(send: Send) -> None:
    with scp(lambda number, uid: 0x0111) as place:
        code, said = send(place)

    assert code == 10 and states(said) == ["failed"] * 3
    assert "another instance of this UID" in said["files"][0]["reason"]


# --- Lost associations ------------------------------------------------------------------------


def test_abort_in_mid_series(send: Send, study: Study) -> None:
    with scp(lambda number, uid: None if number == 2 else 0) as place:
        code, said = send(place)

    assert code == 0 and states(said) == ["stored"] * 3
    assert arrived(place) == pixels_of(study)
    assert len(place.associations) == 3  # C-ECHO, and one more than is needed


def test_instance_that_always_ends_the_association_does_not_stop_the_others(
    send: Send, study: Study
) -> None:
    poison = study.uids[0]
    with scp(lambda number, uid: None if uid == poison else 0) as place:
        code, said = send(place, times=2)

    assert code == 10
    failed = [one for one in said["files"] if one["state"] == "failed"]
    assert [one["sop_instance_uid"] for one in failed] == [poison]
    assert failed[0]["attempts"] == 3
    assert set(place.got) == set(study.uids) - {poison}


@pytest.mark.parametrize("answer", [None, 0xA700], ids=["aborts", "is busy"])
def test_pacs_that_takes_nothing_is_not_waited_for_without_end(
    tmp_path: Path, answer: int | None
) -> None:
    study = make_study(tmp_path / "many", slices=8)
    pauses: list[float] = []
    with scp(lambda number, uid: answer) as place:
        there = Destination(name="there", purpose="release", aet=place.aet, host=HOST,
                            port=place.port, retries=Retries(times=2))  # fmt: skip
        report = send_study([study.protected], there, [OWNER.public],
                            store=DimseStore(there, pause=pauses.append))  # fmt: skip

    assert report.exit_code == 10
    assert {one.state for one in report.files} == {"failed"} and len(report.files) == 8
    assert len(pauses) <= 9 and max(pauses) <= 4


class Murder:
    """Kills a server as soon as the first instance is settled, and starts it again if wanted."""

    def __init__(self, server: Server, *, again: bool) -> None:
        self._server, self._again, self.happened = server, again, False

    def __call__(self, one: FileReport, total: int) -> None:
        if not self.happened:
            self.happened = True
            self._server.kill()
            if self._again:
                self._server.start()


def patient(server: Server, **settings: Any) -> Destination:
    """The server, declared for releases."""
    return Destination(
        name="there",
        is_declared=True,
        purpose="release",
        aet=server.aet,
        host=server.host,
        port=server.port,
        retries=Retries(**{"times": 5, "delay": 0.1, "longest": 1, **settings}),
    )


def test_pacs_killed_and_restarted(study: Study, start_orthanc: StartServer) -> None:
    server = start_orthanc()
    murder = Murder(server, again=True)

    report = send_study(
        [study.protected], patient(server), [OWNER.public], Wishes(read_back=True), progress=murder
    )

    assert murder.happened and report.exit_code == 0
    assert [one.read_back for one in report.files] == [True] * 3
    assert set(server.instances()) == set(study.uids)


def test_pacs_killed_for_good_and_the_rest_sent_later(
    study: Study, start_orthanc: StartServer
) -> None:
    server = start_orthanc()
    place = patient(server, times=2)

    report = send_study(
        [study.protected], place, [OWNER.public], progress=Murder(server, again=False)
    )
    server.start()
    kept = set(server.instances())
    resumed = send_study([study.protected], place, [OWNER.public], Wishes(resume=True))

    assert report.exit_code == 10
    assert [one.state for one in report.files].count("failed") == 2
    assert "refused" in next(one.reason for one in report.files if one.state == "failed")
    assert len(kept) == 1
    assert resumed.exit_code == 0
    assert sorted(one.state for one in resumed.files) == ["kept", "stored", "stored"]
    assert set(server.instances()) == set(study.uids)


# --- The same UID -----------------------------------------------------------------------------


def test_pacs_that_has_the_instance_already(send: Send, study: Study, orthanc: Server) -> None:
    send(orthanc)
    code, said = send(orthanc, "--verify")

    assert code == 0 and states(said) == ["stored"] * 3
    assert [one["read_back"] for one in said["files"]] == [True] * 3


def test_pacs_that_keeps_other_pixels_under_the_uid_is_found_out(
    send: Send, study: Study, orthanc: Server
) -> None:
    """Orthanc answers 0x0000 and keeps what it had."""
    other = dcmread(study.files[0])
    other.PixelData = bytes(len(other.PixelData))
    stranger = study.files[0].with_name("stranger.dcm")
    other.save_as(stranger)
    orthanc.rest_file("POST", "/instances", stranger.read_bytes())
    stranger.unlink()

    blind, _ = send(orthanc)
    code, said = send(orthanc, "--verify", "--resume")

    assert blind == 0
    assert code == 6
    failed = next(one for one in said["files"] if one["state"] == "failed")
    assert failed["sop_instance_uid"] == str(other.SOPInstanceUID)
    assert "other pixels" in failed["reason"] and failed["read_back"] is False


# --- TLS --------------------------------------------------------------------------------------

TLS = """
[there.tls]
ca = "{ca}"
cert = "{cert}"
key = "{key}"
"""


@pytest.fixture
def tls_scp(certificates: Certificates) -> Callable[..., Any]:
    """An SCP behind TLS that wants a certificate of the caller's."""

    def start(certificate: str = "server", **settings: Any) -> Any:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        chain = getattr(certificates, certificate), getattr(certificates, f"{certificate}_key")
        context.load_cert_chain(*chain)
        context.load_verify_locations(certificates.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        for name, value in settings.items():
            setattr(context, name, value)
        return scp(tls=context)

    return start


def tls_of(certificates: Certificates, **other: object) -> str:
    facts = {"ca": certificates.ca, "cert": certificates.client, "key": certificates.client_key}
    return TLS.format(**{**facts, **other})


def test_tls_with_both_certificates(
    send: Send, study: Study, tls_scp: Callable[..., Any], certificates: Certificates
) -> None:
    with tls_scp() as place:
        code, said = send(place, more=tls_of(certificates))

    assert code == 0, said
    assert arrived(place) == pixels_of(study)


def test_plaintext_to_a_tls_port(send: Send, tls_scp: Callable[..., Any]) -> None:
    with tls_scp() as place:
        code, said = send(place)

    assert code == 10 and "TLS" in said["hint"]
    assert not place.got


def test_tls_to_a_plain_port(send: Send, certificates: Certificates) -> None:
    with scp() as place:
        code, said = send(place, more=tls_of(certificates))

    assert code == 10 and "TLS" in said["error"] + said["hint"]
    assert not place.got


@pytest.mark.parametrize(
    ("certificate", "sentence"),
    [("expired", "expired"), ("elsewhere", "not valid for")],
)
def test_certificate_that_is_not_to_be_trusted(
    send: Send,
    tls_scp: Callable[..., Any],
    certificates: Certificates,
    certificate: str,
    sentence: str,
) -> None:
    with tls_scp(certificate) as place:
        code, said = send(place, more=tls_of(certificates))

    assert code == 10
    assert "not trusted" in said["error"] and sentence in said["error"]
    assert not place.got


def test_wrong_authority(
    send: Send, tls_scp: Callable[..., Any], certificates: Certificates
) -> None:
    with tls_scp() as place:
        code, said = send(place, more=tls_of(certificates, ca=certificates.other_ca))

    assert code == 10 and "not trusted" in said["error"]
    assert not place.got


def test_host_name_is_checked_unless_told_otherwise(
    send: Send, study: Study, tls_scp: Callable[..., Any], certificates: Certificates
) -> None:
    more = tls_of(certificates) + "check_host = false\n"
    with tls_scp("elsewhere") as place:
        code, _ = send(place, more=more)

    assert code == 0 and set(place.got) == set(study.uids)


def test_server_that_wants_a_certificate_we_do_not_show(
    send: Send, tls_scp: Callable[..., Any], certificates: Certificates
) -> None:
    with tls_scp() as place:
        code, said = send(place, more=f'[there.tls]\nca = "{certificates.ca}"\n')

    assert code == 10 and "certificate" in said["hint"]
    assert not place.got


def test_nothing_older_than_tls_1_2(
    send: Send, tls_scp: Callable[..., Any], certificates: Certificates
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that is the point
        old = tls_scp(minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)
    with old as place:
        code, said = send(place, more=tls_of(certificates))

    assert code == 10 and "TLS" in said["error"]
    assert not place.got


def test_key_under_a_passphrase(
    send: Send, study: Study, tls_scp: Callable[..., Any], certificates: Certificates
) -> None:
    more = tls_of(certificates, key=certificates.client_locked_key)
    command = f"printf %s '{certificates.passphrase}'"
    with tls_scp() as place:
        without, _ = send(place, "--no-input", more=more)
        wrong, _ = send(place, "--passphrase-command", "echo wrong", more=more)
        code, _ = send(place, "--passphrase-command", command, more=more)

    assert (without, wrong, code) == (7, 7, 0)
    assert set(place.got) == set(study.uids)
