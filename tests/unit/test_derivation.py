"""The protected instance: a new identity, marked as derived, and no trace of the old look."""

from __future__ import annotations

import struct
from io import BytesIO

import numpy as np
import pytest
from helpers import build_dataset, encode, picture_of, ramp
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
)

from miad_cli.errors import PictureFailed
from miad_cli.imaging.derivation import (
    NewIdentity,
    derive_instance,
    embed_container,
    embedded_container,
    encode_instance,
)
from miad_cli.imaging.dicom import read_dicom

NEW = NewIdentity("2.25.111", "2.25.222")
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
CONTAINER = b"MIAD\x01 a container of odd length"
assert len(CONTAINER) % 2


def item(**attributes: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def rich_dataset(syntax: str = ExplicitVRLittleEndian) -> Dataset:
    return build_dataset(
        ramp(),
        bits_stored=12,
        syntax=syntax,
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5"],
        SeriesNumber=7,
        SeriesDescription="Thorax nativ",
        FrameOfReferenceUID="1.2.3.4.3",
        BurnedInAnnotation="NO",
        LossyImageCompression="01",
        SmallestImagePixelValue=17,
        LargestImagePixelValue=18,
        DerivationCodeSequence=[item(CodeValue="113040", CodingSchemeDesignator="DCM")],
        ContributingEquipmentSequence=[item(Manufacturer="Scanner works")],
        IconImageSequence=[item(Rows=2, Columns=2)],
        DigitalSignaturesSequence=[item(MACIDNumber=1)],
        MACParametersSequence=[item(MACIDNumber=1)],
        SourceImageSequence=[item(ReferencedSOPInstanceUID="1.2.3.4.5.6")],
    )


def derived(dataset: Dataset, values: np.ndarray | None = None) -> Dataset:
    """The protected instance as a stranger reads it."""
    picture = picture_of(dataset)
    values = picture.image.stored if values is None else values
    made = derive_instance(picture, values, NEW, "a logo")
    return dcmread(BytesIO(made.encode()))


@pytest.fixture(scope="module")
def protected() -> Dataset:
    return derived(rich_dataset())


def test_instance_and_series_are_new_and_study_and_frame_stay(protected: Dataset) -> None:
    assert protected.SOPInstanceUID == protected.file_meta.MediaStorageSOPInstanceUID == "2.25.111"
    assert protected.SeriesInstanceUID == "2.25.222"
    assert protected.StudyInstanceUID == "1.2.3.4.1"
    assert protected.FrameOfReferenceUID == "1.2.3.4.3"


def test_image_type_says_derived_and_keeps_its_other_values(protected: Dataset) -> None:
    assert list(protected.ImageType) == ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5"]


def test_image_type_is_made_where_there_is_none() -> None:
    assert list(derived(build_dataset(ramp())).ImageType) == ["DERIVED", "SECONDARY"]


def test_frame_types_say_derived_too() -> None:
    groups = [
        item(CTImageFrameTypeSequence=[item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])])
    ]
    made = derived(
        build_dataset(
            ramp(), SharedFunctionalGroupsSequence=groups, PerFrameFunctionalGroupsSequence=groups
        )
    )
    for sequence in (made.SharedFunctionalGroupsSequence, made.PerFrameFunctionalGroupsSequence):
        frame_type = sequence[0].CTImageFrameTypeSequence[0].FrameType
        assert list(frame_type) == ["DERIVED", "PRIMARY", "VOLUME", "NONE"]


def test_frames_are_described_as_derived_where_evidence_is_named() -> None:
    """PS3.3 C.7.6.16.2.6, in the shared groups where no frame has anything to say yet."""
    evidence = item(StudyInstanceUID="1.2.3.4.1", ReferencedSeriesSequence=[])
    made = derived(
        build_dataset(
            np.repeat(ramp(), 2, axis=0),
            SourceImageEvidenceSequence=[evidence],
            SharedFunctionalGroupsSequence=[item()],
            PerFrameFunctionalGroupsSequence=[item(), item()],
        )
    )
    (said,) = made.SharedFunctionalGroupsSequence[0].DerivationImageSequence
    assert said.DerivationDescription == "a logo"
    assert [one.CodeValue for one in said.DerivationCodeSequence] == ["ADVWM"]
    assert len(said.SourceImageSequence) == 0


def test_frames_without_evidence_name_no_sources() -> None:
    groups = [item()]
    made = derived(build_dataset(ramp(), SharedFunctionalGroupsSequence=groups))
    assert "DerivationImageSequence" not in made.SharedFunctionalGroupsSequence[0]


