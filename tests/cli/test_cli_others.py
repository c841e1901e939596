"""What comes along with pictures: objects without one, and a DICOMDIR."""

from __future__ import annotations

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedSRStorage, ExplicitVRLittleEndian, generate_uid

FINDING = "Mass in the left lobe"


def write_report(path, *pictures):
    """A structured report on pictures."""
    first = dcmread(pictures[0])
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = EnhancedSRStorage, generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = first.StudyInstanceUID, generate_uid()
    made.PatientName, made.PatientID = first.PatientName, first.PatientID
    made.Modality, made.StudyID, made.SeriesNumber, made.InstanceNumber = "SR", "1", 1, 1
    made.StudyDate = made.ContentDate = "20200101"
    made.StudyTime = made.ContentTime = "120000"
    made.CompletionFlag, made.VerificationFlag = "COMPLETE", "UNVERIFIED"
    made.ValueType, made.ContinuityOfContent = "CONTAINER", "SEPARATE"
    title = Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = "18748-4", "LN", "Report"
    made.ConceptNameCodeSequence = Sequence([title])
    said = Dataset()
    said.RelationshipType, said.ValueType, said.TextValue = "CONTAINS", "TEXT", FINDING
    made.ContentSequence = Sequence([said])
    made.ReferencedImageSequence = Sequence()
    for picture in pictures:
        item, instance = Dataset(), dcmread(picture)
        item.ReferencedSOPClassUID = instance.SOPClassUID
        item.ReferencedSOPInstanceUID = instance.SOPInstanceUID
        made.ReferencedImageSequence.append(item)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def reported(study):
    write_report(study / "report.dcm", study / "one.dcm", study / "deep" / "two.dcm")
    return study


@pytest.fixture
def protect(miad, logo):
    def call(*options):
        return miad("protect", "study", "--logo", logo, "-o", "out", "--json",
                    "--search", "random", "--key-out", "key.txt", *options)  # fmt: skip

    return call


def test_others_are_passed_over_unless_asked_for(reported, protect, work):
    said = protect()

    assert said.code == 0
    assert said.file("report.dcm")["state"] == "passed over"
    assert not (work / "out" / "report.dcm").exists()
    assert "keep the source" in said.err


def test_copied_report_refers_to_the_protected_pictures(reported, protect, work):
    said = protect("--copy-others")

    assert said.code == 0
    assert said.file("report.dcm")["state"] == "copied"
    assert "in clear" in said.err
    copy, original = dcmread(work / "out" / "report.dcm"), dcmread(reported / "report.dcm")
    pictures = [dcmread(work / "out" / name) for name in ("one.dcm", "deep/two.dcm")]
    referenced = [item.ReferencedSOPInstanceUID for item in copy.ReferencedImageSequence]
    assert referenced == [picture.SOPInstanceUID for picture in pictures]
    assert copy.SOPInstanceUID != original.SOPInstanceUID
    assert copy.SeriesInstanceUID != original.SeriesInstanceUID
    assert copy.StudyInstanceUID == pictures[0].StudyInstanceUID
    assert copy.ContentSequence[0].TextValue == FINDING
    content = (work / "out" / "report.dcm").read_bytes()
    assert original.SOPInstanceUID.encode() not in content


def test_copies_verify_and_come_back_byte_for_byte(reported, protect, miad, digests, work):
    protect("--copy-others")

    seen = miad("verify", "out", "--json", "--key", "key.txt")
    assert seen.code == 0
    assert {one["verdict"] for one in seen.json["files"]} == {"authentic"}
    assert miad("unlock", "out", "--key", "key.txt", "-o", "back").code == 0
    assert digests(work / "back") == digests(reported)


def test_changed_copy_is_not_authentic(reported, protect, miad, work):
    protect("--copy-others")
    path = work / "out" / "report.dcm"
    path.write_bytes(path.read_bytes().replace(FINDING.encode(), FINDING.upper().encode()))

    seen = miad("verify", "out", "--json")

    assert seen.code == 6
    assert "byte for byte" in seen.file("report.dcm")["reason"]


def test_copies_follow_a_change_of_keys(reported, protect, miad, digests, work):
    protect("--copy-others")
    made = miad("keys", "new", "identity", "new.txt", "--json")
    recipient = made.json["public"]

    said = miad("keys", "rekey", "out", "--key", "key.txt", "--add", recipient)

    assert said.code == 0, said.err
    assert miad("unlock", "out", "--key", "new.txt", "-o", "back").code == 0
    assert digests(work / "back") == digests(reported)
    assert miad("verify", "out").code == 0


