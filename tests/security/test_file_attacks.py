"""Files that are not what they seem: each is refused or left out, and nothing stays behind.

One test for each kind that can be met; the depths of single formats are in `tests/unit`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from helpers import build_dicom, build_png, chunk, ramp
from PIL import Image

from miad_cli.errors import MiadError, PictureFailed
from miad_cli.imaging.dicom import DicomPicture, NoPicture
from miad_cli.imaging.picture import read_picture
from miad_cli.verify import Verdict, verify_file
from miad_cli.watermark.logo import load_logo

PNG_HEAD = b"\x89PNG\r\n\x1a\n"
COLOURS = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)


def header(columns: int, rows: int, bits: int = 8, colour: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, bits, colour, 0, 0, 0))


def bomb() -> bytes:
    """A few kilobytes that say they are 50,000 x 50,000 pixels."""
    packed = zlib.compress(bytes(1 << 20))
    return PNG_HEAD + header(50_000, 50_000) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def animation() -> bytes:
    frames = [Image.fromarray(COLOURS), Image.fromarray(255 - COLOURS)]
    target = BytesIO()
    frames[0].save(target, format="PNG", save_all=True, append_images=frames[1:])
    return target.getvalue()


def pages() -> bytes:
    frames = [Image.fromarray(COLOURS), Image.fromarray(255 - COLOURS)]
    target = BytesIO()
    frames[0].save(target, format="TIFF", save_all=True, append_images=frames[1:])
    return target.getvalue()


def announcing(rows: int) -> bytes:
    content = build_dicom(ramp(), bits_stored=12)
    return content.replace(
        b"\x28\x00\x10\x00US\x02\x00" + struct.pack("<H", 12),
        b"\x28\x00\x10\x00US\x02\x00" + struct.pack("<H", rows),
    )


REFUSED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "png bomb": ("x.png", bomb),
    "apng": ("x.png", animation),
    "png cut in its data": ("x.png", lambda: build_png(COLOURS)[:-40]),
    "png cut in its header": ("x.png", lambda: build_png(COLOURS)[:20]),
    "png of no pixels": ("x.png", lambda: PNG_HEAD + header(0, 0) + chunk(b"IEND", b"")),
    "tiff of two pages": ("x.tif", pages),
    "text called dcm": ("x.dcm", lambda: b"not DICOM"),
    "text called png": ("x.png", lambda: b"not a picture"),
    "empty file called dcm": ("x.dcm", lambda: b""),
    "dicom cut in its pixels": ("x.dcm", lambda: build_dicom(ramp(), bits_stored=12)[:-9]),
    "dicom cut in its header": ("x.dcm", lambda: build_dicom(ramp(), bits_stored=12)[:200]),
    "dicom of too many rows": ("x.dcm", lambda: announcing(65_535)),
    "dicom of no rows": ("x.dcm", lambda: announcing(0)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_whole_picture_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / REFUSED[name][0]
    path.write_bytes(REFUSED[name][1]())
    with pytest.raises(PictureFailed):
        read_picture(path.read_bytes(), path)
    found = verify_file(path, [])
    assert (found.verdict, found.exit_code) == (Verdict.UNREADABLE, 6)


def test_dicom_without_a_picture_is_told_from_a_broken_one() -> None:
    content = build_dicom(ramp(), bits_stored=12)
    whole = read_picture(content, Path("x.dcm"))
    assert isinstance(whole, DicomPicture)
    bare = content[: content.index(b"\xe0\x7f\x10\x00OW")]
    assert isinstance(read_picture(bare, Path("x.dcm")), NoPicture)


@pytest.mark.parametrize(
    "content",
    [b"", b"<svg xmlns='http://www.w3.org/2000/svg'/>", bomb(), build_png(COLOURS)[:-40]],
    ids=["empty", "svg", "bomb", "cut"],
)
def test_logo_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "logo.png").write_bytes(content)
    with pytest.raises(MiadError):
        load_logo(tmp_path / "logo.png")


def test_logo_that_is_transparent(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "logo.png")
    with pytest.raises(MiadError):
        load_logo(tmp_path / "logo.png")