@pytest.mark.parametrize(
    ("sop_class", "second"),
    [
        ("1.2.840.10008.5.1.4.1.1.4.1", "PRIMARY"),  # Enhanced MR
        ("1.2.840.10008.5.1.4.1.1.20", "PRIMARY"),  # nuclear medicine
        ("1.2.840.10008.5.1.4.1.1.4", "SECONDARY"),
    ],
)
def test_objects_that_allow_no_secondary_stay_primary(sop_class: str, second: str) -> None:
    kind = ["ORIGINAL", "PRIMARY", "OTHER"]
    made = derived(build_dataset(ramp(), SOPClassUID=sop_class, ImageType=kind))
    assert list(made.ImageType) == ["DERIVED", second, "OTHER"]


def test_tables_beside_grey_pixels_stay() -> None:
    dataset = build_dataset(ramp(), bits_stored=12)
    dataset.RedPaletteColorLookupTableDescriptor = [256, 0, 16]
    dataset.compress(RLELossless, generate_instance_uid=False)
    assert "RedPaletteColorLookupTableDescriptor" in derived(dataset)


def test_deep_pixels_are_words_whatever_the_original_called_them() -> None:
    """PS3.5 A.2: OB would mean that their bytes are not swapped."""
    dataset = build_dataset(ramp(), syntax=ExplicitVRBigEndian)
    dataset["PixelData"].VR = "OB"
    made = derived(dataset)
    assert made["PixelData"].VR == "OW"
    np.testing.assert_array_equal(made.pixel_array, ramp()[0, ..., 0])


def test_picture_without_a_class_goes_on_without_one() -> None:
    dataset, target = build_dataset(ramp()), BytesIO()
    del dataset.SOPClassUID, dataset.file_meta
    dcmwrite(target, dataset, implicit_vr=True, little_endian=True)
    picture = read_dicom(target.getvalue())
    made = dcmread(BytesIO(derive_instance(picture, picture.words, NEW, "x").encode()))
    assert "MediaStorageSOPClassUID" not in made.file_meta
    assert "SOPClassUID" not in made
    assert made.PixelData == dataset.PixelData


def test_preamble_is_empty_whatever_stood_there() -> None:
    content = b"II*\0" + b"secret" * 20 + encode(build_dataset(ramp()))[124:]
    picture = read_dicom(content)
    assert derive_instance(picture, picture.words, NEW, "x").encode()[:128] == bytes(128)


def test_text_that_ends_in_nul_ends_in_a_space() -> None:
    dataset = build_dataset(ramp(), PatientName="Mu", ReferencedImageSequence=[item(StudyID="1")])
    content = (
        encode(dataset).replace(b"\x02\0Mu", b"\x02\0M\0").replace(b"\x02\x001 ", b"\x02\x001\0")
    )
    picture = read_dicom(content)
    made = derive_instance(picture, picture.words, NEW, "x").encode()
    assert b"PN\x02\0M " in made
    assert b"SH\x02\x001 " in made


@pytest.mark.parametrize(
    ("kind", "kept"), [(MRImageStorage, True), (EnhancedMRImageStorage, False)]
)
def test_what_is_asked_of_originals_alone_is_not_said_of_an_enhanced_mr(
    kind: str, kept: bool
) -> None:
    dataset = build_dataset(
        ramp(), SOPClassUID=kind, MRAcquisitionType="3D", ImageType=["ORIGINAL", "PRIMARY"]
    )
    assert ("MRAcquisitionType" in derived(dataset)) is kept


def test_image_type_of_pet_stays_primary() -> None:
    dataset = build_dataset(
        ramp(),
        SOPClassUID=PositronEmissionTomographyImageStorage,
        ImageType=["ORIGINAL", "PRIMARY"],
    )
    assert derived(dataset).ImageType == ["DERIVED", "PRIMARY"]


def test_what_frames_say_of_their_derivation_is_kept_without_its_source() -> None:
    before = item(
        DerivationCodeSequence=[item(CodeValue="113040", CodingSchemeDesignator="DCM")],
        SourceImageSequence=[item(ReferencedSOPInstanceUID="1.2.3.9")],
    )
    types = item(FrameType=["DERIVED", "PRIMARY", "VOLUME", "NONE"])
    frame = item(DerivationImageSequence=[before], CTImageFrameTypeSequence=[types])
    made = derived(
        build_dataset(
            np.repeat(ramp(), 2, axis=0),
            SharedFunctionalGroupsSequence=[item()],
            PerFrameFunctionalGroupsSequence=[frame, frame],
        )
    )
    assert "DerivationImageSequence" not in made.SharedFunctionalGroupsSequence[0]
    for one in made.PerFrameFunctionalGroupsSequence:
        first, ours = one.DerivationImageSequence
        assert first.DerivationCodeSequence[0].CodeValue == "113040"
        assert ours.DerivationCodeSequence[0].CodeValue == "ADVWM"
        assert len(first.SourceImageSequence) == len(ours.SourceImageSequence) == 0


