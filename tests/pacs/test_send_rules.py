"""What may go out at all, where to, and what is noted of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import OWNER, build_png, encode
from pictures import PATIENT, PATIENT_ID, Study, make_study, miad, protect_file, slice_of
from pydicom import dcmread
from pyrage import x25519
from scp import Scp, scp

from miad_cli.pacs.destinations import Destination
from miad_cli.pacs.outcome import Fetched, Instance, Outcome
from miad_cli.seal.owner import OwnerKey
from miad_cli.send import FileReport, Wishes, send_study

Say = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str]) -> Say:
    """Send to a place written out: exit code and JSON."""

    def call(place: Scp, *arguments: object) -> tuple[int, dict[str, Any]]:
        capfd.readouterr()
        line = ["send", *arguments, "--dest", place.dest, "--yes-not-clinical", "--json"]
        return miad(*line), json.loads(capfd.readouterr().out)

    return call


def file_in(said: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in said["files"] if one["name"] == name)


def states(said: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["state"] for one in said["files"]}


# --- Purpose ----------------------------------------------------------------------------------


def toml_for(place: Scp, folder: Path, purpose: str) -> Path:
    path = folder / "destinations.toml"
    path.write_text(
        f'[pacs]\naet = "{place.aet}"\nhost = "127.0.0.1"\nport = {place.port}\n{purpose}\n'
    )
    return path


def test_destination_written_out_needs_a_word(
    study: Study, capfd: pytest.CaptureFixture[str]
) -> None:
    with scp() as place:
        code = miad("send", study.protected, "--dest", place.dest)

    said = capfd.readouterr()
    assert code == 2 and not place.associations
    assert "authorised AI" in said.err and "--yes-not-clinical" in said.err


@pytest.mark.parametrize("purpose", ["", 'purpose = "clinical"', 'purpose = "Release"'])
@pytest.mark.parametrize("word", [[], ["--yes-not-clinical"]], ids=["plain", "with the word"])
def test_declared_destination_needs_its_purpose(
    study: Study,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    purpose: str,
    word: list[str],
) -> None:
    with scp() as place:
        toml = toml_for(place, tmp_path, purpose)
        named = miad("send", study.protected, "--dest", "pacs", "--destinations", toml, *word)
        said = capfd.readouterr()
        written = miad("send", study.protected, "--dest", place.dest, "--destinations", toml, *word)

    assert (named, written) == (2, 2) and not place.associations
    assert 'purpose = "release"' in said.err


def test_destination_from_the_settings_folder(study: Study) -> None:
    with scp() as place:
        toml_for(place, study.home, 'purpose = "release"')
        code = miad("send", study.protected, "--dest", "pacs", "-q")

    assert code == 0 and set(place.got) == set(study.uids)


# --- What is sent -----------------------------------------------------------------------------


def test_originals_are_never_sent(study: Study, say: Say) -> None:
    with scp() as place:
        code, said = say(place, study.originals)

    assert code == 6 and set(states(said).values()) == {"refused"}
    assert not place.got and not place.associations


def test_unlocked_files_are_never_sent(study: Study, say: Say, tmp_path: Path) -> None:
    assert miad("unlock", study.protected, "--key", study.key, "-o", tmp_path / "back", "-q") == 0
    with scp() as place:
        code, said = say(place, tmp_path / "back")

    assert code == 6 and set(states(said).values()) == {"refused"}
    assert not place.got


def test_good_files_go_and_the_others_are_named(study: Study, say: Say, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(study.protected, mixed)
    shutil.copy(study.originals / "s0" / "0000.dcm", mixed / "original.dcm")
    altered = dcmread(mixed / "s0" / "0002.dcm")
    altered.PixelData = bytes([altered.PixelData[0] ^ 1]) + altered.PixelData[1:]
    altered.save_as(mixed / "altered.dcm")
    (mixed / "broken.dcm").write_bytes((mixed / "s0" / "0000.dcm").read_bytes()[:900])
    (mixed / "notes.txt").write_text("nothing")
    (mixed / "photo.png").write_bytes(build_png(np.zeros((4, 4, 3), "u1")))
    lonely = mixed / "gone.dcm.miad"
    lonely.write_bytes(b"MIAD")
    with scp() as place:
        code, said = say(place, mixed)

    assert code == 6
    assert states(said) == {
        "s0/0000.dcm": "stored",
        "s0/0002.dcm": "stored",
        "s1/0001.dcm": "stored",
        "original.dcm": "refused",
        "altered.dcm": "refused",
        "broken.dcm": "refused",
        "notes.txt": "left out",
        "photo.png": "left out",
        "gone.dcm.miad": "left out",
    }
    assert "not protected" in file_in(said, "original.dcm")["reason"]
    assert "pixels" in file_in(said, "altered.dcm")["reason"]
    assert set(place.got) == set(study.uids)


def test_other_owner_has_to_be_named(study: Study, say: Say, tmp_path: Path) -> None:
    (study.home / "owner.pub.pem").unlink()
    OwnerKey.generate().public.save(study.home / "owner.pub.pem")
    named = tmp_path / "owner.pem"
    OWNER.public.save(named)
    with scp() as place:
        unknown, said = say(place, study.protected)
        nothing = dict(place.got)
        code, _ = say(place, study.protected, "--owner", named)

    assert unknown == 6 and not nothing
    assert "--owner" in said["files"][0]["hint"]
    assert code == 0 and set(place.got) == set(study.uids)


def test_container_in_the_sidecar_only_is_refused(say: Say, tmp_path: Path) -> None:
    study = make_study(tmp_path, slices=1, carrier="sidecar")
    with scp() as place:
        code, said = say(place, study.protected)

    assert code == 3 and not place.got
    assert "sidecar" in said["files"][0]["reason"] and "--carrier" in said["files"][0]["hint"]


def test_picture_of_no_series_is_refused(say: Say, tmp_path: Path) -> None:
    study = make_study(tmp_path, slices=0)
    dataset = slice_of(1)
    del dataset.SeriesInstanceUID, dataset.StudyInstanceUID
    source = study.originals / "one.dcm"
    source.parent.mkdir()
    source.write_bytes(encode(dataset))
    protected = study.protected / "one.dcm"
    protect_file(source, protected, x25519.Identity.generate().to_public())
    with scp() as place:
        code, said = say(place, protected)

    assert code == 3 and "study and series" in said["files"][0]["reason"] and not place.got


def test_container_in_the_file_only_is_sent(say: Say, tmp_path: Path) -> None:
    study = make_study(tmp_path, slices=1, carrier="embed")
    with scp() as place:
        code, _ = say(place, study.protected)

    assert code == 0 and set(place.got) == set(study.uids)


def test_nothing_but_png_is_no_usable_input(say: Say, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(build_png(np.zeros((4, 4, 3), "u1")))
    with scp() as place:
        code, said = say(place, tmp_path / "in")

    assert code == 4 and said["counts"] == {"left out": 1}
    assert not place.associations


def test_the_same_file_twice_is_sent_once(study: Study, say: Say) -> None:
    uids = study.uids
    shutil.copy(study.files[0], study.protected / "copy.dcm")
    with scp() as place:
        code, said = say(place, study.protected)

    assert code == 0 and sorted(place.requests) == sorted(uids)
    assert sorted(states(said).values()) == ["left out", "stored", "stored", "stored"]


def test_two_files_of_one_uid_are_not_both_sent(study: Study, say: Say) -> None:
    """The same original, sealed twice: the same UID, another container."""
    again = study.protected / "again.dcm"
    protect_file(study.originals / "s0" / "0000.dcm", again, x25519.Identity.generate().to_public())
    with scp() as place:
        code, said = say(place, study.protected)

    assert code == 3 and len(place.requests) == len(set(place.requests)) == 3
    assert [one["state"] for one in said["files"]].count("refused") == 1


def test_file_that_changes_after_it_was_verified_is_not_sent(study: Study) -> None:
    """Exchanged for an original between the verdict and its turn."""
    victim = study.files[-1]
    original = study.originals / victim.relative_to(study.protected)

    class Swap:
        def __call__(self, one: FileReport, total: int) -> None:
            shutil.copy(original, victim)

    with scp() as place:
        report = send_study([study.protected], destination_of(place), [OWNER.public],
                            progress=Swap())  # fmt: skip

    assert report.exit_code == 3
    assert len(place.got) == 2
    failed = next(one for one in report.files if one.state == "failed")
    assert "changed after it was verified" in failed.reason


def destination_of(place: Scp) -> Destination:
    return Destination(
        name="there",
        is_declared=True,
        purpose="release",
        aet=place.aet,
        host="127.0.0.1",
        port=place.port,
    )


# --- Not really -------------------------------------------------------------------------------


def test_dry_run_asks_nobody(study: Study, say: Say) -> None:
    with scp() as place:
        code, said = say(place, study.protected, "--dry-run")

    assert code == 0 and set(states(said).values()) == {"planned"}
    assert not place.associations and not (study.home / "sent").exists()


# --- The journal ------------------------------------------------------------------------------


def test_resume_sends_the_rest(study: Study, say: Say) -> None:
    with scp(lambda number, uid: 0xC000 if number == 2 else 0) as place:
        first, said = say(place, study.protected)
        again, resumed = say(place, study.protected, "--resume")

    assert first == 10 and again == 0
    assert sorted(states(said).values()) == ["failed", "stored", "stored"]
    assert sorted(states(resumed).values()) == ["kept", "kept", "stored"]
    assert len(place.requests) == 4 and set(place.got) == set(study.uids)


def test_without_resume_everything_is_sent_again(study: Study, say: Say) -> None:
    with scp() as place:
        say(place, study.protected)
        code, said = say(place, study.protected)

    assert code == 0 and set(states(said).values()) == {"stored"}
    assert len(place.requests) == 6


def test_journal_is_of_one_destination(study: Study, say: Say) -> None:
    with scp() as one, scp() as other:
        say(one, study.protected)
        code, said = say(other, study.protected, "--resume")

    assert code == 0 and set(states(said).values()) == {"stored"}


def test_file_that_was_sealed_anew_is_sent_again(study: Study, say: Say) -> None:
    with scp() as place:
        say(place, study.protected)
        relative = study.files[0].relative_to(study.protected)
        new = x25519.Identity.generate().to_public()
        protect_file(study.originals / relative, study.files[0], new)
        code, said = say(place, study.protected, "--resume")

    assert code == 0
    assert sorted(states(said).values()) == ["kept", "kept", "stored"]


def test_journal_says_nothing_of_patients_or_paths(study: Study, say: Say) -> None:
    with scp() as place:
        say(place, study.protected)

    journals = list((study.home / "sent").iterdir())
    text = journals[0].read_text()
    assert len(journals) == 1 and len(text.splitlines()) == 3
    assert all(
        set(json.loads(one)) == {"uid", "sha256", "state", "at"} for one in text.splitlines()
    )
    for secret in (PATIENT, PATIENT_ID, "study", ".dcm", "19570101", place.aet, str(place.port)):
        assert secret not in text + journals[0].name
    assert (journals[0].stat().st_mode & 0o777, journals[0].parent.stat().st_mode & 0o777) == (
        0o600,
        0o700,
    )


def test_torn_journal_is_read_as_far_as_it_goes(study: Study, say: Say) -> None:
    with scp() as place:
        say(place, study.protected)
        journal = next((study.home / "sent").iterdir())
        journal.write_bytes(journal.read_bytes()[:-20])
        code, said = say(place, study.protected, "--resume")
        last, again = say(place, study.protected, "--resume")

    assert (code, last) == (0, 0)
    assert sorted(states(said).values()) == ["kept", "kept", "stored"]
    assert set(states(again).values()) == {"kept"}


def test_what_the_pacs_turns_out_not_to_have_is_sent_again(study: Study) -> None:
    """It said that it stored everything, gives nothing back, and is asked again later."""
    said = send_study([study.protected], Forgetful.place, [OWNER.public],
                      Wishes(read_back=True), store=Forgetful())  # fmt: skip
    store = Forgetful()
    again = send_study([study.protected], Forgetful.place, [OWNER.public],
                       Wishes(resume=True), store=store)  # fmt: skip

    assert said.exit_code == 10
    assert {one.read_back for one in said.files} == {False}
    assert {one.state for one in again.files} == {"stored"} and store.sent == 3


class Forgetful:
    """Stores nothing, and says that it does."""

    place = Destination(
        name="there", purpose="release", aet="A", host="127.0.0.1", port=104,
        retries={"times": 1, "delay": 0},
    )  # fmt: skip

    def __init__(self) -> None:
        self.sent = 0

    def check(self) -> None:
        pass

    def send(self, instances: list[Instance]) -> Any:
        for one in instances:
            self.sent += 1
            yield Outcome(one, "stored", 0)

    def fetch(self, instances: list[Instance]) -> Any:
        return (Fetched(one, None, "it is gone") for one in instances)


# --- Speech -----------------------------------------------------------------------------------


def test_neither_speech_nor_report_names_a_patient_or_a_folder(
    study: Study, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    with scp(lambda number, uid: 0xB000 if number == 1 else 0xC000) as place:
        line = ["send", study.protected, "--dest", place.dest, "--yes-not-clinical"]
        code = miad(*line, "-v", "--log-json", "--report", report)

    said = capfd.readouterr()
    everything = said.out + said.err + report.read_text()
    assert code == 10 and json.loads(report.read_text())["exit_code"] == 10
    for secret in (
        PATIENT,
        "Musterfrau",
        PATIENT_ID,
        "19570101",
        str(tmp_path),
        study.protected.name,
    ):
        assert secret not in everything


def test_quiet_says_nothing_but_errors(study: Study, capfd: pytest.CaptureFixture[str]) -> None:
    with scp() as place:
        code = miad("send", study.protected, "--dest", place.dest, "--yes-not-clinical", "-q")

    said = capfd.readouterr()
    assert code == 0 and said.out + said.err == ""
