"""pacs-check: what it says of servers that keep everything, and of those that do not."""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from certificates import Certificates
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, generate_uid
from servers import Server
from web import WebServer

from miad_cli.app import run
from miad_cli.probe import PATIENT_ID, PATIENT_NAME, PICTURES

ALL = list(PICTURES)


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def of(self, way: str) -> dict[str, dict[str, Any]]:
        """The findings on one way, by picture."""
        return {one["picture"]: one for one in self.json["findings"] if one["way"] == way}


Check = Callable[..., Said]


@pytest.fixture
def check(capfd: pytest.CaptureFixture[str]) -> Check:
    def call(dest: str, *options: str) -> Said:
        capfd.readouterr()
        code = run(["pacs-check", dest, "--yes-not-clinical", *options])
        said = capfd.readouterr()
        return Said(code, said.out, said.err)

    return call


@pytest.fixture
def web() -> Iterator[WebServer]:
    server = WebServer()
    yield server
    server.close()


def rewritten(change: Callable[[Dataset], object]) -> Callable[[bytes], bytes]:
    """What a server keeps that changes every instance."""

    def alter(content: bytes) -> bytes:
        dataset = dcmread(BytesIO(content))
        change(dataset)
        target = BytesIO()
        dcmwrite(target, dataset, enforce_file_format=True)
        return target.getvalue()

    return alter


# --- Servers that keep everything ---------------------------------------------------------------


def test_orthanc_over_dicomweb_keeps_everything(orthanc: Server, check: Check) -> None:
    said = check(orthanc.web_url, "--yes", "--json")
    assert said.code == 0
    assert said.json["advice"] == "embed"
    assert [one["is_stored"] for one in said.json["stored"]] == [True] * len(ALL)
    for one in said.of("WADO-RS").values():
        assert one["restores"] and one["pixels"] and one["syntax_kept"] and one["uids_kept"]
        assert (one["container"], one["content"]) == ("whole", "file")
        assert not one["changed"]
    uncompressed = said.of("WADO-RS, uncompressed")
    assert {one["transfer_syntax_uid"] for one in uncompressed.values()} == {ExplicitVRLittleEndian}
    assert {name for name, one in uncompressed.items() if one["syntax_kept"]} == {ALL[0]}
    assert all(one["restores"] and one["pixels"] for one in uncompressed.values())
    metadata = said.of("WADO-RS metadata")
    assert [one["container"] for one in metadata.values()] == ["whole"] * len(ALL)
    assert not any(one["changed"] for one in metadata.values())


def test_orthanc_over_dimse_keeps_everything(orthanc: Server, check: Check) -> None:
    said = check(orthanc.dest, "--yes", "--json")
    assert said.code == 0
    assert said.json["advice"] == "embed"
    back = said.of("C-GET")
    assert list(back) == ALL
    for one in back.values():
        assert one["restores"] and one["pixels"] and one["syntax_kept"] and one["uids_kept"]
        assert (one["container"], one["content"]) == ("whole", "data set")
    assert [one["way"] for one in said.json["skipped"]] == ["C-MOVE"]


def test_what_is_stored_is_nobodys_and_can_be_found(orthanc: Server, check: Check) -> None:
    said = check(orthanc.dest, "--yes")
    held = [dcmread(BytesIO(one)) for one in orthanc.instances().values()]
    assert len(held) == len(ALL)
    assert {str(one.PatientName) for one in held} == {PATIENT_NAME}
    assert {one.PatientID for one in held} == {PATIENT_ID}
    assert {one.file_meta.TransferSyntaxUID for one in held} == set(PICTURES.values())
    (study,) = {one.StudyInstanceUID for one in held}
    assert said.err.count(study) == 2  # before it is stored, and where it has to be deleted
    assert "still there" in said.err


def test_over_tls(
    orthanc_tls: Server, check: Check, certificates: Certificates, tmp_path: Path
) -> None:
    place = tmp_path / "destinations.toml"
    place.write_text(
        f'[there]\nurl = "{orthanc_tls.web_url}"\npurpose = "release"\n'
        f'[there.tls]\nca = "{certificates.ca}"\n'
    )
    assert check("there", "--destinations", str(place), "--yes", "--json").json["advice"] == "embed"


def test_an_archive_that_takes_nothing_compressed(dcmqrscp: Server, check: Check) -> None:
    """DCMTK's dcmqrscp: what it refuses goes out uncompressed, and comes back as implicit VR."""
    said = check(dcmqrscp.dest, "--yes", "--json")
    assert said.code == 0
    recoded = {one["picture"] for one in said.json["stored"] if one["transcoded"]}
    assert recoded == {"JPEG-LS", "RLE"}
    assert all(one["restores"] for one in said.of("C-GET").values())


