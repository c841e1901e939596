"""A glance says what reading the whole picture says, or nothing."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path, PurePath

import numpy as np
import pydicom.data
import pytest
from helpers import CT_IMAGE, build_dataset, build_dicom, build_png, encode, ramp
from pydicom import Dataset, dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from miad_cli.errors import PictureFailed
from miad_cli.imaging.derivation import embed_container
from miad_cli.imaging.dicom import DicomPicture
from miad_cli.imaging.glance import glance_at
from miad_cli.imaging.picture import Identity, container_in, identify, read_picture

GEOMETRY = {
    "PixelSpacing": ["0.70", "7e-1"],
    "ImagePositionPatient": [-1.5, 2, 3],
    "WindowCenter": 40,
    "RescaleType": "HU",
    "PixelPaddingValue": 2000,
    "PatientName": "Mustermann^Erika",
}
REAL_FILES = [
    path
    for folder in (Path(__file__).parents[1] / "vectors", Path(pydicom.data.__file__).parent)
    for path in sorted(folder.rglob("*.dcm"))
]


def read_in_full(content: bytes) -> tuple[Identity, bytes | None] | None:
    try:
        picture = read_picture(content, PurePath("one.dcm"))
    except PictureFailed:
        return None
    if not isinstance(picture, DicomPicture):
        return None
    return identify(picture), container_in(picture)


def seen_at_a_glance(content: bytes) -> tuple[Identity, bytes | None] | None:
    glance = glance_at(content)
    identity = glance and glance.identity()
    return (identity, glance.container) if glance and identity else None


def plain(**changes: object) -> Dataset:
    settings = {"bits_stored": 12, "signed": True, **GEOMETRY, **changes}
    dataset = build_dataset(ramp(40, 48, top=2000), **settings)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    return dataset


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("container", [None, b"a container", b"an even one "])
def test_plain_pictures_are_seen_as_they_are(
    syntax: str, signed: bool, container: bytes | None
) -> None:
    dataset = plain(syntax=syntax, signed=signed)
    if container:
        embed_container(dataset, container)
    content = encode(dataset)
    seen = seen_at_a_glance(content)
    assert seen is not None
    assert seen == read_in_full(content)


def test_frames_and_colours_are_seen_as_they_are() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (3, 9, 11, 3), np.uint8)
    for words in (colours, colours[:1], colours[..., :1], colours.astype("u4")):
        content = build_dicom(words)
        seen = seen_at_a_glance(content)
        assert seen is not None
        assert seen == read_in_full(content)


def test_values_beside_bits_stored_are_seen_as_they_are() -> None:
    overlay = ramp()
    overlay[0, 3, 3, 0] |= 0x8000
    for signed in (True, False):
        for high_bit in (11, 14):
            content = build_dicom(overlay, bits_stored=12, high_bit=high_bit, signed=signed)
            seen = seen_at_a_glance(content)
            assert seen is not None
            assert seen == read_in_full(content)


@pytest.mark.parametrize(
    "change",
    [
        {"syntax": ExplicitVRBigEndian},
        {"syntax": DeflatedExplicitVRLittleEndian},
        {"photometric": "PALETTE COLOR"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2"},
    ],
    ids=["big endian", "deflated", "palette", "dose"],
)
def test_what_is_not_plain_gets_no_glance(change: dict[str, object]) -> None:
    assert glance_at(encode(plain(**change))) is None


def test_compressed_and_raster_files_get_no_glance() -> None:
    dataset = dcmread(BytesIO(encode(plain())))
    dataset.compress(RLELossless, generate_instance_uid=False)
    assert glance_at(encode(dataset)) is None
    assert glance_at(build_png(np.zeros((6, 8, 1), np.uint8))) is None
    assert glance_at(b"") is None


def test_planes_one_after_another_get_no_glance() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (1, 9, 11, 3), np.uint8)
    assert glance_at(build_dicom(colours, planar=True)) is None


def test_a_header_that_says_something_else_gets_no_glance() -> None:
    """A file whose header calls it a DICOMDIR is one, whatever lies below."""
    content = encode(plain())
    assert seen_at_a_glance(content) is not None
    stored_as = CT_IMAGE.encode()
    directory = b"1.2.840.10008.1.3.10".ljust(len(stored_as), b"\0")
    content = content.replace(stored_as, directory, 1)
    assert read_in_full(content) is None
    assert glance_at(content) is None


def test_pixels_that_are_cut_short_or_go_on_get_no_glance() -> None:
    content = encode(plain())
    assert seen_at_a_glance(content) is not None
    assert glance_at(content[:-2]) is None
    dataset = plain()
    dataset.PixelData += bytes(2)
    assert glance_at(encode(dataset)) is None


def test_a_second_private_block_gets_no_glance() -> None:
    dataset = plain()
    dataset.private_block(0x4D49, "SOMEBODY ELSE", create=True).add_new(2, "OB", b"no container")
    embed_container(dataset, b"a container")
    content = encode(dataset)
    assert read_in_full(content) is not None
    assert glance_at(content) is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", REAL_FILES, ids=lambda path: path.name)
def test_real_files_are_seen_as_they_are_or_not_at_all(path: Path) -> None:
    content = path.read_bytes()
    seen = seen_at_a_glance(content)
    assert seen is None or seen == read_in_full(content)


def test_most_real_plain_files_get_a_glance() -> None:
    named = ("CT_small.dcm", "MR_small.dcm", "ok-compact-ct.dcm", "ok-compact-rgb.dcm")
    found = [path.name for path in REAL_FILES if path.name in named]
    seen = [path.name for path in REAL_FILES if path.name in named and glance_at(path.read_bytes())]
    assert seen == found
    assert set(seen) == set(named)


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_seen_as_they_are_or_not_at_all() -> None:
    dataset = plain()
    embed_container(dataset, b"a container")
    content = encode(dataset)
    header = len(content) - len(dataset.PixelData)
    generator, seen_differently, glances = np.random.default_rng(0), 0, 0
    good = seen_at_a_glance(content)
    for _ in range(1500):
        broken = bytearray(content)
        for place in generator.integers(132, header, generator.integers(1, 4)):
            broken[place] = generator.integers(0, 256)
        seen = seen_at_a_glance(bytes(broken))
        if seen is None:
            continue
        glances += 1
        seen_differently += seen != good
        assert seen == read_in_full(bytes(broken))
    assert glances > seen_differently > 100
