"""Reading DICOM: windows, polarity, padding, layouts, and what is refused or passed over."""

from __future__ import annotations

import struct
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest
from helpers import build_dataset, build_dicom, encode, picture_of, ramp
from pydicom import examples
from pydicom.data import get_testdata_file
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from miad_cli.errors import PictureFailed
from miad_cli.imaging import dicom as room
from miad_cli.imaging.dicom import DicomPicture, NoPicture, is_bare_dicom, read_dicom
from miad_cli.imaging.image import MedicalImage, Window, percentile_window, window_of
from miad_cli.imaging.picture import read_picture


def image_of(words: np.ndarray | None = None, **settings: Any) -> MedicalImage:
    words = ramp() if words is None else words
    return picture_of(build_dataset(words, **{"bits_stored": 12, **settings})).image


def bundled(name: str) -> bytes:
    path = get_testdata_file(name, download=False)
    with open(path, "rb") as file:
        return file.read()


# --- Windows ----------------------------------------------------------------------------------


def test_voi_window_is_that_of_the_standard() -> None:
    """PS3.3 C.11.2.1.2.1: black up to c - 0.5 - (w-1)/2, white above c - 0.5 + (w-1)/2."""
    assert image_of(WindowCenter=2048, WindowWidth=4096).window == Window(0, 4095)
    assert image_of(WindowCenter=100, WindowWidth=51).window == Window(74, 124)


def test_rescale_brings_the_window_to_stored_values() -> None:
    settings = {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 40}
    window = image_of(WindowWidth=401, **settings).window
    assert window == Window(round((40 - 0.5 - 200 + 1024) / 2), round((40 - 0.5 + 200 + 1024) / 2))


def test_first_of_several_windows_counts() -> None:
    window = image_of(WindowCenter=[100, 900], WindowWidth=[51, 7]).window
    assert window == Window(74, 124)


@pytest.mark.parametrize(
    ("photometric", "slope", "inverted"),
    [
        ("MONOCHROME2", 1, False),
        ("MONOCHROME1", 1, True),
        ("MONOCHROME2", -1, True),
        ("MONOCHROME1", -1, False),
    ],
)
def test_polarity_follows_photometric_interpretation_and_slope(
    photometric: str, slope: int, inverted: bool
) -> None:
    image = image_of(
        photometric=photometric,
        RescaleSlope=slope,
        RescaleIntercept=0,
        WindowCenter=slope * 1000,
        WindowWidth=101,
    )
    assert image.inverted is inverted
    assert image.window == Window(*sorted((round(slope * 949.5) * slope, round(1049.5))))
    shown = image.windowed(np.array([[900], [1100]]))
    assert shown[:, 0].tolist() == ([1.0, 0.0] if inverted else [0.0, 1.0])


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"WindowCenter": 5},
        {"WindowWidth": 5},
        {"WindowCenter": 5, "WindowWidth": 0},
        {"WindowCenter": 5, "WindowWidth": 50, "RescaleSlope": 0, "RescaleIntercept": 0},
        {"WindowCenter": None, "WindowWidth": None},
    ],
    ids=str,
)
def test_without_a_usable_window_the_percentiles_decide(attributes: dict[str, Any]) -> None:
    words = np.arange(1001, dtype="u2").reshape(1, 7, 143, 1)
    assert image_of(words, **attributes).window == Window(5, 995)


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
@pytest.mark.parametrize(("valid", "broken"), [(b"1234.5", b"nan   "), (b"2345.5", b"inf   ")])
def test_window_that_is_no_number_does_not_count(valid: bytes, broken: bytes) -> None:
    words = np.arange(1001, dtype="u2").reshape(1, 7, 143, 1)
    content = build_dicom(words, bits_stored=12, WindowCenter="1234.5", WindowWidth="2345.5")
    assert content.count(valid) == 1
    assert read_dicom(content.replace(valid, broken)).image.window == Window(5, 995)


def test_percentiles_leave_padding_out() -> None:
    words = np.concatenate([np.full(3000, 4000), np.arange(1001)]).astype("u2")
    image = image_of(words.reshape(1, 1, -1, 1), PixelPaddingValue=4000)
    assert image.window == Window(5, 995)


