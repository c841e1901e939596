"""`miad evaluate`: a folder, a table, a study; its gate, its plan, and what it refuses."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from conftest import PATIENT, PATIENT_ID
from laboratory import write_logo, write_models, write_pictures
from pydicom import dcmread

CHEAP = """\
name = "toy"
title = "Toy"
[models]
task = "toy"
[search]
effort = "fast"
"""


@pytest.fixture(scope="session")
def toy_models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("toys"), {})


@pytest.fixture(autouse=True)
def place(work, toy_models, monkeypatch):
    """A working folder with pictures and a profile; the models of the laboratory."""
    monkeypatch.setattr("miad_cli.models.bank.models_directory", lambda: toy_models)
    write_pictures(work / "data", of_each=2)
    write_logo(work / "logo.png")
    (work / "toy.toml").write_text(CHEAP, encoding="utf-8")
    return work


@pytest.fixture
def evaluate(miad):
    """Evaluate one picture with the cheapest protocol, unless something else is said."""

    def call(*arguments, given="data", protocol="authorise", limit=1):
        return miad(
            "evaluate", given, "--logo", "logo.png", "--profile", "toy.toml",
            "--protocol", protocol, "--limit", limit, *arguments,
        )  # fmt: skip

    return call


def study(make, work):
    """Two CTs, a dark one and a bright one, that name a patient."""
    for seed, level in ((1, 100), (2, 3900)):
        path = make.dicom(work / "study" / f"{PATIENT_ID}-{seed}.dcm", seed)
        dataset = dcmread(path)
        dataset.PixelData = np.full((64, 64), level, "<u2").tobytes()
        dataset.save_as(path)
    return work / "study"


# --- What comes out ---------------------------------------------------------------------------


def test_report_and_its_parts_are_written_and_the_run_goes_on(evaluate, work):
    first = evaluate("--report", "out.html")

    assert first.code == 0, first.err
    assert "1 of 1 files came back byte for byte" in first.out
    assert "authorise.identical" in first.out
    assert "report: out.html" in first.out
    assert {path.name for path in work.iterdir()} >= {
        "out.html", "out.json", "out-csv", "out-work",
    }  # fmt: skip
    kept = (work / "out-work" / "measured.jsonl").read_bytes()

    again = evaluate("--report", "out.html")
    assert again.code == 0
    assert (work / "out-work" / "measured.jsonl").read_bytes() == kept
    assert again.out == first.out


def test_json_is_one_object_and_holds_the_figures(evaluate):
    said = evaluate("--json")

    assert said.code == 0, said.err
    assert said.err == ""
    facts = said.json
    assert facts["command"] == "evaluate"
    assert facts["exit_code"] == 0
    assert facts["values"]["authorise.original.accuracy"]["n"] == 1
    assert facts["meta"]["data"]["labels_from"] == "given"
    assert facts["report"] is None


def test_without_report_and_work_folder_nothing_is_left(evaluate, work):
    before = {path.name for path in work.iterdir()}
    assert evaluate("--quiet").code == 0
    assert {path.name for path in work.iterdir()} == before


def test_dry_run_says_how_much_and_how_long_and_writes_nothing(evaluate, work):
    before = {path.name for path in work.iterdir()}
    said = evaluate("--dry-run", "--report", "out.html", protocol="all", limit=3)

    assert said.code == 0, said.err
    assert "units of work on 3 pictures, about" in said.out
    assert "left out removal: no removal network is installed" in said.out
    assert {path.name for path in work.iterdir()} == before


def test_the_command_in_the_report_names_no_path(evaluate, work):
    assert evaluate("--report", "out.html", "--fail-if", "authorise.identical > 1").code == 0
    command = json.loads((work / "out.json").read_text())["meta"]["command"]
    assert command == (
        "miad evaluate DATASET --logo LOGO --protocol authorise --profile toy --limit 1 "
        "--seed 2023 --fail-if 'authorise.identical > 1'"
    )


# --- A study ----------------------------------------------------------------------------------


def test_study_without_labels_and_nothing_of_the_patient_anywhere(evaluate, make, work):
    study(make, work)
    said = evaluate("--report", "out.html", given="study", limit=2)

    assert said.code == 0, said.err
    assert "No labels were given" in said.out
    for path in [*work.glob("out*"), *work.rglob("out-*/*")]:
        content = path.read_bytes() if path.is_file() else b""
        for secret in (PATIENT, PATIENT_ID, "Musterfrau"):
            assert secret.encode() not in content, path


def test_study_with_a_table_of_labels(evaluate, make, work):
    with (work / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["SOPInstanceUID", "label"])
        for path, label in zip(sorted(study(make, work).iterdir()), ("no", "yes"), strict=True):
            table.writerow([dcmread(path).SOPInstanceUID, label])
    said = evaluate("--labels", "labels.csv", "--json", given="study", limit=2)

    assert said.code == 0, said.err
    data = said.json["meta"]["data"]
    assert (data["labels_from"], data["used"]) == ("given", 2)


# --- The gate ---------------------------------------------------------------------------------


def test_violated_gate_is_exit_5_and_the_report_is_there(evaluate, work):
    said = evaluate("--report", "out.html", "--fail-if", "authorise.protected.accuracy >= 0")

    assert said.code == 5
    assert "authorise.protected.accuracy is" in said.err
    assert "not less than 0" in said.err
    assert (work / "out.html").is_file()


def test_held_gate_is_exit_0(evaluate):
    assert (
        evaluate("--fail-if", "authorise.identical < 1 or authorise.recovered.ssim < 1").code == 0
    )


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ("authorise.recovered.acuracy > 0.4", "Did you mean"),
        ("authorise.recovered.accuracy > 40", "lies between 0 and 1"),
    ],
)
def test_gate_that_cannot_be_meant_is_exit_2(evaluate, gate, said, work):
    refused = evaluate("--fail-if", gate, "--report", "out.html")
    assert refused.code == 2
    assert said in refused.err
    assert not (work / "out-work").exists()


# --- Refusals ---------------------------------------------------------------------------------


def test_removal_without_networks_is_refused_with_a_reason(evaluate):
    said = evaluate(protocol="removal")
    assert said.code == 2
    assert "no removal network is installed" in said.err


def test_unknown_protocol_names_the_known_ones(evaluate):
    said = evaluate(protocol="sene")
    assert said.code == 2
    assert "seen, unseen, removal" in said.err


def test_protocols_may_be_joined_by_commas(evaluate):
    said = evaluate("--dry-run", protocol="authorise,seen")
    assert said.code == 0
    assert "seen, authorise" in said.out


def test_data_that_is_not_there_is_exit_4(evaluate):
    assert evaluate(given="nowhere").code == 4


def test_report_over_another_file_is_exit_8(evaluate, work):
    (work / "out.html").write_text("mine")
    assert evaluate("--report", "out.html").code == 8
    assert (work / "out.html").read_text() == "mine"


def test_unreadable_picture_is_named_and_exit_3(evaluate, work):
    (work / "data" / "no" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    said = evaluate(limit=5)
    assert said.code == 3
    assert "broken.png" in said.err


def test_classes_that_the_task_does_not_know_are_named(evaluate, work):
    (work / "data" / "no").rename(work / "data" / "maybe")
    said = evaluate()
    assert said.code == 2
    assert "maybe" in said.err
