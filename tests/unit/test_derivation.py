"""The protected instance: a new identity, marked as derived, and no trace of the old look."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from helpers import build_dataset, encode, picture_of, ramp
from pydicom import Dataset, dcmread
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
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
    return dcmread(BytesIO(encode_instance(made)))


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
        assert list(frame_type) == ["DERIVED", "SECONDARY", "VOLUME", "NONE"]


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
    assert made.file_meta.TransferSyntaxUID == syntax
    again = read_dicom(encode_instance(made))
    np.testing.assert_array_equal(again.words, values | 0xA000)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("signed", [False, True])
def test_lossless_compression_is_kept(syntax: str, signed: bool) -> None:
    dataset = build_dataset(ramp(40, 48, top=2000), bits_stored=12, signed=signed)
    dataset.compress(syntax, generate_instance_uid=False)
    picture = picture_of(dataset)
    values = picture.image.stored[:, ::-1].copy()
    made = derive_instance(picture, values, NEW, "a logo")
    assert made.file_meta.TransferSyntaxUID == syntax
    again = read_dicom(encode_instance(made))
    np.testing.assert_array_equal(again.image.stored, values)
    assert again.dataset.SOPInstanceUID == "2.25.111"


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_lossless_colour_is_what_its_header_says(syntax: str) -> None:
    words = np.random.default_rng(0).integers(0, 256, (1, 40, 48, 3), np.uint8)
    dataset = build_dataset(words, bits_stored=8)
    dataset.compress(syntax, generate_instance_uid=False)
    picture = picture_of(dataset)
    values = picture.image.stored[:, ::-1].copy()
    again = read_dicom(encode_instance(derive_instance(picture, values, NEW, "a logo")))
    np.testing.assert_array_equal(again.image.stored, values)


def test_attribute_that_cannot_be_written_is_a_failed_picture() -> None:
    made = derive_instance(picture_of(build_dataset(ramp())), ramp().astype(int), NEW, "a logo")
    made["Rows"]._value = "many"
    with pytest.raises(PictureFailed, match="cannot be written as DICOM"):
        encode_instance(made)


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

    written = derive_instance(picture, picture.image.stored, identity, "x")

    (other,) = written.ReferencedImageSequence
    (listed,) = written.StudiesContainingOtherReferencedInstancesSequence
    assert other.ReferencedSOPInstanceUID == "2.25.99"
    assert other.ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert listed.ReferencedSeriesSequence[0].SeriesInstanceUID == "2.25.2"
    assert b"1.2.3.4.5" not in encode_instance(written)