def test_plain_picture_gets_no_groups() -> None:
    assert "SharedFunctionalGroupsSequence" not in derived(build_dataset(ramp()))


def test_derivation_is_described_and_coded(protected: Dataset) -> None:
    assert protected.DerivationDescription == "a logo"
    codes = [
        (one.CodeValue, one.CodingSchemeDesignator) for one in protected.DerivationCodeSequence
    ]
    assert codes == [("113040", "DCM"), ("ADVWM", "99MIAD")]
    schemes = [one.CodingSchemeDesignator for one in protected.CodingSchemeIdentificationSequence]
    assert schemes == ["99MIAD"]


def test_equipment_is_appended(protected: Dataset) -> None:
    first, ours = protected.ContributingEquipmentSequence
    assert first.Manufacturer == "Scanner works"
    purpose = ours.PurposeOfReferenceCodeSequence[0]
    assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == ("109103", "DCM")


@pytest.mark.parametrize(
    "keyword",
    [
        "IconImageSequence",
        "DigitalSignaturesSequence",
        "MACParametersSequence",
        "SourceImageSequence",
    ],
)
def test_what_shows_or_names_the_original_is_gone(protected: Dataset, keyword: str) -> None:
    assert keyword not in protected


def test_annotation_and_compression_history_stay(protected: Dataset) -> None:
    assert protected.BurnedInAnnotation == "NO"
    assert protected.LossyImageCompression == "01"


def test_series_is_numbered_and_named_as_protected(protected: Dataset) -> None:
    assert protected.SeriesNumber == 9007
    assert protected.SeriesDescription == "[PROTECTED, NOT FOR DIAGNOSIS] Thorax nativ"


@pytest.mark.parametrize("length", [0, 33, 34, 64])
def test_series_description_fits_its_vr(length: int) -> None:
    made = derived(build_dataset(ramp(), SeriesDescription="x" * length))
    assert made.SeriesDescription.startswith("[PROTECTED, NOT FOR DIAGNOSIS]")
    assert len(made.SeriesDescription) <= 64


def test_largest_series_number_does_not_stop_a_picture() -> None:
    made = derived(build_dataset(ramp(), SeriesNumber=2**31 - 1))
    assert int(made.SeriesNumber) < 2**31


@pytest.mark.parametrize("syntax", NATIVE)
def test_smallest_and_largest_value_are_those_written(syntax: str) -> None:
    values = np.full((1, 12, 16, 1), 100, np.int32)
    values[0, 0, 0, 0], values[0, 3, 3, 0] = 5, 4000
    made = derived(rich_dataset(syntax), values)
    assert (made.SmallestImagePixelValue, made.LargestImagePixelValue) == (5, 4000)


def test_negative_smallest_value_is_written_as_signed() -> None:
    dataset = build_dataset(
        ramp(top=2000), signed=True, SmallestImagePixelValue=0, LargestImagePixelValue=1
    )
    values = np.full((1, 12, 16, 1), -1000, np.int32)
    made = derived(dataset, values)
    assert (made.SmallestImagePixelValue, made.LargestImagePixelValue) == (-1000, -1000)


def test_smallest_and_largest_are_not_added(protected: Dataset) -> None:
    assert "SmallestImagePixelValue" not in derived(build_dataset(ramp()))


def test_original_data_set_is_left_as_it_was() -> None:
    picture = picture_of(rich_dataset())
    derive_instance(picture, picture.image.stored * 0, NEW, "a logo")
    assert picture.dataset.SOPInstanceUID == "1.2.3.4.5.6"
    assert picture.image.stored.max() == 4095


# --- Pixels and syntax ------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", NATIVE)
def test_native_picture_keeps_its_syntax_and_every_other_bit(syntax: str) -> None:
    words = ramp() | 0xA000
    dataset = build_dataset(words, bits_stored=12, syntax=syntax)
    picture = picture_of(dataset)
    values = (4095 - picture.image.stored).astype(np.int32)
    made = derive_instance(picture, values, NEW, "a logo")
    assert made.dataset.file_meta.TransferSyntaxUID == syntax
    again = read_dicom(made.encode())
    np.testing.assert_array_equal(again.words, values | 0xA000)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("signed", [False, True])
