"""Objects without a picture, copied under new UIDs or refused with a sentence."""

from __future__ import annotations

from io import BytesIO

import pytest
from helpers import build_dataset, build_dicom, encode, ramp
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, RawDataStorage

from miad_cli.errors import PictureFailed
from miad_cli.imaging.derivation import CREATOR_UID
from miad_cli.imaging.others import copy_other

SR = "1.2.840.10008.5.1.4.1.1.88.11"
OWN, SERIES, STUDY = "1.2.3.4.5.6", "1.2.3.4.2", "1.2.3.4.1"
PICTURE, PICTURE_SERIES = "1.2.9.1.1", "1.2.9.1"


def new_uid(original: str) -> str:
    return f"2.25.{sum(original.encode())}{len(original)}"


def report(**attributes) -> Dataset:
    """A structured report that refers to a picture of the study."""
    dataset = build_dataset(ramp(), SOPClassUID=SR, Modality="SR")
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(dataset, keyword)
    dataset.FrameOfReferenceUID = "1.2.3.4.9"
    reference, series, study = Dataset(), Dataset(), Dataset()
    reference.ReferencedSOPInstanceUID = PICTURE
    series.SeriesInstanceUID, series.ReferencedSOPSequence = PICTURE_SERIES, Sequence([reference])
    study.StudyInstanceUID, study.ReferencedSeriesSequence = STUDY, Sequence([series])
    dataset.CurrentRequestedProcedureEvidenceSequence = Sequence([study])
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def copied(dataset: Dataset, *originals: str) -> Dataset:
    return dcmread(BytesIO(copy_other(encode(dataset), new_uid, frozenset(originals))))


def test_own_uids_are_new_and_those_of_study_and_frame_stay() -> None:
    copy = copied(report())

    assert copy.SOPInstanceUID == copy.file_meta.MediaStorageSOPInstanceUID == new_uid(OWN)
    assert copy.SeriesInstanceUID == new_uid(SERIES)
    assert copy.StudyInstanceUID == STUDY
    assert copy.FrameOfReferenceUID == "1.2.3.4.9"
    assert copy.InstanceCreatorUID == CREATOR_UID


def test_references_follow_the_protected_instances() -> None:
    study = copied(report()).CurrentRequestedProcedureEvidenceSequence[0]

    assert study.StudyInstanceUID == STUDY
    assert study.ReferencedSeriesSequence[0].SeriesInstanceUID == new_uid(PICTURE_SERIES)
    referenced = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert referenced.ReferencedSOPInstanceUID == new_uid(PICTURE)


def test_a_reference_to_the_study_itself_stays() -> None:
    reference = Dataset()
    reference.ReferencedSOPInstanceUID = STUDY

    copy = copied(report(ReferencedStudySequence=Sequence([reference])))

    assert copy.ReferencedStudySequence[0].ReferencedSOPInstanceUID == STUDY


def test_an_original_uid_in_any_other_uid_element_is_replaced() -> None:
    content = Dataset()
    content.ValueType, content.UID = "UIDREF", PICTURE_SERIES

    copy = copied(report(ContentSequence=Sequence([content])), PICTURE_SERIES)

    assert new_uid(PICTURE_SERIES) == copy.ContentSequence[0].UID


def test_a_uid_that_is_referred_to_elsewhere_in_the_object_is_replaced() -> None:
    content = Dataset()
    content.ValueType, content.UID = "UIDREF", PICTURE

    copy = copied(report(ContentSequence=Sequence([content])))

    assert new_uid(PICTURE) == copy.ContentSequence[0].UID


def test_a_uid_that_names_no_instance_stays() -> None:
    content = Dataset()
    content.ValueType, content.UID = "UIDREF", "1.2.77.5"

    copy = copied(report(ContentSequence=Sequence([content])), PICTURE_SERIES)

    assert copy.ContentSequence[0].UID == "1.2.77.5"


def test_icons_and_signatures_are_dropped() -> None:
    icon, signature = build_dataset(ramp(8, 8, 255, "u1")), Dataset()
    signature.DigitalSignatureUID = "1.2.5"

    copy = copied(
        report(
            IconImageSequence=Sequence([icon]),
            DigitalSignaturesSequence=Sequence([signature]),
        )
    )

    assert "IconImageSequence" not in copy
    assert "DigitalSignaturesSequence" not in copy