def test_percentiles_of_nothing_but_padding_are_the_padding() -> None:
    assert percentile_window(np.full((1, 4, 4, 1), 7), (7, 7)) == Window(7, 8)


@pytest.mark.parametrize(("low", "high"), [(5.2, 5.3), (9.0, 5.0)])
def test_window_has_a_width_and_a_direction(low: float, high: float) -> None:
    window = window_of(low, high)
    assert window.low < window.high


def test_colour_is_shown_over_its_whole_range() -> None:
    image = image_of(np.zeros((1, 4, 4, 3), "u1"), bits_stored=8, WindowCenter=5, WindowWidth=9)
    assert image.window == Window(0, 255)


def test_shown_values_run_from_black_to_white_in_three_channels() -> None:
    image = MedicalImage(np.zeros((1, 1, 1, 1), int), (0, 4095), Window(1000, 3000))
    shown = image.windowed(np.array([[0], [1000], [1500], [3000], [4095]]))
    assert shown.dtype == np.float32
    np.testing.assert_allclose(shown, np.repeat([[0], [0], [0.25], [1], [1]], 3, axis=1))


# --- Padding ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "padding"),
    [
        ({}, None),
        ({"PixelPaddingValue": 7}, (7, 7)),
        ({"PixelPaddingValue": 7, "PixelPaddingRangeLimit": 3}, (3, 7)),
        ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 20}, (0, 20)),
        ({"PixelPaddingValue": 5000}, None),
    ],
)
def test_padding_is_an_inclusive_range_of_storable_values(
    attributes: dict[str, int], padding: tuple[int, int] | None
) -> None:
    assert image_of(**attributes).padding == padding


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_signed_padding_is_read_as_signed(syntax: str) -> None:
    words = ramp(top=2047)
    image = image_of(words, signed=True, syntax=syntax, PixelPaddingValue=-2048)
    assert image.padding == (-2048, -2048)


def test_colour_has_no_padding() -> None:
    words = np.zeros((1, 4, 4, 3), "u1")
    assert image_of(words, bits_stored=8, PixelPaddingValue=0).padding is None


# --- Pixels -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "MR_small.dcm",
        "MR_small_implicit.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
    ],
)
def test_every_encoding_of_one_picture_gives_the_same_values(name: str) -> None:
    reference = read_dicom(bundled("MR_small.dcm"))
    picture = read_dicom(bundled(name))
    np.testing.assert_array_equal(picture.image.stored, reference.image.stored)
    assert picture.image.window == reference.image.window
    assert picture.image.bounds == reference.image.bounds


def test_values_agree_with_pydicom() -> None:
    picture = picture_of(examples.ct)
    np.testing.assert_array_equal(picture.image.stored[0, ..., 0], examples.ct.pixel_array)
    assert picture.image.facts.modality == "CT"
    assert picture.image.facts.sop_class_uid == examples.ct.SOPClassUID


def test_span_is_where_the_pixel_data_value_lies() -> None:
    for syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian):
        dataset = build_dataset(ramp(), syntax=syntax)
        picture = picture_of(dataset)
        start, end = picture.span
        assert picture.content[start:end] == dataset.PixelData


def test_picture_inside_a_deflated_file_has_no_span() -> None:
    dataset = build_dataset(ramp(), syntax=DeflatedExplicitVRLittleEndian)
    picture = picture_of(dataset)
    assert picture.span is None
    np.testing.assert_array_equal(picture.words, ramp())


def test_value_longer_than_the_picture_has_no_span() -> None:
    dataset = build_dataset(ramp())
    dataset.PixelData += b"\0\0"
    picture = picture_of(dataset)
    assert picture.span is None
    np.testing.assert_array_equal(picture.words, ramp())


