"""PNG, JPEG and TIFF of every kind: read upright and in full depth, or refused."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import SimpleITK
from helpers import build_png, chunk
from PIL import Image

from miad_cli.errors import PictureFailed
from miad_cli.imaging.dicom import DicomPicture
from miad_cli.imaging.picture import read_picture
from miad_cli.imaging.raster import (
    container_in_png,
    embed_in_png,
    png_chunks,
    raster_format,
    read_raster,
    without_container,
    write_png,
)

KINDS = [(count, dtype) for dtype in ("u1", "u2") for count in (1, 2, 3, 4)]
"""Samples a pixel and their type: grey, grey with alpha, RGB, RGBA."""


def noise(count: int, dtype: str, rows: int = 9, columns: int = 11) -> np.ndarray:
    top = np.iinfo(dtype).max
    generator = np.random.default_rng(count)
    return generator.integers(0, top, (rows, columns, count), dtype, endpoint=True)


def saved(picture: Image.Image, kind: str, **settings: Any) -> bytes:
    target = BytesIO()
    picture.save(target, format=kind, **settings)
    return target.getvalue()


def refusal(content: bytes) -> str:
    with pytest.raises(PictureFailed) as refused:
        read_raster(content)
    return refused.value.message


# --- PNG --------------------------------------------------------------------------------------


@pytest.mark.parametrize("interlaced", [False, True], ids=["plain", "interlaced"])
@pytest.mark.parametrize(("count", "dtype"), KINDS)
def test_png_is_read_in_full_depth(count: int, dtype: str, interlaced: bool) -> None:
    samples = noise(count, dtype)
    picture = read_raster(build_png(samples, interlaced=interlaced))
    colours = 1 if count < 3 else 3
    np.testing.assert_array_equal(picture.image.stored[0], samples[..., :colours])
    assert picture.image.bounds == (0, np.iinfo(dtype).max)
    if count in (2, 4):
        np.testing.assert_array_equal(picture.alpha, samples[..., -1])
    else:
        assert picture.alpha is None


@pytest.mark.parametrize(("count", "dtype"), KINDS)
def test_written_png_holds_the_new_values_and_the_old_alpha(count: int, dtype: str) -> None:
    picture = read_raster(build_png(noise(count, dtype)))
    values = (picture.image.bounds[1] - picture.image.stored).astype(np.int32)
    again = read_raster(write_png(picture, values))
    np.testing.assert_array_equal(again.image.stored, values)
    assert again.image.bounds == picture.image.bounds
    if picture.alpha is None:
        assert again.alpha is None
    else:
        np.testing.assert_array_equal(again.alpha, picture.alpha)


def test_png_says_how_its_pixels_are_shaped() -> None:
    def shaped(across: int, down: int) -> float:
        chunks = ((b"pHYs", struct.pack(">IIB", across, down, 0)),)
        return read_raster(build_png(noise(1, "u1"), chunks=chunks)).image.pixel_aspect

    assert shaped(2000, 1000) == 2  # two pixels across for one down: each is twice as high
    assert shaped(1000, 4000) == 0.25
    assert shaped(0, 1000) == shaped(1, 1000) == 1
    assert read_raster(build_png(noise(1, "u1"))).image.pixel_aspect == 1


def test_colour_palette_becomes_rgb() -> None:
    palette = Image.new("P", (4, 2))
    palette.putpalette([0, 0, 0, 200, 10, 20] + [0] * 762)
    palette.putpixel((1, 0), 1)
    picture = read_raster(saved(palette, "PNG"))
    assert picture.image.stored[0, 0, :2].tolist() == [[0, 0, 0], [200, 10, 20]]
    assert picture.image.facts.photometric_interpretation == "RGB"


def test_grey_palette_becomes_grey() -> None:
    palette = Image.new("P", (4, 2), 3)
    palette.putpalette([tone for tone in range(256) for _ in range(3)])
    picture = read_raster(saved(palette, "PNG"))
    assert picture.image.is_grey
    assert set(picture.image.stored.reshape(-1).tolist()) == {3}


def test_transparent_palette_entry_becomes_alpha() -> None:
    palette = Image.new("P", (4, 2), 1)
    palette.putpalette([0, 0, 0, 200, 10, 20] + [0] * 762)
    palette.putpixel((0, 0), 0)
    picture = read_raster(saved(palette, "PNG", transparency=0))
    assert picture.alpha is not None
    assert picture.alpha[0, :2].tolist() == [0, 255]


def test_single_bits_become_black_and_white() -> None:
    bits = Image.new("1", (9, 3))
    bits.putpixel((8, 2), 1)
    picture = read_raster(saved(bits, "PNG"))
    assert picture.image.bounds == (0, 255)
    assert picture.image.stored.sum() == picture.image.stored[0, 2, 8, 0] == 255


def test_animation_is_refused() -> None:
    frames = [Image.new("L", (8, 8), tone) for tone in (0, 99)]
    content = saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert "not one picture" in refusal(content)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("count", [1, 3])
def test_cut_png_is_refused(count: int, dtype: str) -> None:
    content = build_png(noise(count, dtype, 40, 40))
    assert refusal(content[: len(content) // 2])


def test_png_of_nothing_but_a_signature_is_refused() -> None:
    assert refusal(build_png(noise(1, "u1"))[:8])


def bomb(side: int, bits: int = 8, colour: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("side", [7000, 10_000, 60_000])
@pytest.mark.parametrize(("bits", "colour"), [(8, 0), (16, 2)])
def test_header_that_announces_too_much_is_refused(side: int, bits: int, colour: int) -> None:
    assert "pixels" in refusal(bomb(side, bits, colour))


def test_colour_chunks_are_carried_and_texts_are_not() -> None:
    gamma, text = (b"gAMA", b"\0\0\xb1\x8f"), (b"tEXt", b"Patient\0Erika Mustermann")
    picture = read_raster(build_png(noise(3, "u1"), chunks=(gamma, text)))
    written = write_png(picture, picture.image.stored)
    kinds = [kind for kind, _ in png_chunks(written)]
    assert kinds.count(b"gAMA") == 1
    assert kinds.index(b"gAMA") < kinds.index(b"IDAT")
    assert b"Mustermann" not in written
    assert read_raster(written).chunks == (gamma,)


# --- Container chunk --------------------------------------------------------------------------


@pytest.mark.parametrize("container", [b"", b"IEND IDAT", bytes(range(256)) * 9])
def test_container_comes_back_from_a_png(container: bytes) -> None:
    png = build_png(noise(3, "u1"))
    sealed = embed_in_png(png, container)
    assert container_in_png(sealed) == container
    assert without_container(sealed) == png
    kinds = [kind for kind, _ in png_chunks(sealed)]
    assert kinds[-2:] == [b"miAd", b"IEND"]
    with Image.open(BytesIO(sealed)) as opened:
        opened.verify()


def test_png_without_the_chunk_holds_no_container() -> None:
    assert container_in_png(build_png(noise(1, "u1"))) is None


def test_chunk_that_runs_past_the_end_is_none() -> None:
    sealed = embed_in_png(build_png(noise(1, "u1")), b"a container")
    assert container_in_png(sealed[:-20]) is None


# --- JPEG and TIFF ----------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_is_read_upright(orientation: int) -> None:
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :16] = 250  # a white square at the top left
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(
        Image.fromarray(np.ascontiguousarray(turned)), "JPEG", exif=exif, quality=95, subsampling=0
    )
    picture = read_raster(content)
    assert picture.image.stored.shape == (1, 32, 48, 3)
    assert np.abs(picture.image.stored[0].astype(int) - upright).max() < 40


def test_grey_jpeg_is_grey() -> None:
    picture = read_raster(saved(Image.new("L", (20, 10), 99), "JPEG"))
    assert picture.image.is_grey
    assert picture.image.facts.photometric_interpretation == "MONOCHROME2"


def test_cut_jpeg_is_refused() -> None:
    content = saved(Image.fromarray(noise(3, "u1", 64, 64)), "JPEG")
    assert refusal(content[: len(content) // 2])


@pytest.mark.parametrize("count", [1, 3])
def test_tiff_of_8_bits_is_read(count: int) -> None:
    samples = noise(count, "u1")
    picture = read_raster(saved(Image.fromarray(samples.squeeze()), "TIFF"))
    np.testing.assert_array_equal(picture.image.stored[0], samples)


@pytest.mark.parametrize("count", [1, 3])
def test_tiff_of_16_bits_is_read_in_full_depth(count: int, tmp_path: Path) -> None:
    samples = noise(count, "u2")
    path = tmp_path / "picture.tiff"
    image = SimpleITK.GetImageFromArray(samples.squeeze(), isVector=count > 1)
    SimpleITK.WriteImage(image, str(path))
    picture = read_raster(path.read_bytes())
    np.testing.assert_array_equal(picture.image.stored[0], samples)
    assert picture.bits == 16


def test_tiff_of_several_pages_is_refused() -> None:
    pages = [Image.new("L", (8, 8), tone) for tone in (0, 99)]
    content = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert "several pages" in refusal(content)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_tiff_beyond_16_bits_is_refused(mode: str) -> None:
    wide = Image.new(mode, (8, 8), -5)
    assert refusal(saved(wide, "TIFF"))


# --- Which format -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name"), [("PNG", "png"), ("JPEG", "jpeg"), ("TIFF", "tiff"), ("GIF", None)]
)
def test_format_is_told_by_the_first_bytes(kind: str, name: str | None) -> None:
    assert raster_format(saved(Image.new("L", (8, 8)), kind)[:16]) == name


def test_content_decides_and_not_the_name() -> None:
    png = build_png(noise(1, "u1"))
    picture = read_picture(png, PurePosixPath("scan.dcm"))
    assert not isinstance(picture, DicomPicture)
    assert picture.image.rows == 9


@pytest.mark.parametrize("name", ["notes.txt", "README", "scan.dcm.miad"])
def test_what_is_no_image_is_none(name: str) -> None:
    assert read_picture(b"some text", PurePosixPath(name)) is None


@pytest.mark.parametrize("name", ["scan.dcm", "scan.IMA", "a.png", "a.JPG", "a.tiff"])
def test_name_that_promises_a_picture_makes_a_failure(name: str) -> None:
    with pytest.raises(PictureFailed):
        read_picture(b"some text", PurePosixPath(name))