def test_lossless_compression_is_kept(syntax: str, signed: bool) -> None:
    dataset = build_dataset(ramp(40, 48, top=2000), bits_stored=12, signed=signed)
    dataset.compress(syntax, generate_instance_uid=False)
    picture = picture_of(dataset)
    values = picture.image.stored[:, ::-1].copy()
    made = derive_instance(picture, values, NEW, "a logo")
    assert made.dataset.file_meta.TransferSyntaxUID == syntax
    again = read_dicom(made.encode())
    np.testing.assert_array_equal(again.image.stored, values)
    assert again.dataset.SOPInstanceUID == "2.25.111"


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_lossless_colour_is_what_its_header_says(syntax: str) -> None:
    words = np.random.default_rng(0).integers(0, 256, (1, 40, 48, 3), np.uint8)
    dataset = build_dataset(words, bits_stored=8)
    dataset.compress(syntax, generate_instance_uid=False)
    picture = picture_of(dataset)
    values = picture.image.stored[:, ::-1].copy()
    again = read_dicom(derive_instance(picture, values, NEW, "a logo").encode())
    np.testing.assert_array_equal(again.image.stored, values)


def test_attribute_that_cannot_be_written_is_a_failed_picture() -> None:
    made = derive_instance(picture_of(build_dataset(ramp())), ramp().astype(int), NEW, "a logo")
    made.dataset["Rows"]._value = "many"
    with pytest.raises(PictureFailed, match="cannot be written as DICOM"):
        made.encode()


# --- Private block ----------------------------------------------------------------------------


def reread(dataset: Dataset, syntax: str) -> Dataset:
    dataset.file_meta.TransferSyntaxUID = syntax
    return dcmread(BytesIO(encode(dataset)))


def test_container_travels_in_our_block() -> None:
    dataset = build_dataset(ramp())
    embed_container(dataset, CONTAINER)
    assert dataset[0x4D49, 0x0010].value == "MIAD"
    assert dataset[0x4D49, 0x1001].value == "1"
    again = reread(dataset, ExplicitVRLittleEndian)
    assert again[0x4D49, 0x1002].VR == "OB"
    assert embedded_container(again) == CONTAINER + b"\0"


def test_block_is_found_by_creator_behind_somebody_elses() -> None:
    dataset = build_dataset(ramp())
    stranger = dataset.private_block(0x4D49, "SOMEBODY ELSE", create=True)
    stranger.add_new(0x02, "OB", b"not a container!")
    assert embedded_container(dataset) is None
    embed_container(dataset, CONTAINER)
    assert dataset[0x4D49, 0x0011].value == "MIAD"
    again = reread(dataset, ExplicitVRLittleEndian)
    assert embedded_container(again) == CONTAINER + b"\0"
    assert again[0x4D49, 0x1002].value == b"not a container!"


def test_container_is_read_after_implicit_vr() -> None:
    dataset = build_dataset(ramp())
    embed_container(dataset, CONTAINER)
    implicit = reread(dataset, ImplicitVRLittleEndian)
    assert implicit[0x4D49, 0x1002].VR == "UN"
    assert embedded_container(implicit) == CONTAINER + b"\0"
    explicit = reread(implicit, ExplicitVRLittleEndian)
    assert embedded_container(explicit) == CONTAINER + b"\0"


def test_container_put_in_again_replaces_the_first() -> None:
    dataset = build_dataset(ramp())
    embed_container(dataset, b"first")
    embed_container(dataset, b"second")
    assert embedded_container(dataset) == b"second"
    assert len([one for one in dataset if one.tag.group == 0x4D49]) == 3


def test_file_without_our_block_holds_no_container() -> None:
    assert embedded_container(build_dataset(ramp())) is None


def test_uids_of_other_instances_are_not_told() -> None:
    dataset = build_dataset(ramp())
    image, series, study = Dataset(), Dataset(), Dataset()
    image.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    image.ReferencedSOPInstanceUID = "1.2.3.4.5"
    series.SeriesInstanceUID = dataset.SeriesInstanceUID
    series.ReferencedSOPSequence = [image]
    study.ReferencedSeriesSequence = [series]
    dataset.ReferencedImageSequence = [image]
    dataset.StudiesContainingOtherReferencedInstancesSequence = [study]
    picture = picture_of(dataset)
    identity = NewIdentity("2.25.1", "2.25.2", lambda uid: "2.25.99")

    made = derive_instance(picture, picture.image.stored, identity, "x")
    written = made.dataset

    (other,) = written.ReferencedImageSequence
    (listed,) = written.StudiesContainingOtherReferencedInstancesSequence
    assert other.ReferencedSOPInstanceUID == "2.25.99"
    assert other.ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert listed.ReferencedSeriesSequence[0].SeriesInstanceUID == "2.25.2"
    assert b"1.2.3.4.5" not in made.encode()


