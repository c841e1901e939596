"""`protect --dest`: one line from the original to the PACS."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pictures import Study
from PIL import Image
from servers import Server, free_port

from miad_cli.app import run
from miad_cli.imaging.dicom import read_dicom


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def miad(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Said]:
    """`miad` with keys of its own."""

    def call(*arguments: object) -> Said:
        capfd.readouterr()
        monkeypatch.setenv("MIAD_HOME", str(tmp_path / "keys-of-its-own"))
        code = run([str(one) for one in arguments])
        return Said(code, *capfd.readouterr())

    return call


@pytest.fixture
def logo(tmp_path: Path) -> Path:
    Image.new("RGBA", (24, 24), (255, 255, 255, 255)).save(tmp_path / "hospital.png")
    return tmp_path / "hospital.png"


def test_pictures_are_protected_and_sent(
    miad, orthanc: Server, study: Study, logo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    said = miad("protect", study.originals, "--logo", logo, "-o", out, "--search", "random",
                "--dest", orthanc.dest, "--yes-not-clinical", "--json")  # fmt: skip

    assert said.code == 0, said.err
    sent = said.json["sent"]
    assert sent["counts"] == {"stored": len(study.files)}
    written = {read_dicom(path.read_bytes()).dataset.SOPInstanceUID for path in out.rglob("*.dcm")}
    assert {one["sop_instance_uid"] for one in sent["files"]} == written

    again = miad("protect", study.originals, "--logo", logo, "-o", out, "--search", "random",
                 "--dest", orthanc.dest, "--yes-not-clinical", "--resume", "--json")  # fmt: skip

    assert again.code == 0
    assert again.json["sent"]["counts"] == {"kept": len(study.files)}


def test_destination_of_no_purpose_stops_before_anything_is_written(
    miad, orthanc: Server, study: Study, logo: Path, tmp_path: Path
) -> None:
    said = miad("protect", study.originals, "--logo", logo, "-o", tmp_path / "out",
                "--search", "random", "--dest", orthanc.dest)  # fmt: skip

    assert said.code == 2
    assert "clinical" in said.err
    assert not (tmp_path / "out").exists()


def test_pacs_that_is_not_there_is_10_and_the_pictures_are_kept(
    miad, study: Study, logo: Path, tmp_path: Path
) -> None:
    said = miad("protect", study.originals, "--logo", logo, "-o", tmp_path / "out", "--search",
                "random", "--dest", f"ARCHIVE@127.0.0.1:{free_port()}", "--yes-not-clinical",
                "--json")  # fmt: skip

    assert said.code == 10
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == len(study.files)
    assert said.json["counts"]["protected"] == len(study.files)
    assert Path(said.json["key"]).exists()
    assert said.json["sent"]["exit_code"] == 10
