"""PNG, JPEG and TIFF: read all three, write PNG.

Pillow reads 16-bit colour PNG and TIFF as 8-bit without a word, so those go through SimpleITK,
which in turn knows no 16-bit grey with transparency: that is 4 bytes a pixel and filtered like
8-bit RGBA (PNG 9.2), so as that Pillow reads and writes it.
"""

from __future__ import annotations

import io
import struct
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from miad_cli.errors import PictureFailed
from miad_cli.imaging.image import MedicalImage, StudyFacts, Window

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CONTAINER_CHUNK = b"miAd"
"""Ancillary, private, not safe to copy by editors that change the picture (PNG 5.4)."""

_PHOTOMETRIC, _ORIENTATION = 262, 274
"""TIFF tags; photometric interpretation 0 is WhiteIsZero."""

LARGEST_PIXELS = 6000 * 6000 * 4
"""Samples a raster picture may have before it is refused."""

_GREY_WITH_ALPHA, _RGB_WITH_ALPHA = 4, 6
"""Colour types of PNG (11.2.2)."""

_KEPT_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"pHYs")
"""How the picture is to be shown; texts and EXIF (which holds a thumbnail) are not copied."""


@dataclass(frozen=True, eq=False)
class RasterPicture:
    """A PNG, JPEG or TIFF file.

    Attributes:
        content: the file, byte for byte.
        alpha: (rows, columns) transparency of the original, carried unchanged, or None.
        chunks: PNG chunks that say how the picture is to be shown, as (type, data).
    """

    content: bytes
    image: MedicalImage
    alpha: NDArray[np.unsignedinteger[Any]] | None
    chunks: tuple[tuple[bytes, bytes], ...]

    @property
    def bits(self) -> int:
        return 8 if self.image.bounds[1] == 255 else 16


def raster_format(head: bytes) -> str | None:
    """`png`, `jpeg` or `tiff` by the first bytes of a file, else None."""
    if head.startswith(PNG_SIGNATURE):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "tiff"
    return None


def read_raster(content: bytes) -> RasterPicture:
    """Read one file, upright, as grey or RGB of 8 or 16 bits.

    Raises:
        PictureFailed: it cannot be decoded, is animated or has several pages, or is too large.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            samples = _samples(content)
        except PictureFailed:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError):
            raise PictureFailed("the picture unpacks to more pixels than a picture has") from None
        except Exception as error:  # a broken file makes Pillow's plugins raise anything
            raise PictureFailed(
                f"the picture cannot be decoded ({type(error).__name__})"
            ) from error
    kept = tuple(chunk for chunk in png_chunks(content) if chunk[0] in _KEPT_CHUNKS)
    if not kept:
        kept = _profile_chunk(content)
    colour, alpha = _split_alpha(samples)
    top = int(np.iinfo(samples.dtype).max)
    photometric = "MONOCHROME2" if colour.shape[2] == 1 else "RGB"
    image = MedicalImage(
        stored=colour[None],
        bounds=(0, top),
        window=Window(0, top),
        facts=StudyFacts(photometric_interpretation=photometric),
        pixel_aspect=_pixel_aspect(kept),
    )
    return RasterPicture(content, image, alpha, kept)


def write_png(picture: RasterPicture, stored: NDArray[np.integer[Any]]) -> bytes:
    """A PNG of `stored` (1, rows, columns, samples) with the original's alpha and colour chunks."""
    dtype = np.uint8 if picture.bits == 8 else np.uint16
    samples = stored[0].astype(dtype)
    if picture.alpha is not None:
        samples = np.concatenate([samples, picture.alpha[..., None].astype(dtype)], axis=2)
    encoded = _encode_png(samples)
    return _with_chunks(encoded, picture.chunks)


def embed_in_png(png: bytes, container: bytes) -> bytes:
    """`png` with the container as a private chunk before IEND."""
    end = png.rindex(b"IEND") - 4
    return png[:end] + _chunk(CONTAINER_CHUNK, container) + png[end:]