def test_a_server_that_deletes_is_left_clean(web: WebServer, check: Check) -> None:
    said = check(web.url, "--yes", "--json")
    assert (said.code, said.json["advice"]) == (0, "embed")
    assert len(web.posts[0]) == len(ALL)
    assert not web.stored
    assert said.json["left_behind"] is None
    assert "still there" not in said.err


@pytest.mark.parametrize(
    ("deletes", "words"), [("no", "does not delete studies"), ("says so", "still has it")]
)
def test_a_server_that_does_not_delete_is_named(
    web: WebServer, check: Check, deletes: Any, words: str
) -> None:
    web.deletes = deletes
    said = check(web.url, "--yes", "--json")
    assert said.code == 0
    assert words in said.json["left_behind"]
    assert f"Delete Study Instance UID {said.json['study_instance_uid']} by hand" in said.err
    assert len(web.stored) == len(ALL)


def test_a_server_that_does_not_transcode_loses_nothing(web: WebServer, check: Check) -> None:
    web.transcodes = False
    said = check(web.url, "--yes", "--json")
    assert (said.code, said.json["advice"]) == (0, "embed")
    assert not any(one["came_back"] for one in said.of("WADO-RS, uncompressed").values())


# --- Servers that do not ------------------------------------------------------------------------


def test_private_tags_dropped(web: WebServer, check: Check) -> None:
    web.alter = rewritten(lambda dataset: dataset.remove_private_tags())
    said = check(web.url, "--yes", "--json")
    assert (said.code, said.json["advice"]) == (6, "sidecar")
    for one in said.of("WADO-RS").values():
        assert (one["container"], one["restores"]) == ("dropped", False)
        assert one["restores_with_sidecar"] and one["pixels"]
    assert [one["container"] for one in said.of("WADO-RS metadata").values()] == ["dropped"] * 4
    assert not said.json["needs_payload_original"]
    assert "keep the sidecars" in check(web.url, "--yes").out


def test_private_tags_dropped_from_some(web: WebServer, check: Check) -> None:
    def drop(dataset: Dataset) -> None:
        if dataset.file_meta.TransferSyntaxUID == JPEGLSLossless:
            dataset.remove_private_tags()

    web.alter = rewritten(drop)
    said = check(web.url, "--yes", "--json")
    assert (said.code, said.json["advice"]) == (6, "both")
    assert {n for n, one in said.of("WADO-RS").items() if not one["restores"]} == {"JPEG-LS"}


def test_private_tags_dropped_on_one_way(web: WebServer, check: Check) -> None:
    web.recode = rewritten(lambda dataset: dataset.remove_private_tags())
    said = check(web.url, "--yes", "--json")
    assert (said.code, said.json["advice"]) == (3, "both")
    assert all(one["restores"] for one in said.of("WADO-RS").values())
    assert not any(one["restores"] for one in said.of("WADO-RS, uncompressed").values())


def test_values_that_break_their_rules(web: WebServer, check: Check) -> None:
    """A server's own mistakes are changed attributes, not our end."""

    def alter(content: bytes) -> bytes:
        at = content.index(b"\x20\x00\x11\x00")  # Series Number
        value = content.index(b"9001", at)
        return content[:value] + b"a\xff\0b" + content[value + 4 :]

    web.alter = alter
    said = check(web.url, "--yes", "--json")
    assert all("SeriesNumber" in one["changed"] for one in said.of("WADO-RS").values())


def test_container_cut_short(web: WebServer, check: Check) -> None:
    def cut(dataset: Dataset) -> None:
        block = dataset.private_block(0x4D49, "MIAD")
        block[0x02].value = block[0x02].value[:1024]

    web.alter = rewritten(cut)
    said = check(web.url, "--yes", "--json")
    assert (said.code, said.json["advice"]) == (6, "sidecar")
    assert {one["container"] for one in said.of("WADO-RS").values()} == {"changed"}


def test_pixels_changed(web: WebServer, check: Check) -> None:
    def change(dataset: Dataset) -> None:
        if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            dataset.PixelData = bytes(2) + dataset.PixelData[2:]

    web.alter = rewritten(change)
    said = check(web.url, "--yes", "--json")
    assert said.code == 6
    assert said.json["needs_payload_original"]
    back = said.of("WADO-RS")
    assert {name for name, one in back.items() if not one["pixels"]} == set(ALL[:2])
    assert back["JPEG-LS"]["restores"]  # its payload is the original's bytes
    assert "--payload original" in check(web.url, "--yes").out


