"""Logos that are drawn to see how much depends on the logo (MIAD-MARK Fig. 7)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from miad_cli.demo import draw_logo
from miad_cli.watermark.blend import Bytes
from miad_cli.watermark.logo import load_logo

DRAWN = {
    "plate": "emblem and name on a white plate",
    "wordmark": "a word of one colour, nothing behind it",
    "disc": "a full disc of one colour",
    "tiles": "tiles of many colours",
    "ring": "a cross in a ring, two colours",
    "stripes": "light and dark stripes, no colour",
}
"""Logos that are drawn for this, and what they are like."""


def drawn_logos() -> Iterator[tuple[str, Bytes]]:
    """The drawn logos by name: (rows, columns, 4) uint8 RGBA."""
    with tempfile.TemporaryDirectory(prefix="miad-") as folder:
        path = Path(folder) / "plate.png"
        draw_logo(path)
        yield "plate", load_logo(path)
    for name, draw in _DRAW.items():
        canvas = Image.new("RGBA", (440, 244), (0, 0, 0, 0))
        draw(ImageDraw.Draw(canvas))
        yield name, np.asarray(canvas)


def _wordmark(pen: ImageDraw.ImageDraw) -> None:
    font = ImageFont.load_default(96)
    pen.text((220, 122), "CLINIC", font=font, fill=(200, 30, 45, 255), anchor="mm")


def _disc(pen: ImageDraw.ImageDraw) -> None:
    pen.ellipse((98, 0, 341, 243), fill=(0, 122, 94, 255))


def _tiles(pen: ImageDraw.ImageDraw) -> None:
    colours = ((226, 88, 34), (36, 113, 163), (241, 196, 15), (125, 60, 152), (40, 180, 99))
    for row in range(4):
        for column in range(7):
            colour = colours[(2 * row + column) % len(colours)]
            left, top = 4 + column * 62, 2 + row * 61
            pen.rectangle((left, top, left + 56, top + 55), fill=(*colour, 255))


def _ring(pen: ImageDraw.ImageDraw) -> None:
    pen.ellipse((98, 0, 341, 243), outline=(20, 60, 140, 255), width=26)
    pen.rectangle((204, 56, 236, 187), fill=(200, 30, 45, 255))
    pen.rectangle((154, 106, 286, 138), fill=(200, 30, 45, 255))


def _stripes(pen: ImageDraw.ImageDraw) -> None:
    for place, left in enumerate(range(0, 440, 44)):
        grey = 235 if place % 2 else 30
        pen.rectangle((left, 0, left + 43, 243), fill=(grey, grey, grey, 255))


_DRAW = {
    "wordmark": _wordmark, "disc": _disc, "tiles": _tiles, "ring": _ring, "stripes": _stripes,
}  # fmt: skip