OTHER_INSTANCES = {
    "ReferencedImageSequence": "1.2.9.1",
    "ReferencedInstanceSequence": "1.2.9.2",
    "ConversionSourceAttributesSequence": "1.2.9.3",
    "ReferencedImageEvidenceSequence": "1.2.9.4",
    "ReferencedWaveformSequence": "1.2.9.5",
}


def referring() -> Dataset:
    """References of every kind, at the top, in functional groups and below other sequences."""
    image = {
        keyword: [item(ReferencedSOPInstanceUID=uid)] for keyword, uid in OTHER_INSTANCES.items()
    }
    frame = item(ReferencedImageSequence=[item(ReferencedSOPInstanceUID="1.2.9.6")])
    earlier = item(SOPInstanceUID="1.2.9.7", SeriesInstanceUID="1.2.9.8")
    return build_dataset(
        ramp(),
        **image,
        StudyInstanceUID="1.2.8.1",
        FrameOfReferenceUID="1.2.8.2",
        ReferencedFrameOfReferenceSequence=[item(FrameOfReferenceUID="1.2.8.3")],
        ReferencedStudySequence=[item(ReferencedSOPInstanceUID="1.2.8.1")],
        SharedFunctionalGroupsSequence=[frame],
        OriginalAttributesSequence=[item(ModifiedAttributesSequence=[earlier])],
        SOPInstanceUIDOfConcatenationSource="1.2.9.9",
        ConcatenationUID="1.2.9.10",
        SourceImageSequence=[item(ReferencedSOPInstanceUID="1.2.9.11")],
    )


def test_reference_is_asked_for_everything_that_is_referred_to_and_kept() -> None:
    asked: list[str] = []

    def reference(uid: str) -> str:
        asked.append(uid)
        return f"2.25.{len(asked)}"

    picture = picture_of(referring())
    identity = NewIdentity("2.25.1001", "2.25.1002", reference)
    made = derive_instance(picture, picture.image.stored, identity, "x")

    assert set(asked) == {*OTHER_INSTANCES.values(), *(f"1.2.9.{n}" for n in range(6, 11))}
    assert b"1.2.9." not in made.encode()


def test_study_and_frames_of_reference_stay_wherever_they_are_named() -> None:
    made = derived(referring())
    assert made.StudyInstanceUID == "1.2.8.1"
    assert made.ReferencedStudySequence[0].ReferencedSOPInstanceUID == "1.2.8.1"
    assert made.FrameOfReferenceUID == "1.2.8.2"
    assert made.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID == "1.2.8.3"


# --- Encoding ---------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [*NATIVE, DeflatedExplicitVRLittleEndian])
def test_file_is_what_pydicom_writes(syntax: str) -> None:
    dataset = build_dataset(ramp(), syntax=syntax)
    dataset.add_new(0xFFFCFFFC, "OB", b"\0\0")  # something behind the pixels
    plain = encode(dataset)
    assert encode_instance(dataset) == plain
    assert dataset.PixelData == build_dataset(ramp(), syntax=syntax).PixelData


def test_compressed_file_is_what_pydicom_writes() -> None:
    dataset = build_dataset(ramp(), bits_stored=12)
    dataset.compress(RLELossless, generate_instance_uid=False)
    assert encode_instance(dataset) == encode(dataset)


def test_command_that_came_with_the_object_is_not_written() -> None:
    content = encode(build_dataset(ramp(), syntax=ImplicitVRLittleEndian))
    bare = content[144 + int.from_bytes(content[140:144], "little") :]
    group = struct.pack("<HHIH", 0, 0x0100, 2, 1)
    command = struct.pack("<HHII", 0, 0, 4, len(group)) + group
    start = content.index(bare)
    picture = read_dicom(content[:start] + command + bare)
    made = dcmread(BytesIO(derive_instance(picture, picture.words, NEW, "x").encode()))
    assert (0x0000, 0x0100) not in made


def test_file_without_header_gets_one() -> None:
    content = encode(build_dataset(ramp(), syntax=ImplicitVRLittleEndian))
    bare = content[144 + int.from_bytes(content[140:144], "little") :]
    picture = read_dicom(bare)
    made = derive_instance(picture, picture.words, NEW, "x").encode()
    assert made[128:132] == b"DICM"
    assert dcmread(BytesIO(made)).file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