def in_text() -> Dataset:
    content = Dataset()
    content.ValueType, content.TextValue = "TEXT", f"see image {PICTURE}, left"
    return report(ContentSequence=Sequence([content]))


def in_a_private_element() -> Dataset:
    dataset = report()
    block = dataset.private_block(0x1129, "SOMEBODY", create=True)
    block.add_new(0x10, "OB", b"\0\1" + OWN.encode() + b"\0")
    return dataset


def in_an_unknown_element() -> Dataset:
    dataset = report()
    dataset.add_new(0x00091001, "UN", b"series " + PICTURE_SERIES.encode() + b";")
    return dataset


def before_digits() -> Dataset:
    """A UID with no character between it and the next element, whose tag begins with a digit."""
    dataset = report(PatientComments="x" + PICTURE)
    dataset.add_new(0x00320001, "UN", b"1234")
    return dataset


def in_a_url() -> Dataset:
    return report(RetrieveURL=f"https://pacs/studies/{STUDY}/series/{SERIES}")


def deflated() -> Dataset:
    dataset = in_text()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return dataset


@pytest.mark.parametrize(
    "make",
    [in_text, in_a_private_element, in_an_unknown_element, before_digits, in_a_url, deflated],
)
def test_an_original_uid_that_would_be_left_is_refused(make) -> None:
    with pytest.raises(PictureFailed, match="leading back to the originals"):
        copied(make(), PICTURE_SERIES)


def test_a_kept_uid_that_begins_like_an_original_one_is_no_trace() -> None:
    dataset = report()
    dataset.FrameOfReferenceUID = SERIES + ".1"

    assert copied(dataset).FrameOfReferenceUID == SERIES + ".1"


def test_a_uid_in_text_that_is_none_of_ours_is_no_trace() -> None:
    assert copied(report(PatientComments="1.2.840.10008.1.2.1")).SOPInstanceUID == new_uid(OWN)


def private_kind() -> Dataset:
    return report(SOPClassUID="1.3.12.2.1107.5.9.1")


def raw_data() -> Dataset:
    return report(SOPClassUID=RawDataStorage)


def document() -> Dataset:
    return report(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.104.1",
        EncapsulatedDocument=b"%PDF-1.7",
        MIMETypeOfEncapsulatedDocument="application/pdf",
    )


def encrypted() -> Dataset:
    secret = Dataset()
    secret.EncryptedContent = b"\x01\x02"
    return report(EncryptedAttributesSequence=Sequence([secret]))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (private_kind, "private kind"),
        (raw_data, "raw data"),
        (document, "encapsulated document"),
        (encrypted, "encrypted attributes"),
    ],
)
def test_what_nobody_can_look_through_is_refused(make, reason: str) -> None:
    with pytest.raises(PictureFailed, match=reason):
        copied(make())


def test_pictures_directories_and_what_is_no_dicom_are_refused() -> None:
    with open(get_testdata_file("DICOMDIR"), "rb") as opened:
        directory = opened.read()

    for content in (build_dicom(ramp()), directory, b"no DICOM at all"):
        with pytest.raises(PictureFailed):
            copy_other(content, new_uid)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    ["test-SR.dcm", "reportsi.dcm", "rtplan.dcm", "rtdose.dcm", "rtdose_rle.dcm",
     "liver_1frame.dcm", "waveform_ecg.dcm"],
)  # fmt: skip
def test_real_objects_are_copied_without_a_trace(name: str) -> None:
    with open(get_testdata_file(name), "rb") as opened:
        content = opened.read()
    original = dcmread(BytesIO(content))
    uids = {str(original.SOPInstanceUID), str(original.SeriesInstanceUID)}

    written = copy_other(content, new_uid, uids)
    copy = dcmread(BytesIO(written))

    assert all(uid.encode() not in written for uid in uids)
    assert copy.SOPInstanceUID == new_uid(original.SOPInstanceUID)
    assert copy.StudyInstanceUID == original.StudyInstanceUID
    assert copy.file_meta.TransferSyntaxUID == original.file_meta.TransferSyntaxUID
    for keyword in ("PixelData", "WaveformSequence", "DoseGridScaling", "BeamSequence"):
        if keyword in original:
            assert copy[keyword].value == original[keyword].value, keyword