def container_in_png(content: bytes) -> bytes | None:
    """The container chunk of a PNG, or None."""
    return next((data for kind, data in png_chunks(content) if kind == CONTAINER_CHUNK), None)


def without_container(content: bytes) -> bytes:
    """The PNG as it was before the container was put in."""
    position, kept = len(PNG_SIGNATURE), [PNG_SIGNATURE]
    for kind, data in png_chunks(content):
        end = position + 12 + len(data)
        if kind != CONTAINER_CHUNK:
            kept.append(content[position:end])
        position = end
    return b"".join(kept) + content[position:]


def png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, data) of every whole chunk of a PNG; nothing for other formats."""
    position = len(PNG_SIGNATURE) if content.startswith(PNG_SIGNATURE) else len(content)
    while position + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        if position + 12 + length > len(content):
            return
        yield kind, content[position + 8 : position + 8 + length]
        position += 12 + length


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _with_chunks(png: bytes, chunks: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """Insert chunks behind IHDR, where all of the kept kinds may stand (PNG 5.6)."""
    header_end = len(PNG_SIGNATURE) + 25
    return png[:header_end] + b"".join(_chunk(*one) for one in chunks) + png[header_end:]


def _pixel_aspect(chunks: tuple[tuple[bytes, bytes], ...]) -> float:
    """Height of a pixel over its width, as pHYs says (PNG 11.3.5.3: pixels per unit, x and y)."""
    for kind, data in chunks:
        if kind == b"pHYs" and len(data) == 9:
            across, down = struct.unpack(">II", data[:8])
            if across and down and 0.1 <= across / down <= 10:
                return float(across / down)
    return 1.0


def _profile_chunk(content: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """The colour profile of a JPEG or TIFF as the chunk a PNG has for it (PNG 11.3.3.3)."""
    with Image.open(io.BytesIO(content)) as opened:
        profile = opened.info.get("icc_profile") if opened.format != "PNG" else None
    if not isinstance(profile, bytes) or not profile:
        return ()
    return ((b"iCCP", b"ICC profile\0\0" + zlib.compress(profile)),)


def _samples(content: bytes) -> NDArray[np.unsignedinteger[Any]]:
    """(rows, columns, samples) of uint8 or uint16; samples 1 to 4."""
    with Image.open(io.BytesIO(content)) as opened:
        if opened.width * opened.height * 4 > LARGEST_PIXELS:
            raise PictureFailed(f"{opened.width} x {opened.height} pixels are more than is allowed")
        if getattr(opened, "n_frames", 1) > 1 and opened.format != "MPO":
            raise PictureFailed("an animation or a file of several pages, not one picture")
        if opened.format == "PNG" and tuple(content[24:26]) == (16, _GREY_WITH_ALPHA):
            return _upright(_deep_grey_with_alpha(content), opened.getexif().get(_ORIENTATION, 1))
        if _has_16_bit_samples(content, opened) and not opened.mode.startswith("I"):
            samples = _through_simpleitk(content, opened.format or "PNG")
            if opened.format == "TIFF" and opened.tag_v2.get(_PHOTOMETRIC) == 0:  # type: ignore[attr-defined]
                samples = np.iinfo(samples.dtype).max - samples
            return _upright(samples, opened.getexif().get(_ORIENTATION, 1))
        upright = ImageOps.exif_transpose(opened)
        if upright.mode in ("I;16", "I;16B", "I;16L", "I"):
            wide = np.asarray(upright)
            if wide.min() < 0 or wide.max() > 0xFFFF:
                raise PictureFailed("grey values beyond 16 bits")
            grey = wide.astype(np.uint16)[..., None]
            inverted = opened.format == "TIFF" and opened.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]
            return 0xFFFF - grey if inverted else grey
        if upright.mode == "F":
            raise PictureFailed("floating point pixels; export them as 8 or 16 bit")
        mode = _plain_mode(upright)
        samples = np.asarray(upright if upright.mode == mode else upright.convert(mode))
        return samples[..., None] if samples.ndim == 2 else samples


def _deep_grey_with_alpha(content: bytes) -> NDArray[np.unsignedinteger[Any]]:
    with Image.open(io.BytesIO(_relabelled(content, 8, _RGB_WITH_ALPHA))) as opened:
        filtered_alike = np.asarray(opened)
    return filtered_alike.view(">u2").astype(np.uint16)


def _relabelled(png: bytes, depth: int, colour_type: int) -> bytes:
    """The PNG with another bit depth and colour type in its header (PNG 11.2.2)."""
    header = png[16:24] + bytes([depth, colour_type]) + png[26:29]
    return png[:8] + _chunk(b"IHDR", header) + png[33:]


def _upright(
    samples: NDArray[np.unsignedinteger[Any]], orientation: int
) -> NDArray[np.unsignedinteger[Any]]:
    """Samples as EXIF Orientation (1 to 8) says they are to be seen."""
    if orientation in (5, 6, 7, 8):
        samples = samples.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples


def _plain_mode(image: Image.Image) -> str:
    transparent = image.has_transparency_data
    if image.mode in ("1", "L", "LA") or (image.mode == "P" and _is_grey_palette(image)):
        return "LA" if transparent else "L"
    return "RGBA" if transparent else "RGB"


def _is_grey_palette(image: Image.Image) -> bool:
    palette = np.array(image.convert("RGB"))
    return bool((palette == palette[..., :1]).all())


def _has_16_bit_samples(content: bytes, opened: Image.Image) -> bool:
    if opened.format == "PNG":
        return bool(content[24] == 16)
    if opened.format == "TIFF":
        bits = opened.tag_v2.get(258, (8,))  # type: ignore[attr-defined]
        return bool(max(bits) > 8)
    return False


def _through_simpleitk(content: bytes, kind: str) -> NDArray[np.unsignedinteger[Any]]:
    import SimpleITK

    with tempfile.TemporaryDirectory(prefix="miad-") as folder:
        path = Path(folder) / f"picture.{kind.lower()}"
        path.write_bytes(content)
        samples = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    if samples.dtype != np.uint16:
        raise PictureFailed(f"{samples.dtype} samples; only 8 and 16 bit are read")
    if samples.ndim == 4 and samples.shape[0] == 1:
        samples = samples[0]
    shaped: NDArray[np.unsignedinteger[Any]] = samples.reshape(*samples.shape[:2], -1)
    return shaped


def _split_alpha(
    samples: NDArray[np.unsignedinteger[Any]],
) -> tuple[NDArray[np.unsignedinteger[Any]], NDArray[np.unsignedinteger[Any]] | None]:
    if samples.shape[2] in (2, 4):
        return samples[..., :-1], samples[..., -1]
    return samples, None


def _encode_png(samples: NDArray[np.unsignedinteger[Any]]) -> bytes:
    if samples.dtype == np.uint16 and samples.shape[2] == 2:
        alike = _encode_png(samples.astype(">u2").view(np.uint8))
        return _relabelled(alike, 16, _GREY_WITH_ALPHA)
    if samples.dtype == np.uint16 and samples.shape[2] > 1:
        return _encode_through_simpleitk(samples)
    target = io.BytesIO()
    flat = samples[..., 0] if samples.shape[2] == 1 else samples
    Image.fromarray(np.ascontiguousarray(flat)).save(target, format="PNG")
    return target.getvalue()


def _encode_through_simpleitk(samples: NDArray[np.unsignedinteger[Any]]) -> bytes:
    import SimpleITK

    with tempfile.TemporaryDirectory(prefix="miad-") as folder:
        path = Path(folder) / "picture.png"
        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(samples), isVector=True)
        SimpleITK.WriteImage(image, str(path))
        return path.read_bytes()
