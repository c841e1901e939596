"""What happened to a picture whose digests do not match: where, how much, which attributes.

All but the number of pixels is found without any key, from the short digests in the manifest.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)

from miad_cli.imaging.dicom import DicomPicture
from miad_cli.imaging.digests import TILES, tile_regions
from miad_cli.imaging.image import Stored
from miad_cli.imaging.picture import Picture, evidence_of
from miad_cli.imaging.raster import raster_format
from miad_cli.seal.container import Manifest

_LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEG2000, JPEGLSNearLossless, HTJ2K)
_SIDE = 512
_FRAME = (255, 0, 0)


@dataclass(frozen=True)
class Changes:
    """What differs from what was sealed.

    Attributes:
        tiles: numbers of the tiles of 8 x 8 that differ, row by row from 0.
        rows, columns: first and last row and column of the picture that those tiles cover; None
            where no tile differs.
        attributes: keywords that were changed, added or removed.
        pixels: how many pixels differ, over all frames; None where nobody can tell.
    """

    tiles: tuple[int, ...] = ()
    rows: tuple[int, int] | None = None
    columns: tuple[int, int] | None = None
    attributes: tuple[str, ...] = ()
    pixels: int | None = None

    def counted(self, expected: Stored, found: Stored) -> Changes:
        """These changes with the number of pixels that differ from `expected`."""
        if expected.shape != found.shape:
            return self
        return replace(self, pixels=int(np.any(expected != found, axis=-1).sum()))

    @property
    def sentence(self) -> str:
        """The changes in words; empty where there are none."""
        said = []
        if self.pixels is not None:
            said.append(f"{self.pixels} pixel{'' if self.pixels == 1 else 's'} changed")
        if self.rows and self.columns:
            said.append(
                f"{len(self.tiles)} of {TILES * TILES} tiles changed, "
                f"rows {self.rows[0]}–{self.rows[1]}, "
                f"columns {self.columns[0]}–{self.columns[1]}"
            )
        if self.attributes:
            said.append(f"changed attributes: {', '.join(self.attributes)}")
        return "; ".join(said)


def changes_in(picture: Picture, manifest: Manifest) -> Changes:
    """What in `picture` differs from what `manifest` says."""
    found = evidence_of(picture)
    width = len(found.tiles) // (TILES * TILES)
    tiles = tuple(
        number
        for number in range(TILES * TILES)
        if found.tiles[number * width :][:width] != manifest.tiles[number * width :][:width]
    )
    names = sorted(found.attributes.keys() | manifest.attributes.keys())
    attributes = tuple(
        name for name in names if found.attributes.get(name) != manifest.attributes.get(name)
    )
    return Changes(tiles, *_extent(picture, tiles), attributes)


def lossy_encoding(picture: Picture) -> str:
    """The name of the encoding that can have cost detail, or nothing; miad writes none of them."""
    if isinstance(picture, DicomPicture):
        syntax = UID(picture.dataset.file_meta.TransferSyntaxUID)
        return syntax.name if syntax in _LOSSY else ""
    return "JPEG" if raster_format(picture.content[:16]) == "jpeg" else ""


def drawing_of(picture: Picture, changes: Changes) -> bytes:
    """A PNG of the middle frame, at most 512 pixels wide or high, changed tiles framed in red."""
    image = picture.image
    shown = image.windowed(image.stored[image.key_frame])
    drawn = Image.fromarray((shown * 255).round().astype(np.uint8), "RGB")
    drawn.thumbnail((_SIDE, _SIDE))
    across, down = drawn.width / image.columns, drawn.height / image.rows
    pen = ImageDraw.Draw(drawn)
    regions = tile_regions(image.rows, image.columns)
    for rows, columns in (regions[number] for number in changes.tiles):
        left, top = round(columns.start * across), round(rows.start * down)
        right, bottom = round(columns.stop * across) - 1, round(rows.stop * down) - 1
        pen.rectangle((left, top, max(left, right), max(top, bottom)), outline=_FRAME)
    target = io.BytesIO()
    drawn.save(target, format="PNG")
    return target.getvalue()


def _extent(
    picture: Picture, tiles: tuple[int, ...]
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """First and last row, first and last column, of the tiles."""
    if not tiles:
        return None, None
    if isinstance(picture, DicomPicture):
        size = picture.layout.rows, picture.layout.columns
    else:
        size = picture.image.rows, picture.image.columns
    covered = [tile_regions(*size)[number] for number in tiles]
    rows, columns = ([pair[axis] for pair in covered] for axis in (0, 1))
    return (
        (min(one.start for one in rows), max(one.stop for one in rows) - 1),
        (min(one.start for one in columns), max(one.stop for one in columns) - 1),
    )