def test_coerced_attributes_are_named_without_their_values(web: WebServer, check: Check) -> None:
    def coerce(dataset: Dataset) -> None:
        dataset.PatientID = "REGISTERED-77"
        dataset.AccessionNumber = "4711-0815"
        del dataset.StudyDescription

    web.alter = rewritten(coerce)
    said = check(web.url, "--yes", "--json")
    assert (said.code, said.json["advice"]) == (0, "embed")
    names = ["AccessionNumber", "StudyDescription", "PatientID"]
    for way in ("WADO-RS", "WADO-RS metadata"):
        assert [one["changed"] for one in said.of(way).values()] == [names] * len(ALL)
    assert "REGISTERED-77" not in said.out + said.err
    assert "4711-0815" not in said.out + said.err


def test_uids_replaced(web: WebServer, check: Check) -> None:
    web.alter = rewritten(lambda dataset: setattr(dataset, "SeriesInstanceUID", generate_uid()))
    said = check(web.url, "--yes", "--json")
    assert not any(one["uids_kept"] for one in said.of("WADO-RS").values())
    assert all("SeriesInstanceUID" in one["changed"] for one in said.of("WADO-RS").values())


def test_a_picture_refused(web: WebServer, check: Check) -> None:
    web.refuses = {JPEGLSLossless: 0x0122}
    said = check(web.url, "--yes", "--json")
    assert (said.code, said.json["advice"]) == (10, "embed")
    refused = [one["picture"] for one in said.json["stored"] if not one["is_stored"]]
    assert refused == ["JPEG-LS"]
    assert list(said.of("WADO-RS")) == [one for one in ALL if one != "JPEG-LS"]


def test_everything_refused(web: WebServer, check: Check) -> None:
    web.refuses = dict.fromkeys(PICTURES.values(), 0x0124)
    said = check(web.url, "--yes", "--json")
    assert (said.code, said.json["advice"]) == (10, "unknown")
    assert said.json["left_behind"] is None
    assert "not stored" in said.err


def test_a_server_that_gives_nothing_back(storescp: Server, check: Check) -> None:
    said = check(storescp.dest, "--yes", "--json")
    assert (said.code, said.json["advice"]) == (10, "unknown")
    assert not any(one["came_back"] for one in said.of("C-GET").values())


def test_what_comes_back_is_nonsense(web: WebServer, check: Check) -> None:
    web.alter = lambda content: content[: len(content) // 2]
    said = check(web.url, "--yes", "--json")
    assert (said.code, said.json["advice"]) == (10, "unknown")


def test_it_cleans_up_whatever_happens(
    web: WebServer, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("miad_cli.pacs_check.judge", broken)
    assert check(web.url, "--yes").code == 1
    assert len(web.posts) == 1
    assert not web.stored


# --- Asking ---------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("options", [[], ["--no-input"]])
def test_without_a_terminal_it_stores_nothing(
    web: WebServer, check: Check, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("y\n") if options else io.StringIO("y\n"))
    said = check(web.url, *options)
    assert said.code == 2
    assert "--yes" in said.err
    assert not web.seen


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 130), ("\n", 130), ("", 130)])
def test_it_asks(
    web: WebServer, check: Check, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    said = check(web.url)
    assert said.code == code
    assert bool(web.posts) == (code == 0)
    assert PATIENT_NAME in said.err


def test_nobody_said_what_it_is_for(web: WebServer) -> None:
    assert run(["pacs-check", web.url, "--yes"]) == 2
    assert not web.seen


def test_nobody_there(check: Check) -> None:
    said = check("X@127.0.0.1:1", "--yes", "--json")
    assert (said.code, said.json["exit_code"]) == (10, 10)


# --- What it leaves -------------------------------------------------------------------------


def test_the_report_is_what_json_says(web: WebServer, check: Check, tmp_path: Path) -> None:
    place = tmp_path / "check.json"
    said = check(web.url, "--yes", "--json", "--report", str(place))
    assert json.loads(place.read_text()) == said.json
    assert run(["pacs-check", web.url, "--yes", "--report", str(tmp_path)]) == 2


def test_nothing_of_it_stays_on_this_machine(
    web: WebServer, check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("MIAD_HOME", str(tmp_path / "home"))
    assert check(web.url, "--yes").code == 0
    assert not [one for one in tmp_path.rglob("*") if one.is_file()]


def test_a_picture_a_line_for_people(web: WebServer, check: Check) -> None:
    said = check(web.url, "--yes")
    for way in ("WADO-RS", "WADO-RS, uncompressed", "WADO-RS metadata"):
        assert way in said.out
    assert "opens JPEG-LS: container whole, the same file, the same pixels" in said.out
    assert "advice: embed" in said.out
    quiet = check(web.url, "--yes", "--quiet")
    assert (quiet.out, quiet.err) == ("", "")
