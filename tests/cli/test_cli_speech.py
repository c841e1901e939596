"""How the program speaks: JSON for scripts, silence on request, nothing it must not say."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from pydicom import dcmread


def test_json_is_the_only_thing_on_stdout(miad, study, logo):
    said = miad("protect", "study", "--logo", logo, "--search", "random", "--json")

    assert said.code == 0
    assert said.out.startswith("{") and said.out.endswith("}\n")
    assert said.json["command"] == "protect"
    assert said.json["exit_code"] == 0
    assert said.json["counts"]["protected"] == 2
    assert sorted(one["name"] for one in said.json["files"]) == ["deep/two.dcm", "one.dcm"]


def test_json_names_every_file_once(miad, make, study, logo):
    (study / "notes.txt").write_text("no image")
    (study / "broken.dcm").write_bytes(b"text")
    make.structured_report(study / "report.dcm")

    said = miad("protect", "study", "--logo", logo, "--search", "random", "--json")

    assert said.code == said.json["exit_code"] == 3
    assert {one["name"]: one["state"] for one in said.json["files"]} == {
        "broken.dcm": "failed",
        "deep/two.dcm": "protected",
        "notes.txt": "left out",
        "one.dcm": "protected",
        "report.dcm": "passed over",
    }
    assert len(said.json["files"]) == 5
    assert sum(said.json["counts"].values()) == 5


def test_json_of_verify(miad, sealed):
    said = miad("verify", "protected", "--key", sealed.key, "--json")

    assert said.code == said.json["exit_code"] == 0
    assert said.json["command"] == "verify"
    assert said.json["counts"] == {"authentic": 3}
    assert said.file("one.dcm") == {
        "name": "one.dcm",
        "verdict": "authentic",
        "restorable": True,
        "recipe_holds": True,
    }


def test_json_of_unlock(miad, sealed):
    said = miad("unlock", "protected", "--key", sealed.key, "--json")

    assert said.code == said.json["exit_code"] == 0
    assert said.json["command"] == "unlock"
    assert {one["state"] for one in said.json["files"]} == {"unlocked"}
    assert said.file("photo.png")["output"] == "photo.png"


def test_json_of_a_run_with_a_name_that_is_not_unicode(miad, study, logo):
    if sys.platform != "linux":
        pytest.skip("file names that are not Unicode exist on Linux")
    (study / os.fsdecode(b"caf\xe9.txt")).write_text("no image")

    said = miad("protect", "study", "--logo", logo, "--search", "random", "--json")

    assert said.code == 0
    assert said.file("caf?.txt")["state"] == "left out"


def test_an_error_is_one_object_with_json(miad, study):
    said = miad("protect", "study", "--logo", "no.png", "--json")

    assert said.code == 2
    assert json.loads(said.out) == {
        "error": "no.png: there is no such logo file",
        "hint": "",
        "exit_code": 2,
    }


@pytest.mark.parametrize("command", ["protect", "verify", "unlock"])
def test_log_json_is_a_line_a_file_on_stderr(miad, sealed, logo, command):
    arguments = {
        "protect": ("originals", "--logo", logo, "--search", "random"),
        "verify": ("protected",),
        "unlock": ("protected", "--key", sealed.key),
    }[command]

    said = miad(command, *arguments, "--log-json")

    lines = [json.loads(line) for line in said.err.splitlines()]
    names = sorted(line["name"] for line in lines if "name" in line)
    assert said.code == 0
    assert names == ["one.dcm", "photo.png", "two.dcm"]


@pytest.mark.parametrize("command", ["protect", "verify", "unlock"])
def test_quiet_is_silent_on_stdout(miad, sealed, logo, command):
    arguments = {
        "protect": ("originals", "--logo", logo, "--search", "random"),
        "verify": ("protected",),
        "unlock": ("protected", "--key", sealed.key),
    }[command]

    said = miad(command, *arguments, "-q")

    assert (said.code, said.out) == (0, "")


def test_quiet_still_names_what_failed(miad, study, logo):
    (study / "broken.dcm").write_bytes(b"text")

    said = miad("protect", "study", "--logo", logo, "--search", "random", "-q")

    assert said.code == 3
    assert said.out == ""
    assert "failed broken.dcm: not a DICOM file" in said.err


def test_verbose_has_a_line_for_every_file(miad, study, logo):
    said = miad("protect", "study", "--logo", logo, "--search", "random", "-v")

    assert "protected deep/two.dcm  general, no model for this task, features moved " in said.out
    assert "protected one.dcm  general, no model for this task, features moved " in said.out


@pytest.mark.parametrize("setting", [{}, {"NO_COLOR": "1"}, {"TERM": "xterm-256color"}])
def test_no_escape_codes_where_there_is_no_terminal(miad, study, logo, monkeypatch, setting):
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    (study / "broken.dcm").write_bytes(b"text")

    said = miad("protect", "study", "--logo", logo, "--search", "random", "-v")

    assert said.code == 3
    assert "\x1b" not in said.out + said.err


def test_no_colour_on_a_terminal_where_no_color_says_so(sealed, environment, work):
    pty = pytest.importorskip("pty", reason="pseudo-terminals exist on POSIX")

    def on_terminal(**settings):
        leader, follower = pty.openpty()
        code = subprocess.run(
            [sys.executable, "-m", "miad_cli", "verify", "originals/one.dcm"],
            stdout=follower,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            env={**environment, "TERM": "xterm-256color", **settings},
            check=False,
        ).returncode
        os.close(follower)
        shown = os.read(leader, 65536).decode()
        os.close(leader)
        assert code == 6
        assert "not protected" in shown
        return shown

    assert "\x1b[31m" in on_terminal()
    assert "\x1b[31m" not in on_terminal(NO_COLOR="1")


@pytest.mark.parametrize("arguments", [("verify", "protected", "-v"), ("profiles", "list")])
def test_a_reader_that_goes_away_gets_no_traceback(sealed, environment, arguments):
    reading, writing = os.pipe()
    os.close(reading)

    done = subprocess.run(
        [sys.executable, "-m", "miad_cli", *arguments],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        check=False,
    )
    os.close(writing)

    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    assert "internal error" not in done.stderr


# --- What must not be said ----------------------------------------------------------------


@pytest.fixture
def everything_said(miad, make, logo, work):
    """All that a whole round says, with the loudest options, and its report."""
    source = work / "Musterfrau-Erika-1970"
    make.dicom(source / "one.dcm", 1)
    make.dicom(source / "two.dcm", 2)
    (source / "broken.dcm").write_bytes((source / "one.dcm").read_bytes()[:-10])
    said = ""
    for output, how in (("out", "-v"), ("out2", "--json"), ("out3", "--log-json")):
        run = miad(
            "protect", source.name, "--logo", logo, "-o", output, "--key-out", "key.txt",
            "--search", "random", "--report", f"{output}.json", how,
        )  # fmt: skip
        assert run.code == 3
        said += run.out + run.err + (work / f"{output}.json").read_text()
    assert miad("verify", "out").code == 0
    for how in ("-v", "--json", "--log-json"):
        run = miad("verify", "out", "--key", "key.txt", how)
        said += run.out + run.err
        run = miad("unlock", "out", "--key", "key.txt", "-o", f"back{how}", how)
        assert run.code == 0
        said += run.out + run.err
    return said


def test_no_name_of_a_patient_is_said(everything_said, make):
    assert make.patient not in everything_said
    assert make.patient.split("^")[0] not in everything_said
    assert make.patient_id not in everything_said


def test_no_original_uid_is_said(everything_said, work):
    for name in ("one.dcm", "two.dcm"):
        original = dcmread(work / "Musterfrau-Erika-1970" / name)
        assert original.SOPInstanceUID not in everything_said
        assert original.SeriesInstanceUID not in everything_said


def test_no_path_of_the_input_is_said(everything_said, work):
    assert str(work) not in everything_said


def test_no_key_is_said(everything_said, work):
    secret = (work / "key.txt").read_text().splitlines()[-1]

    assert secret.startswith("AGE-SECRET-KEY-")
    assert secret not in everything_said
    assert "AGE-SECRET-KEY-" not in everything_said
    assert "PRIVATE KEY" not in everything_said


def test_no_original_uid_is_left_in_the_output(everything_said, work):
    original = dcmread(work / "Musterfrau-Erika-1970" / "one.dcm")

    for path in (work / "out").rglob("*"):
        content = path.read_bytes()
        assert str(original.SOPInstanceUID).encode() not in content
        assert str(original.SeriesInstanceUID).encode() not in content


def test_a_library_that_warns_does_not_quote_the_file(miad_process, make, logo, work):
    # pydicom quotes a value that breaks its VR; no component of a UID may start with 0.
    path = make.dicom(work / "study" / "one.dcm", SeriesInstanceUID="1.2.826.0.1.100815.4711")
    path.write_bytes(path.read_bytes().replace(b".100815.", b".000815."))

    said = miad_process("protect", "study", "--logo", logo, "--search", "random")

    assert said.code == 0
    assert "000815" not in said.out + said.err


def test_the_report_is_the_json(miad, study, logo, work):
    said = miad(
        "protect", "study", "--logo", logo, "--search", "random", "--json",
        "--report", "report.json",
    )  # fmt: skip

    assert json.loads((work / "report.json").read_text(encoding="utf-8")) == said.json


def test_a_report_that_cannot_be_written_is_said(miad, study, logo, work):
    (work / "place").write_text("a file, no folder")

    said = miad(
        "protect", "study", "--logo", logo, "--search", "random", "--report", "place/report.json"
    )

    assert said.code == 2
    assert "place/report.json: the report cannot be written" in said.err