def test_a_copy_that_would_lead_back_is_refused_and_the_pictures_are_not(reported, protect, work):
    path = reported / "report.dcm"
    report = dcmread(path)
    report.ContentSequence[0].TextValue = f"see {dcmread(reported / 'one.dcm').SOPInstanceUID}"
    report.save_as(path)

    said = protect("--copy-others")

    assert said.code == 3
    assert said.file("report.dcm")["state"] == "failed"
    assert said.file("one.dcm")["state"] == "protected"
    assert not (work / "out" / "report.dcm").exists()


@pytest.fixture
def medium(make, work, tool):
    """`study/`: a file-set as it stands on a disc, with the DICOMDIR that DCMTK makes of it."""
    for number in (1, 2, 3):
        make.dicom(work / "study" / "IMAGES" / f"I{number}", number, StudyID="1",
                   StudyDate="20200101", StudyTime="120000", InstanceNumber=number)  # fmt: skip
    place = work / "study"
    made = tool("dcmmkdir", "+D", place / "DICOMDIR", "+id", place, "+r", "-W")
    assert made.returncode == 0, made.stderr
    assert len(named_in(place / "DICOMDIR")) == 3
    return place


def named_in(directory):
    """Files that a DICOMDIR names, and their SOP Instance UIDs."""
    records = dcmread(directory).DirectoryRecordSequence
    return {
        "/".join(one.ReferencedFileID): one.ReferencedSOPInstanceUIDInFile
        for one in records
        if "ReferencedFileID" in one
    }


def test_dicomdir_is_made_anew_and_comes_back(medium, protect, miad, digests, work):
    said = protect()

    assert said.code == 0
    assert said.file("DICOMDIR")["state"] == "copied"
    made = named_in(work / "out" / "DICOMDIR")
    protected = {one["name"] for one in said.json["files"] if one["state"] == "protected"}
    assert set(made) == protected
    for name, uid in made.items():
        assert dcmread(work / "out" / name).SOPInstanceUID == uid
    content = (work / "out" / "DICOMDIR").read_bytes()
    for uid in named_in(medium / "DICOMDIR").values():
        assert uid.encode() not in content
    seen = miad("verify", "out", "--json")
    assert seen.code == 0
    assert seen.file("DICOMDIR")["verdict"] == "authentic"
    assert miad("unlock", "out", "--key", "key.txt", "-o", "back").code == 0
    assert digests(work / "back") == digests(medium)


def test_dicomdir_that_cannot_be_made_is_sealed_all_the_same(
    medium, make, protect, miad, digests, work
):
    make.dicom(medium / "no-name-for-a-medium.dcm", 9)

    said = protect()

    assert said.code == 0
    assert said.file("DICOMDIR")["state"] == "passed over"
    assert "no name for removable media" in said.file("DICOMDIR")["reason"]
    assert not (work / "out" / "DICOMDIR").exists()
    assert miad("verify", "out").code == 0
    assert miad("unlock", "out", "--key", "key.txt", "-o", "back").code == 0
    assert digests(work / "back") == digests(medium)


def test_dry_run_leaves_nothing(reported, protect, work):
    said = protect("--copy-others", "--dry-run")

    assert said.code == 0
    assert said.file("report.dcm")["state"] == "planned"
    assert not (work / "out").exists()


def test_dicomdir_names_what_is_dicom_only(medium, make, protect, work):
    make.raster(medium / "photo.png", make.grey())

    said = protect()

    assert said.file("photo.png")["state"] == "protected"
    assert said.file("DICOMDIR")["state"] == "copied"
    assert len(named_in(work / "out" / "DICOMDIR")) == 3


@pytest.mark.parametrize("again", [("--resume",), ("--on-exists", "replace")])
def test_again(reported, protect, miad, work, again):
    protect("--copy-others")
    uid = dcmread(work / "out" / "report.dcm").SOPInstanceUID

    said = protect("--copy-others", *again)

    assert said.code == 0
    assert dcmread(work / "out" / "report.dcm").SOPInstanceUID == uid
    assert miad("verify", "out").code == 0


def test_what_an_earlier_run_left_is_taken_away(reported, protect, work, left):
    protect("--copy-others")
    assert (work / "out" / "report.dcm").exists()

    said = protect("--on-exists", "replace")

    assert said.file("report.dcm")["state"] == "passed over"
    assert not [name for name in left(work / "out") if name.startswith("report")]


def test_what_others_put_there_stays(reported, protect, work):
    protect()
    (work / "out" / "report.dcm").write_bytes(b"mine")

    protect("--on-exists", "replace")

    assert (work / "out" / "report.dcm").read_bytes() == b"mine"
