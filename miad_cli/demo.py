"""The demonstration: real DICOM files that pydicom brings along, protected, verified, unlocked."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from miad_cli.imaging.picture import read_picture

Bytes = NDArray[np.uint8]

STUDY = {
    "head-ct.dcm": "J2K_pixelrep_mismatch.dcm",
    "abdomen-mr.dcm": "examples_overlay.dcm",
    "colour-ultrasound.dcm": "examples_rgb_color.dcm",
}
"""Files of the demonstration, and what pydicom calls them: a CT of the head compressed as
JPEG 2000, an MR of the abdomen of 12 bits, and an 8-bit colour ultrasound."""

_PANEL = 320
_INK, _PAPER, _BOX = (32, 33, 36), (255, 255, 255), (255, 176, 0)


@dataclass(frozen=True)
class Row:
    """One line of the comparison; rectangles are x, y, width, height in pixels."""

    name: str
    attention: tuple[tuple[int, int, int, int], ...]
    caption: str


def lay_out_study(folder: Path) -> Path:
    """Copy the demonstration's DICOM files to `folder/study`, and draw `folder/hospital.png`."""
    from pydicom.data.data_manager import DATA_ROOT

    bundled = Path(DATA_ROOT) / "test_files"
    study = folder / "study"
    study.mkdir(parents=True)
    for name, example in STUDY.items():
        shutil.copyfile(bundled / example, study / name)
    draw_logo(folder / "hospital.png")
    return study


def draw_logo(path: Path) -> None:
    """A hospital's logo of 882 x 490 pixels: an emblem and a name on a white plate."""
    blue, white = (0, 84, 140, 255), (255, 255, 255, 255)
    picture = Image.new("RGBA", (882, 490), (0, 0, 0, 0))
    pen = ImageDraw.Draw(picture)
    pen.rounded_rectangle((0, 0, 881, 489), radius=60, fill=white)
    pen.rounded_rectangle((40, 60, 390, 430), radius=90, fill=blue)
    pen.rectangle((185, 115, 245, 375), fill=white)
    pen.rectangle((85, 215, 345, 275), fill=white)
    pen.text((635, 190), "ST. ANNA", font=_font(100), fill=blue, anchor="mm")
    pen.text((635, 310), "HOSPITAL", font=_font(90), fill=blue, anchor="mm")
    picture.save(path)


def comparison(study: Path, protected: Path, unlocked: Path, rows: list[Row]) -> Image.Image:
    """Original, lesion boxes, protected, unlocked, side by side; one row a file."""
    height = _PANEL + 56
    sheet = Image.new("RGB", (4 * (_PANEL + 16) + 16, len(rows) * height + 40), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(("original", "model attention", "protected", "unlocked")):
        place = (16 + column * (_PANEL + 16) + _PANEL // 2, 20)
        pen.text(place, title, font=_font(20), fill=_INK, anchor="mm")
    for number, row in enumerate(rows):
        top = 40 + number * height
        original = shown(study / row.name)
        panels = (
            original,
            _with_boxes(original, row.attention),
            shown(protected / row.name),
            shown(unlocked / row.name),
        )
        for column, panel in enumerate(panels):
            _paste(sheet, panel, 16 + column * (_PANEL + 16), top)
        pen.text(
            (16, top + _PANEL + 20),
            f"{row.name}: {row.caption}",
            font=_font(16),
            fill=_INK,
            anchor="lm",
        )
    return sheet


def shown(path: Path) -> Bytes:
    """A file's key frame as it is displayed, (rows, columns, 3) uint8."""
    picture = read_picture(path.read_bytes(), path)
    if picture is None or not hasattr(picture, "image"):
        raise ValueError(f"{path} holds no picture")
    image = picture.image
    windowed = image.windowed(image.stored[image.key_frame])
    pixels: Bytes = np.round(windowed * 255).astype(np.uint8)
    return pixels


def _with_boxes(pixels: Bytes, boxes: tuple[tuple[int, int, int, int], ...]) -> Bytes:
    picture = Image.fromarray(pixels)
    pen = ImageDraw.Draw(picture)
    width = max(1, max(picture.size) // 160)
    for x, y, w, h in boxes:
        pen.rectangle((x, y, x + w - 1, y + h - 1), outline=_BOX, width=width)
    return np.asarray(picture)


def _paste(sheet: Image.Image, pixels: Bytes, left: int, top: int) -> None:
    picture = Image.fromarray(pixels)
    scale = _PANEL / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    kind = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    picture = picture.resize(size, kind)
    frame = Image.new("RGB", (_PANEL, _PANEL), (16, 16, 16))
    frame.paste(picture, ((_PANEL - size[0]) // 2, (_PANEL - size[1]) // 2))
    sheet.paste(frame, (left, top))


def _font(size: int) -> Any:
    return ImageFont.load_default(size)
