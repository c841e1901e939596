"""What compressed frames say of themselves, and headers that say something else."""

from __future__ import annotations

import struct
from io import BytesIO

import numpy as np
import pytest
from helpers import build_dataset, ramp
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from miad_cli.errors import PictureFailed
from miad_cli.imaging.codestreams import Shape, refuse_other_shape, shape_of

PICTURE = ramp(48, 64, top=255, dtype="u1")
COLOURS = np.repeat(PICTURE, 3, axis=3)


def compressed(words: np.ndarray, syntax: str, **settings) -> Dataset:
    dataset = build_dataset(words, **settings)
    if syntax == JPEGBaseline8Bit:
        target = BytesIO()
        Image.fromarray(words[0].squeeze()).save(target, "JPEG")
        dataset.PixelData = encapsulate([target.getvalue()])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = syntax
        return dataset
    if syntax == JPEG2000Lossless and words.shape[-1] == 3:
        dataset.PhotometricInterpretation = "YBR_RCT"
    dataset.compress(syntax, generate_instance_uid=False)
    return dataset


def first_frame(dataset: Dataset) -> bytes:
    return next(generate_frames(dataset.PixelData, number_of_frames=1))


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("words", [PICTURE, COLOURS], ids=["grey", "colour"])
def test_shape_is_read_from_the_codestream(syntax: str, words: np.ndarray) -> None:
    frame = first_frame(compressed(words, syntax))

    assert shape_of(frame) == Shape(48, 64, words.shape[-1], 8)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_bits_are_those_of_the_codestream(syntax: str) -> None:
    frame = first_frame(compressed(ramp(48, 64), syntax, bits_stored=12))

    assert shape_of(frame) == Shape(48, 64, 1, 12)


def test_a_codestream_in_boxes_is_found() -> None:
    frame = first_frame(compressed(PICTURE, JPEG2000Lossless))
    boxes = b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">I4s", 8 + len(frame), b"jp2c")

    assert shape_of(boxes + frame) == Shape(48, 64, 1, 8)


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLSLossless, JPEG2000Lossless])
def test_every_beginning_of_a_codestream_is_read_or_none(syntax: str) -> None:
    frame = first_frame(compressed(PICTURE, syntax))

    found = {shape_of(frame[:length]) for length in range(len(frame))}

    assert found == {None, Shape(48, 64, 1, 8)}


@pytest.mark.parametrize("frame", [b"", b"\xff\xd8", b"\xff\xd8\0\0", b"\xff\xd8" + b"\xff" * 99])
def test_what_is_no_codestream_has_no_shape(frame: bytes) -> None:
    assert shape_of(frame) is None


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"Rows": 96}, "48 x 64 pixels of 1 samples where the header says 96 x 64"),
        ({"Columns": 32}, "48 x 64 pixels of 1 samples where the header says 48 x 32"),
        ({"SamplesPerPixel": 3}, "of 1 samples where .* of 3 samples"),
    ],
    ids=["rows", "columns", "samples"],
)
def test_a_header_that_says_something_else_is_refused(
    syntax: str, attributes: dict[str, int], reason: str
) -> None:
    dataset = compressed(PICTURE, syntax)
    refuse_other_shape(dataset)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)

    with pytest.raises(PictureFailed, match=reason):
        refuse_other_shape(dataset)


def test_more_bits_than_are_allocated_are_refused() -> None:
    dataset = compressed(ramp(48, 64), JPEGLSLossless, bits_stored=12)
    dataset.BitsAllocated = 8

    with pytest.raises(PictureFailed, match="12 bits where the header allocates 8"):
        refuse_other_shape(dataset)


def test_jpeg_in_words_of_32_bits_is_refused() -> None:
    dataset = compressed(PICTURE, JPEGBaseline8Bit)
    dataset.BitsAllocated = 32

    with pytest.raises(PictureFailed, match="8 bits where the header allocates 32"):
        refuse_other_shape(dataset)


def test_every_frame_is_looked_at() -> None:
    dataset = compressed(np.concatenate([PICTURE, PICTURE]), JPEGLSLossless)
    small = first_frame(compressed(PICTURE[:, :24], JPEGLSLossless))
    dataset.PixelData = encapsulate([first_frame(dataset), small])

    with pytest.raises(PictureFailed, match="24 x 64"):
        refuse_other_shape(dataset)


def test_frames_that_begin_with_something_else_are_refused() -> None:
    dataset = compressed(PICTURE, JPEGLSLossless)
    dataset.PixelData = encapsulate([b"no codestream at all"])

    with pytest.raises(PictureFailed, match="does not begin as its transfer syntax says"):
        refuse_other_shape(dataset)


def test_nothing_is_said_of_frames_without_a_size() -> None:
    dataset = compressed(PICTURE, RLELossless)
    dataset.Rows = 96

    refuse_other_shape(dataset)
    refuse_other_shape(build_dataset(PICTURE))


@pytest.mark.parametrize(
    "name",
    ["MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_jpeg_dcmtk.dcm",
     "JPGExtended.dcm", "examples_jpeg2k.dcm", "GDCMJ2K_TextGBR.dcm"],
)  # fmt: skip
def test_real_files_are_what_their_headers_say(name: str) -> None:
    dataset = dcmread(get_testdata_file(name))
    refuse_other_shape(dataset)
    dataset.Rows += 1
    with pytest.raises(PictureFailed, match="where the header says"):
        refuse_other_shape(dataset)
