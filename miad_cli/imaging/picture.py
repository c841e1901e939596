"""Any picture file: tell the formats apart, read it, say what a signature would be made over."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import PurePath
from typing import cast

from pydicom.uid import UID

from miad_cli.errors import PictureFailed
from miad_cli.imaging.derivation import embedded_container
from miad_cli.imaging.dicom import (
    LARGEST_DECODED,
    LARGEST_INFLATED,
    DicomPicture,
    NoPicture,
    is_bare_dicom,
    is_dicom,
    read_attributes,
    read_dicom,
)
from miad_cli.imaging.digests import (
    fact_digests,
    facts_digest,
    pixels_digest,
    split_words,
    tile_digests,
    values_digest,
)
from miad_cli.imaging.raster import (
    RasterPicture,
    container_in_png,
    png_chunks,
    raster_format,
    read_raster,
    without_container,
)
from miad_cli.imaging.structure import structure_fault

Picture = DicomPicture | RasterPicture

_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_RASTER_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


@dataclass(frozen=True)
class Identity:
    """What a manifest says of a picture, as the file shows it now (docs/format.md, Digests)."""

    subject: str
    pixels_sha256: str
    pixel_data_sha256: str
    attributes_sha256: str


@dataclass(frozen=True)
class Evidence:
    """What a manifest holds to say where a picture was changed (docs/format.md, Digests).

    Attributes:
        tiles: 8 hex digits for each of 8 x 8 tiles.
        attributes: 8 hex digits for each of the picture's attributes that it has.
    """

    tiles: str
    attributes: dict[str, str]


def read_picture(
    content: bytes, name: PurePath, largest: int = LARGEST_DECODED
) -> Picture | NoPicture | None:
    """The picture in a file; NoPicture for other DICOM objects; None for what is no image file.

    The content decides, not the name. A name that promises a picture which the content is not
    makes the difference between left out and failed. A DICOM file with more than `largest` bytes
    of decoded pixels is refused.

    Raises:
        PictureFailed: an image file that cannot be read.
    """
    if is_dicom(content[:132]):
        return read_dicom(content, largest)
    if raster_format(content[:16]):
        return read_raster(content)
    suffix = name.suffix.lower()
    if not content and suffix in ("", *_DICOM_SUFFIXES, *_RASTER_SUFFIXES):
        raise PictureFailed("the file is empty")
    if is_bare_dicom(content[:8]):
        return read_dicom(content, largest)
    if suffix in _DICOM_SUFFIXES:
        raise PictureFailed("not a DICOM file (no DICM prefix)")
    if suffix in _RASTER_SUFFIXES:
        raise PictureFailed(f"not a {suffix[1:].upper()} picture, whatever its name says")
    return None


def identify(picture: Picture) -> Identity:
    """The identity of a picture; a container inside the file does not change it."""
    if isinstance(picture, DicomPicture):
        pixel_data = cast("bytes", picture.pixel_data)  # any buffer will do
        of_pixel_data = hashlib.sha256(pixel_data).hexdigest()
        return Identity(
            str(picture.dataset.get("SOPInstanceUID") or ""),
            pixels_digest(picture.layout, picture.words, pixel_data, of_pixel_data),
            of_pixel_data,
            facts_digest(picture.attributes),
        )
    bare = without_container(picture.content)
    compressed = b"".join(data for kind, data in png_chunks(bare) if kind == b"IDAT")
    samples = picture.image.stored
    alpha = picture.alpha.tobytes() if picture.alpha is not None else b""
    pixels = values_digest(samples, picture.bits, signed=False)
    shown = [f"{kind.decode('latin-1')}:{data.hex()}" for kind, data in picture.chunks]
    return Identity(
        "sha256:" + hashlib.sha256(bare).hexdigest(),
        hashlib.sha256(pixels.encode() + alpha).hexdigest() if alpha else pixels,
        hashlib.sha256(compressed).hexdigest(),
        facts_digest({"chunks": shown}),
    )


def evidence_of(picture: Picture) -> Evidence:
    """Short digests of the parts of a picture; they are only needed once something changed."""
    if isinstance(picture, DicomPicture):
        layout = picture.layout
        values, unused = split_words(layout, picture.words)
        tiles = tile_digests(values, layout.bits_stored, layout.signed, unused)
        return Evidence(tiles, fact_digests(picture.attributes))
    extra = picture.alpha[None, ..., None] if picture.alpha is not None else None
    tiles = tile_digests(picture.image.stored, picture.bits, False, extra)
    facts: dict[str, list[str]] = {}
    for kind, data in picture.chunks:
        facts.setdefault(kind.decode("latin-1"), []).append(data.hex())
    return Evidence(tiles, fact_digests(facts))


_UNCOMPRESSED = (
    "MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422",
)  # fmt: skip
"""What readers agree on of pixels that are not compressed (PS3.3 C.7.6.3.1.2)."""


def doubt_about(picture: Picture) -> str:
    """Why others may see another picture in this file than we do; empty where they may not.

    For files whose seal is right: what was signed is what our reader found.
    """
    if isinstance(picture, RasterPicture):
        return ""
    said = str(picture.dataset.PhotometricInterpretation)
    compressed = UID(picture.dataset.file_meta.TransferSyntaxUID).is_encapsulated
    if not compressed and said not in _UNCOMPRESSED:
        return "its pixels are not compressed, and its photometric interpretation is none for that"
    return structure_fault(picture.content, max(LARGEST_INFLATED, len(picture.content)))


def container_in(picture: Picture | NoPicture) -> bytes | None:
    """The sealed container inside a file, or None."""
    if isinstance(picture, NoPicture):
        return None
    if isinstance(picture, DicomPicture):
        return embedded_container(picture.dataset)
    return container_in_png(picture.content)


def container_in_file(content: bytes) -> bytes | None:
    """The container inside the bytes of a file, whatever its pixels are: none is decoded, so it
    does not matter how many there are or whether they can be decoded here.

    None where there is none. Nothing that can be a container (no bytes) where our block is broken.

    Raises:
        PictureFailed: a DICOM file that cannot be read, or no image file at all.
    """
    if not is_dicom(content[:132]) and raster_format(content[:16]):
        return container_in_png(content)
    return embedded_container(read_attributes(content))
