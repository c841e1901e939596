"""Files that come along with the pictures: sealed whole, signed whole, given back."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import OWNER, sealing_for
from pydicom.data import get_testdata_file
from pyrage import x25519

from miad_cli.companions import seal_other, write_companion
from miad_cli.errors import PictureFailed
from miad_cli.imaging.others import copy_other
from miad_cli.instance import job_of
from miad_cli.seal.carriers import sidecar_of
from miad_cli.seal.companion import has_companion_seal, is_of_companion, is_unchanged
from miad_cli.seal.container import check_signature, open_payload, parse
from miad_cli.seal.payload import decode
from miad_cli.unlock import unlock

IDENTITY = x25519.Identity.generate()
SEALING = sealing_for(IDENTITY.to_public())


@pytest.fixture
def original() -> bytes:
    return Path(get_testdata_file("DICOMDIR")).read_bytes()


def test_the_original_comes_back_byte_for_byte(tmp_path: Path, original: bytes) -> None:
    write_companion(tmp_path / "in" / "DICOMDIR", b"made anew", "DICOMDIR", original, SEALING)

    report = unlock([tmp_path / "in"], tmp_path / "back", [IDENTITY], [OWNER.public])

    assert report.exit_code == 0
    assert (tmp_path / "back" / "DICOMDIR").read_bytes() == original
    assert (tmp_path / "in" / "DICOMDIR").read_bytes() == b"made anew"


def test_it_comes_back_where_nothing_stands_in_its_place(tmp_path: Path, original: bytes) -> None:
    place = tmp_path / "in" / "DICOMDIR"
    place.parent.mkdir()
    place.write_bytes(b"from an earlier run")
    write_companion(place, None, "DICOMDIR", original, SEALING)

    report = unlock([tmp_path / "in"], tmp_path / "back", [IDENTITY], [OWNER.public])

    assert not place.exists()
    assert report.exit_code == 0
    assert (tmp_path / "back" / "DICOMDIR").read_bytes() == original


def test_a_copied_object_stands_there_and_its_original_comes_back(tmp_path: Path) -> None:
    original = Path(get_testdata_file("reportsi.dcm")).read_bytes()
    copy = copy_other(original, SEALING.dangling_uid)
    write_companion(tmp_path / "in" / "report.dcm", copy, "report.dcm", original, SEALING)

    report = unlock([tmp_path / "in"], tmp_path / "back", [IDENTITY], [OWNER.public])

    assert report.exit_code == 0
    assert (tmp_path / "in" / "report.dcm").read_bytes() == copy != original
    assert (tmp_path / "back" / "report.dcm").read_bytes() == original


def test_the_owner_signs_what_is_written(tmp_path: Path, original: bytes) -> None:
    place = tmp_path / "DICOMDIR"
    write_companion(place, b"made anew", "DICOMDIR", original, SEALING)

    container = parse(sidecar_of(place).read_bytes())

    assert check_signature(container, [OWNER.public]) == OWNER.public
    assert has_companion_seal(place)
    assert is_of_companion(container.manifest)
    assert is_unchanged(container.manifest, b"made anew")
    assert not is_unchanged(container.manifest, b"made anew.")
    assert not is_unchanged(container.manifest, None)


def test_a_seal_that_stands_for_itself_speaks_of_no_file(original: bytes) -> None:
    manifest = parse(seal_other(None, "DICOMDIR", original, "2.25.1", SEALING)).manifest

    assert is_unchanged(manifest, None)
    assert not is_unchanged(manifest, original)


def test_seal_and_payload_belong_together_and_tell_nothing(original: bytes) -> None:
    data = seal_other(b"made anew", "DICOMDIR", original, "2.25.1", SEALING)
    container = parse(data)
    payload = decode(open_payload(container, [IDENTITY]))

    assert payload.subject == container.manifest.subject == "2.25.1"
    assert payload.mode == container.manifest.payload_mode == "original"
    assert container.manifest.job == job_of(SEALING, payload.original_sha256)
    assert payload.original_sha256.encode() not in data
    assert payload.recipients == (str(IDENTITY.to_public()),)


def test_the_same_run_gives_the_same_subject(tmp_path: Path, original: bytes) -> None:
    subjects = []
    for name in ("one", "two"):
        write_companion(tmp_path / name, b"made anew", "DICOMDIR", original, SEALING)
        subjects.append(parse(sidecar_of(tmp_path / name).read_bytes()).manifest.subject)
    write_companion(tmp_path / "three", b"another", "DICOMDIR", original, SEALING)
    other = parse(sidecar_of(tmp_path / "three").read_bytes()).manifest.subject

    assert subjects[0] == subjects[1] != other


@pytest.mark.parametrize("beside", [None, b"", b"nothing of the kind"])
def test_what_is_no_seal_is_none(tmp_path: Path, beside: bytes | None) -> None:
    place = tmp_path / "DICOMDIR"
    if beside is not None:
        sidecar_of(place).write_bytes(beside)

    assert not has_companion_seal(place)


def test_a_name_that_cannot_be_kept_is_refused(original: bytes) -> None:
    with pytest.raises(PictureFailed, match="cannot be sealed"):
        seal_other(None, "a/b", original, "2.25.1", SEALING)
