"""Every DICOM file at hand, one by one: `benchmarks.dicom_corpus`, and what has to hold.

The files are those that pydicom brings along, and those in MIAD_DATA/dicom where that is set.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom.data.data_manager import DATA_ROOT

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLED = Path(DATA_ROOT) / "test_files"


@pytest.fixture(scope="module")
def corpus():
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.dicom_corpus", "--json", "--jobs", "2"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": path},
        timeout=3000,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr[-2000:]
    return json.loads(done.stdout)


def names(corpus, *states: str) -> list[str]:
    return [one["name"] for one in corpus["files"] if one["state"] in states]


def test_every_file_is_there(corpus):
    there = {f"test_files/{p.relative_to(BUNDLED).as_posix()}" for p in BUNDLED.rglob("*.dcm")}

    assert there <= {one["name"] for one in corpus["files"]}
    assert len(names(corpus, "identical")) >= 70


def test_nothing_crashes_hangs_or_is_left_unmentioned(corpus):
    assert names(corpus, "crashed", "hung", "unmentioned") == []


def test_what_is_protected_is_restored_identical(corpus):
    assert names(corpus, "not identical") == []


def test_what_is_not_protected_has_a_reason(corpus):
    silent = [
        one["name"]
        for one in corpus["files"]
        if one["state"] in ("refused", "passed over", "left out") and not one["reason"]
    ]

    assert silent == []


def test_every_picture_that_pydicom_decodes_is_protected(corpus):
    assert corpus["decoded_but_refused"] == []


def test_dciodvfy_finds_no_error_that_the_original_did_not_have(corpus, tool):
    tool("dciodvfy", BUNDLED / "CT_small.dcm")
    protected = [one for one in corpus["files"] if one["state"] == "identical"]
    judged = [one for one in protected if one["complaints"] is not None]

    assert {one["name"]: one["complaints"] for one in judged if one["complaints"]} == {}
    assert len(judged) >= 70


def test_dcmtk_shows_what_was_written(corpus, tool):
    for program in ("dcm2pnm", "dcmj2pnm", "dcml2pnm"):
        tool(program, "--version")
    shown = {one["name"]: one["shown"] for one in corpus["files"] if one["state"] == "identical"}
    wrong = {
        name: said
        for name, said in shown.items()
        if said != "same" and not said.startswith(("not supported", "not judged"))
    }

    assert wrong == {}
    assert sum(said == "same" for said in shown.values()) >= 60