def test_palette_becomes_colour() -> None:
    dataset = examples.palette_color
    picture = picture_of(dataset)
    assert not picture.is_native
    assert picture.layout.samples == 3
    index = int(dataset.pixel_array[100, 100])
    lookup = np.frombuffer(dataset.RedPaletteColorLookupTableData, "<u2")
    assert picture.image.stored[0, 100, 100, 0] == lookup[index] >> 8


def test_ybr_becomes_rgb() -> None:
    picture = read_dicom(bundled("SC_ybr_full_422_uncompressed.dcm"))
    assert not picture.is_native
    assert picture.image.stored.shape == (1, 100, 100, 3)
    assert picture.image.stored[0, 5, 50].tolist() == [254, 0, 0]


def test_compressed_picture_is_decoded() -> None:
    dataset = build_dataset(ramp(), bits_stored=12)
    dataset.compress(RLELossless, generate_instance_uid=False)
    picture = picture_of(dataset)
    assert picture.span is None
    assert not picture.is_native
    np.testing.assert_array_equal(picture.image.stored, ramp())


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("colour", [False, True])
def test_frames_are_decoded_one_by_one(syntax: str, colour: bool) -> None:
    generator = np.random.default_rng(3)
    words = generator.integers(0, 256, (5, 40, 48, 3 if colour else 1), np.uint8)
    dataset = build_dataset(words)
    dataset.compress(syntax, generate_instance_uid=False)
    if colour and syntax == JPEG2000Lossless:
        dataset.PhotometricInterpretation = "RGB"
    np.testing.assert_array_equal(picture_of(dataset).image.stored, words)


def test_palette_of_many_frames_becomes_colour_of_each() -> None:
    dataset = examples.palette_color
    index = dataset.pixel_array[100:140, 100:160]
    dataset.Rows, dataset.Columns = index.shape
    dataset.NumberOfFrames = 3
    dataset.PixelData = np.stack([index, index[::-1], index[:, ::-1]]).tobytes()
    stored = picture_of(dataset).image.stored
    lookup = np.frombuffer(dataset.RedPaletteColorLookupTableData, "<u2") >> 8
    np.testing.assert_array_equal(stored[0, ..., 0], lookup[index])
    np.testing.assert_array_equal(stored[1], stored[0, ::-1])
    np.testing.assert_array_equal(stored[2], stored[0, :, ::-1])


def test_uncompressed_pixels_are_not_copied() -> None:
    content = encode(build_dataset(ramp(400, 400), bits_stored=12))
    picture = read_dicom(content)
    file = np.frombuffer(content, np.uint8)
    assert np.shares_memory(picture.words, file)
    assert np.shares_memory(picture.image.stored, file)
    assert picture.pixel_data.obj is content


def test_pixel_data_is_what_lies_in_the_file() -> None:
    dataset = build_dataset(np.repeat(ramp(), 3, axis=0), bits_stored=12)
    for syntax in (ExplicitVRLittleEndian, RLELossless):
        if syntax == RLELossless:
            dataset.compress(syntax, generate_instance_uid=False)
        picture = picture_of(dataset)
        assert picture.pixel_data == dataset.PixelData == picture.dataset.PixelData
    deflated = picture_of(build_dataset(ramp(), syntax=DeflatedExplicitVRLittleEndian))
    assert deflated.pixel_data == build_dataset(ramp()).PixelData


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (16, 5000), (6000, 16)])
def test_small_and_narrow_pictures_are_read(rows: int, columns: int) -> None:
    words = ramp(rows, columns)
    np.testing.assert_array_equal(picture_of(build_dataset(words)).image.stored, words)


# --- Files without a header -------------------------------------------------------------------


def without_header(syntax: str, *, meta: bool) -> bytes:
    """A file without preamble, and without file meta information unless `meta`."""
    content = build_dicom(ramp(), bits_stored=12, syntax=syntax)
    length = int.from_bytes(content[140:144], "little")
    return content[132:] if meta else content[144 + length :]


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
)
@pytest.mark.parametrize("meta", [True, False])
def test_picture_without_header_is_read_by_its_first_element(syntax: str, meta: bool) -> None:
    content = without_header(syntax, meta=meta)
    picture = read_picture(content, PurePosixPath("IM0001"))
    assert isinstance(picture, DicomPicture)
    np.testing.assert_array_equal(picture.words, ramp())
    start, end = picture.span
    assert picture.content[start:end] == build_dataset(ramp(), syntax=syntax).PixelData


