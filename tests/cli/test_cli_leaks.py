"""What must not be found in anything that a run leaves behind or says.

The header of a protected file keeps its identifying attributes by design: this is protection, not
de-identification. Everything else is silent about the patient and about the original.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from pydicom import dcmread

from miad_cli import files

NAMES = ("study/one.dcm", "study/deep/two.dcm", "study/photo.png")


def _series(path: Path) -> list[str]:
    dataset = dcmread(path)
    return [str(dataset.SOPInstanceUID), str(dataset.SeriesInstanceUID)]


@pytest.fixture
def temporary_names(monkeypatch):
    """Every name that a file was written under before it got its own."""
    names = []
    write = files._write_synced

    def spy(path, content):
        names.append(str(path.name))
        write(path, content)

    monkeypatch.setattr(files, "_write_synced", spy)
    return names


@pytest.fixture(params=["compact", "original"])
def run_of(request, miad, make, study, logo, work, temporary_names):
    """Everything that protect, verify and unlock said and wrote, and the secrets of the originals.

    The owner's folder for keys and the restored originals are not part of it.
    """
    if request.param == "original":
        make.raster(study / "photo.png", make.colour())
    said = [
        miad(
            "protect", "study", "--logo", logo, "--search", "random", "--key-out", "key.txt",
            "--payload", request.param, "--report", "report.json", *how,
        )
        for how in (["--log-json"], ["--json", "--on-exists", "replace"])
    ]  # fmt: skip
    assert [one.code for one in said] == [0, 0]
    said.append(miad("verify", "study-protected", "--key", "key.txt", "--json", "--log-json"))
    said.append(miad("unlock", "study-protected", "--key", "key.txt", "--log-json", "-v"))
    originals = [work / name for name in NAMES if (work / name).exists()]
    return said, originals, temporary_names


def test_no_identity_or_digest_of_an_original_is_in_any_output(run_of, work):
    _, originals, _ = run_of
    secrets = [uid for path in originals if path.suffix == ".dcm" for uid in _series(path)]
    digests = [hashlib.sha256(path.read_bytes()) for path in originals]
    pixels = [hashlib.sha256(dcmread(p).PixelData) for p in originals if p.suffix == ".dcm"]
    found = [one.encode() for one in secrets]
    for digest in (*digests, *pixels):
        found += [digest.hexdigest().encode(), digest.hexdigest().upper().encode(), digest.digest()]
    outputs = [path for path in (work / "study-protected").rglob("*") if path.is_file()]
    assert len(outputs) == 2 * len(originals)
    for path in (*outputs, work / "report.json"):
        content = path.read_bytes()
        assert not [one for one in found if one in content], path.name


def test_no_patient_is_in_what_is_said_or_named(run_of, make, work):
    said, _, names = run_of
    patient = [make.patient, make.patient_id, *make.patient.split("^")]
    texts = [one.out + one.err for one in said]
    texts += [(work / "report.json").read_text(), " ".join(names)]
    for text in texts:
        assert not [one for one in patient if one in text]


def test_no_patient_is_in_a_container(run_of, make, work):
    patient = [one.encode() for one in (make.patient, make.patient_id)]
    for path in (work / "study-protected").rglob("*.miad"):
        assert not [one for one in patient if one in path.read_bytes()], path.name


def test_no_input_path_is_in_what_is_said_for_machines(run_of, work):
    said, _, names = run_of
    lines = [line for one in said for line in one.err.splitlines() if line.startswith("{")]
    assert lines
    assert [json.loads(line) for line in lines]
    for text in (*lines, said[1].out, said[2].out, (work / "report.json").read_text(), *names):
        assert str(work / "study") + os.sep not in text


def test_temporary_names_say_nothing(run_of):
    _, originals, names = run_of
    assert names
    for name in names:
        assert not [path for path in originals if path.stem in name]


def test_no_original_uid_stays_in_text_or_private_elements(make, miad, work, logo):
    for number in (1, 2):
        make.dicom(work / "study" / f"{number}.dcm", number)
    first, second = (dcmread(work / "study" / f"{number}.dcm") for number in (1, 2))
    first.ImageComments = f"see {second.SOPInstanceUID}."
    first.RetrieveURL = f"http://pacs/?uid={first.SOPInstanceUID}&more"
    block = first.private_block(0x0031, "SOMEBODY", create=True)
    block.add_new(1, "LT", f"from {first.SeriesInstanceUID}")
    block.add_new(2, "OB", b"\1\2" + first.SOPInstanceUID.encode() + b"\0\3")
    block.add_new(3, "LO", "stays")
    first.file_meta.PrivateInformationCreatorUID = "1.2.3.4"
    first.file_meta.PrivateInformation = first.SOPInstanceUID.encode()
    first.save_as(work / "study" / "1.dcm")

    assert miad("protect", "study", "--logo", logo, "-o", "out", "--search", "random").code == 0

    content = (work / "out" / "1.dcm").read_bytes()
    for original in (first, second):
        assert original.SOPInstanceUID.encode() not in content
        assert original.SeriesInstanceUID.encode() not in content
    assert b"stays" in content
    assert first.StudyInstanceUID.encode() in content
