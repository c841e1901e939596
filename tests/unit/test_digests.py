"""Digests outlive a change of encoding and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from helpers import build_dataset, build_png, encode, picture_of, ramp
from pydicom import Dataset, dcmread
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from miad_cli.imaging.digests import PICTURE_ATTRIBUTES, attribute_facts, values_digest
from miad_cli.imaging.picture import Identity, evidence_of, identify
from miad_cli.imaging.raster import embed_in_png, read_raster

GEOMETRY = {
    "PixelSpacing": [0.7, 0.7],
    "ImagePositionPatient": [-1.5, 2, 3],
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    "WindowCenter": 40,
    "WindowWidth": 400,
    "RescaleSlope": 1,
    "RescaleIntercept": -1024,
    "RescaleType": "HU",
    "PixelPaddingValue": -2000,
    "PatientName": "Mustermann^Erika",
}


def instance(syntax: str = ExplicitVRLittleEndian, words: np.ndarray | None = None) -> Dataset:
    words = ramp(40, 48, top=2000) if words is None else words
    return build_dataset(words, bits_stored=12, signed=True, syntax=syntax, **GEOMETRY)


def identity_of(dataset: Dataset) -> Identity:
    return identify(picture_of(dataset))


def compressed(syntax: str) -> Dataset:
    dataset = dcmread(BytesIO(encode(instance())))
    dataset.compress(syntax, generate_instance_uid=False)
    return dataset


BUNDLED = sorted(Path(pydicom.data.__file__).parent.rglob("[A-Z]*_*.dcm"))

REFERENCE = identity_of(instance())


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_identity_outlives_another_native_encoding(syntax: str) -> None:
    found = identity_of(instance(syntax))
    assert found.subject == REFERENCE.subject
    assert found.pixels_sha256 == REFERENCE.pixels_sha256
    assert found.attributes_sha256 == REFERENCE.attributes_sha256


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_identity_outlives_lossless_compression_which_shows(syntax: str) -> None:
    found = identity_of(compressed(syntax))
    assert found.pixels_sha256 == REFERENCE.pixels_sha256
    assert found.attributes_sha256 == REFERENCE.attributes_sha256
    assert found.pixel_data_sha256 != REFERENCE.pixel_data_sha256


def test_bundled_files_of_one_picture_have_one_digest() -> None:
    from pydicom.data import get_testdata_file

    digests = set()
    for name in ("MR_small", "MR_small_implicit", "MR_small_bigendian", "MR_small_RLE"):
        path = get_testdata_file(f"{name}.dcm", download=False)
        digests.add(identity_of(dcmread(path)).pixels_sha256)
    assert len(digests) == 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.name)
def test_facts_from_bytes_are_those_of_the_values_that_pydicom_makes(path: Path) -> None:
    parsed, converted = dcmread(path, force=True), dcmread(path, force=True)
    for element in converted:
        assert element.tag is not None  # going through a data set makes values of its bytes
    assert attribute_facts(parsed) == attribute_facts(converted)


def test_pixel_data_digest_is_of_the_value_as_stored() -> None:
    expected = hashlib.sha256(ramp(40, 48, top=2000).tobytes()).hexdigest()
    assert REFERENCE.pixel_data_sha256 == expected


@pytest.mark.parametrize("place", [0, 1919])
def test_one_changed_value_changes_the_pixel_digest_alone(place: int) -> None:
    words = ramp(40, 48, top=2000)
    words.reshape(-1)[place] ^= 1
    found = identity_of(instance(words=words))
    assert found.pixels_sha256 != REFERENCE.pixels_sha256
    assert found.attributes_sha256 == REFERENCE.attributes_sha256


def test_overlay_in_the_high_bits_is_part_of_the_pixels() -> None:
    plain, overlay = ramp(), ramp()
    overlay[0, 3, 3, 0] |= 0x8000
    elsewhere = np.roll(overlay & 0xF000, 1, axis=2) | plain
    one = identity_of(build_dataset(plain, bits_stored=12))
    third = identity_of(build_dataset(elsewhere, bits_stored=12))
    other = identity_of(build_dataset(overlay, bits_stored=12))
    moved = identity_of(build_dataset(overlay, bits_stored=12, syntax=ExplicitVRBigEndian))
    assert len({each.pixels_sha256 for each in (one, other, third)}) == 3
    assert other.pixels_sha256 == moved.pixels_sha256


def test_same_bytes_in_another_shape_have_another_digest() -> None:
    values = np.arange(24).reshape(1, 4, 6, 1)
    digests = {
        values_digest(values, 16, False),
        values_digest(values.reshape(1, 6, 4, 1), 16, False),
        values_digest(values.reshape(2, 2, 6, 1), 16, False),
        values_digest(values.reshape(1, 4, 2, 3), 16, False),
        values_digest(values, 12, False),
        values_digest(values, 16, True),
    }
    assert len(digests) == 6


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("WindowCenter", 41),
        ("PixelSpacing", [0.7, 0.71]),
        ("ImagePositionPatient", [1.5, 2, 3]),
        ("RescaleIntercept", 0),
        ("RescaleType", "US"),
        ("PixelPaddingValue", -1999),
        ("SOPInstanceUID", "1.2.3.4.5.7"),
        ("StudyInstanceUID", "1.2.3.4.9"),
        ("VOILUTFunction", "SIGMOID"),
    ],
)
def test_changed_attribute_of_the_picture_changes_its_digest(keyword: str, value: object) -> None:
    dataset = instance()
    setattr(dataset, keyword, value)
    found = identity_of(dataset)
    assert found.attributes_sha256 != REFERENCE.attributes_sha256
    assert found.pixels_sha256 == REFERENCE.pixels_sha256


def test_other_spelling_of_a_number_is_the_same_number() -> None:
    dataset = instance()
    dataset.PixelSpacing = ["0.70", "7e-1"]
    dataset.WindowCenter = "40.0"
    assert identity_of(dataset).attributes_sha256 == REFERENCE.attributes_sha256


def test_empty_attribute_is_as_good_as_none() -> None:
    dataset = instance()
    dataset.PatientOrientation = None
    assert identity_of(dataset).attributes_sha256 == REFERENCE.attributes_sha256


def test_person_is_no_part_of_the_digest() -> None:
    dataset = instance()
    dataset.PatientName = "Nobody"
    assert identity_of(dataset) == REFERENCE
    assert not [keyword for keyword in PICTURE_ATTRIBUTES if keyword.startswith("PatientN")]


def test_container_in_a_png_does_not_change_its_identity() -> None:
    png = build_png(np.arange(48, dtype=np.uint8).reshape(6, 8, 1))
    sealed = embed_in_png(png, b"a container")
    assert identify(read_raster(sealed)) == identify(read_raster(png))


def test_changed_alpha_changes_the_pixels_of_a_png() -> None:
    samples = np.full((6, 8, 2), 200, np.uint8)
    changed = samples.copy()
    changed[3, 3, 1] = 199
    one, other = (identify(read_raster(build_png(each))) for each in (samples, changed))
    assert one.pixels_sha256 != other.pixels_sha256


def test_changed_colour_chunk_changes_the_attributes_of_a_png() -> None:
    samples = np.full((6, 8, 1), 200, np.uint8)
    one = identify(read_raster(build_png(samples)))
    other = identify(read_raster(build_png(samples, chunks=((b"gAMA", b"\0\0\xb1\x8f"),))))
    assert one.pixels_sha256 == other.pixels_sha256
    assert one.attributes_sha256 != other.attributes_sha256


# --- The digests by the letter of docs/format.md, without the code under test --------------


def test_pixel_digest_is_that_of_the_format() -> None:
    stored = ramp(40, 48, top=2000)
    values = hashlib.sha256(stored.astype("<i2").tobytes()).digest()
    expected = hashlib.sha256(b"miad/v1/pixels\0[1,40,48,1,12,1]\0" + values)
    assert REFERENCE.pixels_sha256 == expected.hexdigest()


@pytest.mark.parametrize("shape", [(40, 48), (9, 11), (3, 20)])
def test_tiles_are_those_of_the_format(shape: tuple[int, int]) -> None:
    rows, columns = shape
    words = np.random.default_rng(0).integers(0, 4096, (2, rows, columns, 1)).astype("u2")
    words[1, 0, 0, 0] |= 0x8000  # an overlay
    found = evidence_of(picture_of(build_dataset(words, bits_stored=12))).tiles
    expected = ""
    for i in range(8):
        for j in range(8):
            tile = words[
                :, i * rows // 8 : (i + 1) * rows // 8, j * columns // 8 : (j + 1) * columns // 8
            ]
            content = (tile & 0xFFF).tobytes() + (tile & 0xF000).tobytes()
            expected += hashlib.sha256(b"miad/v1/tile\0" + content).hexdigest()[:8]
    assert found == expected


def test_attributes_are_those_of_the_format() -> None:
    found = evidence_of(picture_of(instance())).attributes
    text = b'{"PixelSpacing":["0.7","0.7"]}'
    expected = hashlib.sha256(b"miad/v1/attributes\0" + text).hexdigest()[:8]
    assert found["PixelSpacing"] == expected
    assert set(found) <= {*PICTURE_ATTRIBUTES, "PhotometricInterpretation"}


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_attributes_read_from_their_bytes_are_those_that_pydicom_reads(syntax: str) -> None:
    dataset = instance(syntax)
    dataset.PatientOrientation = ["L", "P"]
    dataset.SliceThickness = " 1.50 "
    dataset.WindowCenter = ["40", "-600.0"]
    converted = dcmread(BytesIO(encode(dataset)))
    for element in converted:
        assert element is not None  # iterating converts every element
    raw = dcmread(BytesIO(encode(dataset)))
    assert attribute_facts(raw) == attribute_facts(converted)
    assert attribute_facts(raw)["WindowCenter"] == ["40", "-600"]


def changed(change: Callable[[Dataset], None]) -> bool:
    """Whether a change to an instance changes the digest of its attributes."""
    dataset = instance()
    change(dataset)
    return identity_of(dataset).attributes_sha256 != REFERENCE.attributes_sha256


def invert(dataset: Dataset) -> None:
    dataset.PhotometricInterpretation = "MONOCHROME1"


def draw_over(dataset: Dataset) -> None:
    dataset.add_new(0x60000010, "US", dataset.Rows)
    dataset.add_new(0x60003000, "OW", b"\xff" * 8)


def bend_the_greys(dataset: Dataset) -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4, 0, 16], bytes(8)
    dataset.VOILUTSequence = [table]


def turn_the_volume(dataset: Dataset) -> None:
    group, plane = Dataset(), Dataset()
    plane.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
    group.PlaneOrientationSequence = [plane]
    dataset.SharedFunctionalGroupsSequence = [group]


@pytest.mark.parametrize("change", [invert, draw_over, bend_the_greys, turn_the_volume])
def test_what_changes_the_look_of_a_picture_changes_the_digest(
    change: Callable[[Dataset], None],
) -> None:
    assert changed(change)


@pytest.mark.parametrize(("text", "written"), [("1_0", "1_0"), ("inf", "inf"), (" +1.50", "1.5")])
def test_a_number_is_what_the_standard_calls_one(text: str, written: str) -> None:
    dataset = instance()
    dataset.RescaleType = text
    assert attribute_facts(dataset)["RescaleType"] == [written]