def test_header_that_names_no_syntax_is_read_by_the_first_element() -> None:
    content = build_dicom(ramp(), bits_stored=12)
    element = struct.pack("<HH2sH", 2, 0x10, b"UI", 20) + ExplicitVRLittleEndian.encode() + b"\0"
    assert content.count(element) == 1
    shorter = content.replace(element, b"")
    length = int.from_bytes(content[140:144], "little") - len(element)
    shorter = shorter[:140] + length.to_bytes(4, "little") + shorter[144:]
    np.testing.assert_array_equal(read_dicom(shorter).words, ramp())


def test_compressed_pixels_without_a_syntax_are_refused() -> None:
    dataset = build_dataset(ramp(), bits_stored=12)
    dataset.compress(RLELossless, generate_instance_uid=False)
    content = encode(dataset)
    bare = content[144 + int.from_bytes(content[140:144], "little") :]
    assert "no transfer syntax in its header says how" in refusal(bare)


def test_text_that_begins_a_little_like_dicom_is_no_dicom() -> None:
    for head in (b"\x08\x00", b"\x08\x00\x05\x00cs..", b"\x00\x08\x00\x05\0\0\0\0"):
        assert not is_bare_dicom(head)


# --- Refused and passed over ------------------------------------------------------------------


def refusal(content: bytes) -> str:
    with pytest.raises(PictureFailed) as refused:
        read_dicom(content)
    return refused.value.message


def test_cut_pixel_data_is_refused() -> None:
    dataset = build_dataset(ramp())
    dataset.PixelData = dataset.PixelData[:-2]
    assert "cut short: 382 bytes where 384 belong" in refusal(encode(dataset))


def test_file_that_ends_inside_the_pixels_is_refused() -> None:
    assert refusal(build_dicom(ramp())[:-100])


def test_header_that_announces_too_much_is_refused_before_anything_is_made() -> None:
    dataset = build_dataset(ramp())
    dataset.Rows = dataset.Columns = 65535
    dataset.NumberOfFrames = 10**6
    assert "the limit is 2048 MiB" in refusal(encode(dataset))


def test_limit_can_be_raised_and_lowered() -> None:
    content = build_dicom(ramp(600, 1000))  # 1.2 MB
    picture = read_dicom(content, largest=1_200_000)
    assert isinstance(picture, DicomPicture)
    with pytest.raises(PictureFailed, match="the limit is 1 MiB"):
        read_picture(content, PurePosixPath("x.dcm"), largest=1 << 20)


def test_limit_that_is_raised_counts_for_what_a_deflated_file_unpacks_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = build_dicom(ramp(600, 1000), syntax=DeflatedExplicitVRLittleEndian)
    monkeypatch.setattr(room, "LARGEST_INFLATED", 1 << 20)
    assert "inflates to more than 1 MiB" in refusal(content)
    assert isinstance(read_dicom(content, largest=4 << 30), DicomPicture)


def test_jpeg_of_12_bits_without_its_decoder_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "find_spec", lambda name: None)
    with pytest.raises(PictureFailed, match="pylibjpeg-libjpeg") as refused:
        read_dicom(bundled("JPGExtended.dcm"))
    assert "miad[libjpeg]" in refused.value.hint


def test_jpeg_of_12_bits_is_decoded_where_its_decoder_is_installed() -> None:
    pytest.importorskip("libjpeg", reason="pylibjpeg-libjpeg (GPL-3) is not installed")
    picture = read_dicom(bundled("JPGExtended.dcm"))
    assert picture.words.shape == (1, 1024, 256, 1)
    assert picture.layout.bits_stored == 12
    assert picture.image.stored.max() > 255


@pytest.mark.parametrize("keyword", ["Rows", "Columns"])
def test_picture_of_no_size_is_refused(keyword: str) -> None:
    dataset = build_dataset(ramp())
    setattr(dataset, keyword, 0)
    assert "is zero" in refusal(encode(dataset))


