"""Presentation contexts, and what happens where the PACS refuses a transfer syntax."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from helpers import OWNER, build_dataset, encode, ramp
from pictures import Study, make_study, miad, protect_file, slice_of
from pydicom import Dataset, dcmread
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from pynetdicom import AllStoragePresentationContexts
from pyrage import x25519
from scp import CT, Scp, scp

from miad_cli.errors import PictureFailed
from miad_cli.pacs.outcome import Instance
from miad_cli.pacs.store import batches, contexts_for, data_set_of
from miad_cli.pacs.transcoding import FALLBACKS, transcoded
from miad_cli.pacs.wire import CONTEXT_LIMIT, VERIFICATION
from miad_cli.verify import Verdict, verify_file

NOT_PICTURES = (
    "1.2.840.10008.5.1.4.1.1.66",
    "1.2.840.10008.5.1.4.1.1.30",
    "1.2.840.10008.5.1.4.1.1.481",
)
"""Segmentations, maps and doses, which carry no picture."""


def instance_of(sop_class: str, syntax: str = ExplicitVRLittleEndian) -> Instance:
    uid = generate_uid()
    return Instance(Path(uid), PurePosixPath(uid), "", sop_class, uid, syntax, "1.2", "1.3")


def protect_one(folder: Path, dataset: Dataset, name: str = "one.dcm") -> Study:
    """A study of a single picture."""
    study = make_study(folder, slices=0)
    identity = x25519.Identity.generate()
    study.key.write_text(str(identity))
    source = study.originals / name
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_bytes(encode(dataset))
    protect_file(source, study.protected / name, identity.to_public())
    return study


def send(study: Study, place: Scp, capfd: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    capfd.readouterr()
    code = miad("send", study.protected, "--dest", place.dest, "--yes-not-clinical", "--json")
    return code, json.loads(capfd.readouterr().out)


def judged(content: bytes, folder: Path) -> Verdict:
    """What verify says of what arrived, without a sidecar."""
    path = folder / "arrived.dcm"
    path.write_bytes(content)
    return verify_file(path, [OWNER.public]).verdict


# --- Contexts ---------------------------------------------------------------------------------


def test_each_context_is_one_class_in_one_syntax() -> None:
    instances = [instance_of(CT), instance_of(CT, RLELossless), instance_of(CT)]

    contexts = contexts_for(instances)

    assert contexts[0] == (VERIFICATION, ImplicitVRLittleEndian)
    assert contexts[1:3] == [(CT, ExplicitVRLittleEndian), (CT, RLELossless)]
    assert set(contexts[3:]) == {(CT, ImplicitVRLittleEndian)}


def test_batches_keep_the_order_and_the_limit() -> None:
    instances = [instance_of(f"1.2.840.99.{number % 90}", RLELossless) for number in range(300)]

    made = list(batches(instances))

    assert [one for batch in made for one in batch] == instances
    assert len(made) > 1
    assert all(len(contexts_for(batch)) <= CONTEXT_LIMIT for batch in made)


def test_one_association_for_a_study_of_one_kind(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    study = make_study(tmp_path, slices=5)
    with scp() as place:
        code, _ = send(study, place, capfd)

    assert code == 0 and len(place.got) == 5
    echo, store = place.associations
    assert [abstract for abstract, _ in echo] == [VERIFICATION]
    assert all(len(syntaxes) == 1 for _, syntaxes in store)


def test_several_associations_for_many_kinds(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """70 kinds of image, each to be proposed in both uncompressed syntaxes."""
    named = [str(one.abstract_syntax) for one in AllStoragePresentationContexts]
    kinds = [one for one in named if not one.startswith(NOT_PICTURES)][:70]
    study = make_study(tmp_path, slices=0)
    recipient = x25519.Identity.generate().to_public()
    for number, kind in enumerate(kinds):
        dataset = build_dataset(
            ramp(8, 8), bits_stored=12, SOPClassUID=kind, SOPInstanceUID=generate_uid()
        )
        source = study.originals / f"{number}.dcm"
        source.parent.mkdir(exist_ok=True)
        source.write_bytes(encode(dataset))
        protect_file(source, study.protected / source.name, recipient)
    with scp(classes=kinds) as place:
        code, said = send(study, place, capfd)

    assert code == 0, said
    assert len(place.got) == len(kinds)
    assert len(place.associations) == 3  # C-ECHO, and two to store
    assert all(len(one) <= CONTEXT_LIMIT for one in place.associations)


# --- Transcoding ------------------------------------------------------------------------------


def compressed(syntax: str) -> Dataset:
    dataset = slice_of(1)
    dataset.compress(syntax, generate_instance_uid=False)
    return dataset


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_syntax_that_is_accepted_is_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], syntax: str
) -> None:
    study = protect_one(tmp_path, compressed(syntax))
    with scp(syntaxes=[ImplicitVRLittleEndian, syntax]) as place:
        code, said = send(study, place, capfd)

    assert code == 0 and "transcoded_to" not in said["files"][0]
    content = place.got[study.uids[0]]
    assert data_set_of(content) == data_set_of(study.files[0].read_bytes())
    assert judged(content, tmp_path) is Verdict.AUTHENTIC


@pytest.mark.parametrize("accepted", FALLBACKS)
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_syntax_that_is_refused_is_changed_without_loss_and_said_aloud(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], syntax: str, accepted: str
) -> None:
    study = protect_one(tmp_path, compressed(syntax))
    assert dcmread(study.files[0]).file_meta.TransferSyntaxUID == syntax
    with scp(syntaxes=[accepted]) as place:
        code, said = send(study, place, capfd)
        capfd.readouterr()
        miad("send", study.protected, "--dest", place.dest, "--yes-not-clinical")
        aloud = capfd.readouterr().err

    content = place.got[study.uids[0]]
    assert code == 0 and said["files"][0]["transcoded_to"] == accepted
    assert "uncompressed" in aloud and "same pixels" in aloud.replace("\n", " ")
    assert judged(content, tmp_path) is Verdict.RE_ENCODED
    back = tmp_path / "back"
    assert miad("unlock", tmp_path / "arrived.dcm", "--key", study.key, "-o", back, "-q") == 0
    assert next(back.iterdir()).read_bytes() == (study.originals / "one.dcm").read_bytes()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_uncompressed_in_implicit_vr_stays_authentic(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], syntax: str
) -> None:
    study = protect_one(tmp_path, slice_of(1, syntax=syntax))
    with scp(syntaxes=[ImplicitVRLittleEndian]) as place:
        code, said = send(study, place, capfd)

    content = place.got[study.uids[0]]
    assert code == 0 and said["files"][0]["transcoded_to"] == ImplicitVRLittleEndian
    assert judged(content, tmp_path) is Verdict.AUTHENTIC
    back = tmp_path / "back"
    assert miad("unlock", tmp_path / "arrived.dcm", "--key", study.key, "-o", back, "-q") == 0
    assert next(back.iterdir()).read_bytes() == (study.originals / "one.dcm").read_bytes()


def test_big_endian_is_not_sent_in_another_encoding(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    study = protect_one(tmp_path, slice_of(1, syntax=ExplicitVRBigEndian))
    with scp() as place:
        code, said = send(study, place, capfd)

    assert code == 3 and "big endian" in said["files"][0]["reason"]
    assert not place.got


def test_pacs_that_takes_neither_is_a_failure(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    study = protect_one(tmp_path, slice_of(1))
    with scp(syntaxes=[RLELossless]) as place:
        code, said = send(study, place, capfd)

    assert code == 10 and "neither as it is encoded nor" in said["files"][0]["reason"]


def test_transcoding_refuses_what_would_be_another_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = protect_one(tmp_path, compressed(RLELossless))
    true = Dataset.decompress

    def lossy(self: Dataset, *arguments: Any, **options: Any) -> None:
        true(self, *arguments, **options)
        self.PixelData = bytes([self.PixelData[0] ^ 1]) + self.PixelData[1:]

    monkeypatch.setattr(Dataset, "decompress", lossy)
    with pytest.raises(PictureFailed, match="not be the same picture"):
        transcoded(study.files[0].read_bytes(), ExplicitVRLittleEndian)


def test_large_pictures_and_any_pdu_length_arrive_whole(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miad_cli.pacs.wire.CHUNK", 10_000)
    study = make_study(tmp_path, slices=1, side=300)
    for maximum in (0, 4096, 5001, 1 << 20):
        with scp(maximum_pdu=maximum) as place:
            code, _ = send(study, place, capfd)
        content = place.got[study.uids[0]]
        assert code == 0
        assert data_set_of(content) == data_set_of(study.files[0].read_bytes())
    assert CTImageStorage == CT
