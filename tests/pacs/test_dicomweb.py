"""DICOMweb against a real Orthanc: the very bytes there and back, logins, TLS."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from certificates import Certificates
from dicomweb_client.api import DICOMwebClient
from pictures import Study, miad
from pydicom import dcmread
from servers import HOST, Server, StartServer, TlsFront
from web_instances import instances_of

from miad_cli.imaging.derivation import embedded_container
from miad_cli.pacs import dicomweb
from miad_cli.pacs.destinations import Destination, Retries
from miad_cli.pacs.dicomweb import DicomwebStore

SECRET = "Sesam-8472"


def declare(folder: Path, url: str, *lines: str) -> Path:
    """A destinations file that declares `there`."""
    path = folder / "destinations.toml"
    path.write_text("\n".join(["[there]", 'purpose = "release"', f'url = "{url}"', *lines, ""]))
    return path


def send(study: Study, destinations: Path, *options: str) -> int:
    return miad(
        "send", study.protected, "--dest", "there", "--destinations", destinations, *options
    )


def held(study: Study) -> dict[str, bytes]:
    """The protected files by UID."""
    return {uid: path.read_bytes() for uid, path in zip(study.uids, study.files, strict=True)}


def without_meta(content: bytes) -> bytes:
    return content[144 + int.from_bytes(content[140:144], "little") :]


def test_what_arrives_are_the_very_bytes(orthanc: Server, study: Study) -> None:
    url = orthanc.web_url
    assert miad("send", study.protected, "--dest", url, "--yes-not-clinical", "--verify") == 0
    assert orthanc.instances() == held(study)


def test_another_client_reads_the_container(orthanc: Server, study: Study) -> None:
    assert miad("send", study.protected, "--dest", orthanc.web_url, "--yes-not-clinical") == 0
    client = DICOMwebClient(orthanc.web_url)
    for path in study.files:
        mine = dcmread(path)
        back = client.retrieve_instance(
            mine.StudyInstanceUID, mine.SeriesInstanceUID, mine.SOPInstanceUID
        )
        assert embedded_container(mine)
        assert embedded_container(back) == embedded_container(mine)


def test_protect_stow_wado_verify_unlock_gives_the_originals(
    orthanc: Server, study: Study, tmp_path: Path
) -> None:
    assert miad("send", study.protected, "--dest", orthanc.web_url, "--yes-not-clinical") == 0
    fetched = tmp_path / "fetched"
    store = DicomwebStore(Destination(name="there", url=orthanc.web_url))
    for one in store.fetch(instances_of(study)):
        assert one.content is not None, one.reason
        place = fetched / one.instance.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(one.content)
    assert miad("verify", fetched) == 0
    assert miad("unlock", fetched, "--key", study.key, "-o", tmp_path / "back") == 0
    originals = {p.relative_to(study.originals): p.read_bytes() for p in files(study.originals)}
    assert {p.relative_to(tmp_path / "back"): p.read_bytes() for p in files(tmp_path / "back")} == (
        originals
    )


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_many_files_go_out_in_batches(
    orthanc: Server, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicomweb, "batches", partial(dicomweb.batches, most=2))
    posts: list[int] = []
    multipart = dicomweb.Multipart
    monkeypatch.setattr(
        dicomweb, "Multipart", lambda files: posts.append(len(files)) or multipart(files)
    )
    store = DicomwebStore(Destination(name="there", url=orthanc.web_url))
    states = [one.state for one in store.send(instances_of(study))]
    assert states == ["stored"] * 3
    assert posts == [2, 1]
    assert orthanc.instances() == held(study)


def test_what_is_no_dicom_does_not_take_the_others_along(
    orthanc: Server, study: Study, tmp_path: Path
) -> None:
    good = instances_of(study)
    bad = instances_of(study, tmp_path / "bad.dcm", b"not a picture")
    store = DicomwebStore(Destination(name="there", url=orthanc.web_url))
    outcomes = {str(one.instance.name): one for one in store.send([good[0], *bad, *good[1:]])}
    assert [one.is_stored for one in outcomes.values()].count(True) == 3
    assert not outcomes["bad.dcm"].is_stored
    assert outcomes["bad.dcm"].exit_code == 10
    assert orthanc.instances() == held(study)


# --- Logins -------------------------------------------------------------------------------


@pytest.fixture
def guarded(start_orthanc: StartServer) -> Server:
    """An Orthanc that knows one user."""
    return start_orthanc(AuthenticationEnabled=True, RegisteredUsers={"release": SECRET})


def auth_lines(place: str, user: str = "release") -> list[str]:
    return ["[there.auth]", f'user = "{user}"', place]


def test_login_from_a_file_or_the_environment(
    guarded: Server, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    secret = tmp_path / "password"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    by_file = declare(tmp_path, guarded.web_url, *auth_lines(f'file = "{secret}"'))
    assert send(study, by_file, "--verify") == 0
    monkeypatch.setenv("PACS_PASSWORD", SECRET)
    by_variable = declare(tmp_path, guarded.web_url, *auth_lines('env = "PACS_PASSWORD"'))
    assert send(study, by_variable, "--verify", "-v") == 0
    said = capfd.readouterr()
    assert SECRET not in said.out + said.err


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "wants a login (HTTP 401)"),
        (auth_lines('env = "PACS_PASSWORD"'), "does not accept the login (HTTP 401)"),
    ],
)
def test_no_login_or_a_wrong_one_is_refused(
    guarded: Server, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], lines: list[str], words: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("PACS_PASSWORD", "wrong-" + SECRET)
    assert send(study, declare(tmp_path, guarded.web_url, *lines)) == 10
    said = capfd.readouterr()
    assert words in said.err
    assert SECRET not in said.out + said.err


# --- TLS ------------------------------------------------------------------------------------


def test_tls_with_an_authority_of_its_own(
    orthanc_tls: Server, study: Study, tmp_path: Path, certificates: Certificates
) -> None:
    lines = ["[there.tls]", f'ca = "{certificates.ca}"']
    assert send(study, declare(tmp_path, orthanc_tls.web_url, *lines), "--verify") == 0
    assert orthanc_tls.instances() == held(study)


def test_an_authority_that_is_not_trusted(
    orthanc_tls: Server, study: Study, tmp_path: Path, certificates: Certificates,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for lines in ([], ["[there.tls]", f'ca = "{certificates.other_ca}"']):
        assert send(study, declare(tmp_path, orthanc_tls.web_url, *lines)) == 10
        assert "its certificate is not trusted" in capfd.readouterr().err
    assert not orthanc_tls.instances()


@pytest.fixture
def front(
    orthanc: Server, certificates: Certificates, request: pytest.FixtureRequest
) -> Iterator[TlsFront]:
    """TLS with the certificate that the test names, before Orthanc."""
    certificate = getattr(certificates, request.param)
    key = getattr(certificates, f"{request.param}_key")
    made = TlsFront(certificate, key, orthanc.http_port)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("front", "words"),
    [("expired", "certificate has expired"), ("elsewhere", "Hostname mismatch")],
    indirect=["front"],
)
def test_a_certificate_that_does_not_hold(
    front: TlsFront, orthanc: Server, study: Study, tmp_path: Path, certificates: Certificates,
    capfd: pytest.CaptureFixture[str], words: str,
) -> None:  # fmt: skip
    url = f"https://localhost:{front.port}/dicom-web"
    lines = ["[there.tls]", f'ca = "{certificates.ca}"']
    assert send(study, declare(tmp_path, url, *lines)) == 10
    assert words in capfd.readouterr().err
    assert not orthanc.instances()


@pytest.mark.parametrize("front", ["elsewhere"], indirect=True)
@pytest.mark.parametrize("line", ["check_host = false", 'server_name = "elsewhere.example"'])
def test_another_name_can_be_asked_for(
    front: TlsFront, orthanc: Server, study: Study, tmp_path: Path, certificates: Certificates,
    line: str,
) -> None:  # fmt: skip
    url = f"https://localhost:{front.port}/dicom-web"
    lines = ["[there.tls]", f'ca = "{certificates.ca}"', line]
    assert send(study, declare(tmp_path, url, *lines)) == 0
    assert orthanc.instances() == held(study)


@pytest.mark.parametrize("front", ["elsewhere"], indirect=True)
def test_only_the_authority_that_is_named_counts(
    front: TlsFront, study: Study, tmp_path: Path, certificates: Certificates,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Not even without a check of the name."""
    url = f"https://localhost:{front.port}/dicom-web"
    lines = ["[there.tls]", f'ca = "{certificates.other_ca}"', "check_host = false"]
    assert send(study, declare(tmp_path, url, *lines)) == 10
    assert "its certificate is not trusted" in capfd.readouterr().err