@pytest.mark.parametrize(
    ("allocated", "stored", "high"), [(12, 12, 11), (16, 17, 16), (16, 12, 10), (16, 12, 16)]
)
def test_layout_that_the_standard_does_not_know_is_refused(
    allocated: int, stored: int, high: int
) -> None:
    dataset = build_dataset(ramp())
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, stored, high
    assert "no layout of PS3.5" in refusal(encode(dataset))


def test_file_without_the_prefix_is_refused() -> None:
    assert "no DICM prefix" in refusal(b"\0" * 500)


def test_broken_structure_is_refused() -> None:
    content = build_dicom(ramp())
    assert refusal(content[:200])


def test_missing_rows_are_refused_without_a_value_in_the_message() -> None:
    dataset = build_dataset(ramp(), PatientName="Mustermann^Erika")
    del dataset.Rows
    assert "Mustermann" not in refusal(encode(dataset))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("rtdose.dcm", "a radiotherapy dose"),
        ("test-SR.dcm", "no pixels"),
        ("waveform_ecg.dcm", "no pixels"),
        ("rtplan.dcm", "no pixels"),
    ],
)
def test_object_without_a_picture_is_passed_over(name: str, reason: str) -> None:
    found = read_dicom(bundled(name))
    assert isinstance(found, NoPicture)
    assert found.reason.startswith(reason)


@pytest.mark.parametrize(
    ("sop_class", "reason"),
    [
        ("1.2.840.10008.5.1.4.1.1.66.4", "a segmentation"),
        ("1.2.840.10008.5.1.4.1.1.30", "a parametric map"),
        ("1.2.840.10008.1.3.10", "a DICOMDIR"),
    ],
)
def test_pixels_that_are_no_picture_are_passed_over(sop_class: str, reason: str) -> None:
    found = read_dicom(build_dicom(ramp(), SOPClassUID=sop_class))
    assert found == NoPicture(reason, has_pixels=True)


def test_single_bits_are_passed_over() -> None:
    dataset = build_dataset(ramp())
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit = 0
    assert read_dicom(encode(dataset)) == NoPicture("1-bit pixels", has_pixels=True)


def test_floating_point_pixels_are_passed_over() -> None:
    dataset = build_dataset(ramp())
    del dataset.PixelData
    dataset.FloatPixelData = np.zeros(192, "<f4").tobytes()
    assert read_dicom(encode(dataset)) == NoPicture("floating point pixels")


class Panic(BaseException):
    """What a decoder written in Rust raises when it panics."""


def test_decoder_that_panics_costs_one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = build_dataset(ramp())
    dataset.compress(RLELossless, generate_instance_uid=False)
    content = encode(dataset)

    def panic(dataset: object, **settings: object) -> None:
        raise Panic("index out of bounds")

    monkeypatch.setattr(room, "pixel_array", panic)
    assert "RLE Lossless: Panic" in refusal(content)


def test_keyboard_still_stops_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = build_dataset(ramp())
    dataset.compress(RLELossless, generate_instance_uid=False)
    content = encode(dataset)

    def stop(dataset: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "pixel_array", stop)
    with pytest.raises(KeyboardInterrupt):
        read_dicom(content)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("element", "broken"),
    [
        (b"\x02\x00\x10\x00UI", b"\x02\x00\x10\x00US"),
        (b"\x08\x00\x16\x00UI", b"\x08\x00\x16\x00US"),
        (b"\x28\x00\x00\x01US", b"\x28\x00\x00\x01QQ"),
        (b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00FD"),
        (b"\x20\x00\x0e\x00UI", b"\x20\x00\x0e\x00QQ"),
    ],
    ids=["transfer syntax", "SOP class", "bits allocated", "rows", "series UID"],
)
def test_attribute_of_a_wrong_type_is_refused(element: bytes, broken: bytes) -> None:
    content = build_dicom(ramp())
    assert content.count(element) == 1
    assert refusal(content.replace(element, broken))
