"""--verify: what the PACS gives back is compared, and nothing that it says is believed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from helpers import OWNER
from pictures import Study, miad, protect_file
from pydicom import Dataset, dcmread
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, Verification
from pyrage import x25519
from servers import HOST, free_port

from miad_cli.pacs.destinations import Destination
from miad_cli.pacs.outcome import Fetched, Instance, Outcome, State
from miad_cli.send import SendReport, Wishes, send_study

Alter = Callable[[bytes], bytes]
THERE = Destination(
    name="there", purpose="release", aet="A", host=HOST, port=104, retries={"times": 0}
)


class Altering:
    """A PACS that changes what it is given."""

    def __init__(self, alter: Alter, status: int = 0) -> None:
        self._alter, self._status = alter, status

    def check(self) -> None:
        pass

    def send(self, instances: Sequence[Instance]) -> Iterator[Outcome]:
        state: State = "failed" if self._status else "stored"
        code = 10 if self._status else 0
        return (Outcome(one, state, self._status, exit_code=code) for one in instances)

    def fetch(self, instances: Sequence[Instance]) -> Iterator[Fetched]:
        return (Fetched(one, self._alter(one.read())) for one in instances)


def altered(change: Callable[[Dataset], None]) -> Alter:
    def alter(content: bytes) -> bytes:
        dataset = dcmread(BytesIO(content))
        change(dataset)
        target = BytesIO()
        dataset.save_as(target, enforce_file_format=True)
        return target.getvalue()

    return alter


def read_back(study: Study, alter: Alter) -> SendReport:
    return send_study(
        [study.files[0]], THERE, [OWNER.public], Wishes(read_back=True), store=Altering(alter)
    )


def test_the_same_bytes_are_the_same(study: Study) -> None:
    report = read_back(study, lambda content: content)

    assert report.exit_code == 0 and report.files[0].read_back is True


def one_pixel(dataset: Dataset) -> None:
    dataset.PixelData = bytes([dataset.PixelData[0] ^ 1]) + dataset.PixelData[1:]


def no_private_block(dataset: Dataset) -> None:
    dataset.remove_private_tags()


def other_window(dataset: Dataset) -> None:
    dataset.WindowWidth = 17


def other_uid(dataset: Dataset) -> None:
    dataset.SOPInstanceUID = "1.2.3"


def name_and_number(dataset: Dataset) -> None:
    dataset.PatientName, dataset.PatientID = "Corrected^Name", "42"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (one_pixel, "other pixels"),
        (no_private_block, "dropped the container"),
        (other_window, "geometry, display or UIDs"),
        (other_uid, "another instance"),
    ],
)
def test_change_is_found(study: Study, change: Callable[[Dataset], None], sentence: str) -> None:
    report = read_back(study, altered(change))

    assert report.exit_code == 6
    assert report.files[0].state == "failed" and report.files[0].read_back is False
    assert sentence in report.files[0].reason


def test_patient_attributes_that_the_pacs_corrects_are_no_failure(study: Study) -> None:
    report = read_back(study, altered(name_and_number))

    assert report.exit_code == 0 and report.files[0].read_back is True


def test_container_of_another_sealing_is_found(study: Study, tmp_path: Path) -> None:
    again = tmp_path / "again.dcm"
    original = study.originals / study.files[0].relative_to(study.protected)
    protect_file(original, again, x25519.Identity.generate().to_public())

    report = read_back(study, lambda content: again.read_bytes())

    assert report.exit_code == 6 and "another container" in report.files[0].reason


@pytest.mark.parametrize("content", [b"", b"nothing", bytes(128) + b"DICM"])
def test_what_cannot_be_read_is_found(study: Study, content: bytes) -> None:
    report = read_back(study, lambda sent: content)

    assert report.exit_code == 6 and "cannot be read" in report.files[0].reason


# --- A UID that is there already ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code", "state"),
    [(name_and_number, 0, "stored"), (one_pixel, 10, "failed"), (no_private_block, 10, "failed")],
)
def test_duplicate_is_stored_only_if_it_is_the_same(
    study: Study, change: Callable[[Dataset], None], code: int, state: str
) -> None:
    """0x0111, as after a run that was killed between the answer and its note."""
    store = Altering(altered(change), status=0x0111)
    report = send_study([study.protected], THERE, [OWNER.public], store=store)
    again = send_study([study.protected], THERE, [OWNER.public], Wishes(resume=True), store=store)

    assert report.exit_code == code
    assert {one.state for one in report.files} == {state}
    assert {one.state for one in again.files} == ({"kept"} if state == "stored" else {"failed"})


# --- UIDs from the network --------------------------------------------------------------------


@contextmanager
def evil_archive(uid: str, listed: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """An archive that stores everything, lists that and `uid`, and gives back only `uid`."""
    asked: list[str] = []
    evil = Dataset()
    evil.SOPClassUID, evil.PatientName = CTImageStorage, "Nobody"
    evil.file_meta = dcm_meta()

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        asked.append("C-FIND")
        for one in (uid, *listed):
            answer = Dataset()
            answer.QueryRetrieveLevel = "IMAGE"
            answer.SOPInstanceUID = one
            yield 0xFF00, answer

    def get(event: evt.Event) -> Iterator[Any]:
        asked.append("C-GET")
        yield 1
        evil.SOPInstanceUID = uid
        yield 0xFF00, evil

    entity = AE(ae_title="EVIL")
    entity.add_supported_context(Verification)
    entity.add_supported_context(CTImageStorage, scu_role=True, scp_role=True)
    entity.add_supported_context("1.2.840.10008.5.1.4.1.2.2.1")
    entity.add_supported_context("1.2.840.10008.5.1.4.1.2.2.3")
    port = free_port()
    handlers = [
        (evt.EVT_C_STORE, lambda event: 0x0000),
        (evt.EVT_C_FIND, find),
        (evt.EVT_C_GET, get),
    ]
    server = entity.start_server((HOST, port), block=False, evt_handlers=handlers)
    try:
        yield port, asked
    finally:
        server.shutdown()


def dcm_meta() -> Any:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


@pytest.mark.filterwarnings("ignore:.*UI.*:UserWarning")
def test_uid_from_the_network_is_never_a_path(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "deep" / "work"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    before = sorted(tmp_path.rglob("*"))
    with evil_archive("../../evil", study.uids) as (port, asked):
        toml = study.home / "destinations.toml"
        toml.write_text(
            f'[evil]\npurpose = "release"\naet = "EVIL"\nhost = "{HOST}"\nport = {port}\n'
            "[evil.retries]\ntimes = 0\n"
        )
        code = miad("send", study.protected, "--dest", "evil", "--verify", "--json")

    said = json.loads(capfd.readouterr().out)
    assert code == 10 and {one["read_back"] for one in said["files"]} == {False}
    assert {"C-FIND", "C-GET"} == set(asked)
    assert "evil" not in json.dumps(said["files"])
    assert sorted(tmp_path.rglob("*")) == before