@pytest.mark.parametrize("front", ["server"], indirect=True)
def test_a_server_that_asks_who_we_are(
    front: TlsFront, orthanc: Server, study: Study, tmp_path: Path, certificates: Certificates,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    front._context.verify_mode = ssl.CERT_REQUIRED
    front._context.load_verify_locations(certificates.ca)
    url = f"https://localhost:{front.port}/dicom-web"
    lines = ["[there.tls]", f'ca = "{certificates.ca}"']
    assert send(study, declare(tmp_path, url, *lines)) == 10
    assert "does it want a certificate of ours?" in capfd.readouterr().err
    ours = [f'cert = "{certificates.client}"', f'key = "{certificates.client_key}"']
    assert send(study, declare(tmp_path, url, *lines, *ours)) == 0
    assert orthanc.instances() == held(study)


def test_tls_to_a_port_without_it(
    orthanc: Server, study: Study, capfd: pytest.CaptureFixture[str]
) -> None:
    url = orthanc.web_url.replace("http:", "https:")
    assert miad("send", study.protected, "--dest", url, "--yes-not-clinical") == 10
    assert "there is no TLS 1.2 or later to be had" in capfd.readouterr().err


# --- Nobody there -----------------------------------------------------------------------------


def test_nobody_listens(study: Study, capfd: pytest.CaptureFixture[str]) -> None:
    url = f"http://{HOST}:1/dicom-web"
    assert miad("send", study.protected, "--dest", url, "--yes-not-clinical") == 10
    assert "nobody listens there" in capfd.readouterr().err


def test_no_such_service_at_the_url(
    orthanc: Server, study: Study, capfd: pytest.CaptureFixture[str]
) -> None:
    url = f"{orthanc.http_url}/nothing-here"
    assert miad("send", study.protected, "--dest", url, "--yes-not-clinical", "--json") == 10
    assert "Is the path right?" in json.loads(capfd.readouterr().out)["hint"]


def test_a_server_that_dies_loses_nothing_that_is_sent_again(
    start_orthanc: StartServer, study: Study
) -> None:
    """Killed after it was asked; it is back when patience has waited once."""
    server = start_orthanc()
    waited: list[float] = []

    def restart(seconds: float) -> None:
        waited.append(seconds)
        server.start()

    destination = Destination(name="there", url=server.web_url, retries=Retries(times=3, delay=2))
    store = DicomwebStore(destination, pause=restart)
    store.check()
    server.kill()
    outcomes: list[Any] = list(store.send(instances_of(study)))
    assert [one.state for one in outcomes] == ["stored"] * 3
    assert [one.attempts for one in outcomes] == [2] * 3
    assert waited == [2]
    assert {uid: without_meta(one) for uid, one in server.instances().items()} == {
        uid: without_meta(one) for uid, one in held(study).items()
    }
    assert BytesIO(next(iter(server.instances().values()))).read(132)[128:] == b"DICM"
