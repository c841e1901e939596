"""The logo: load it, scale it (MIAD-MARK Eq. 5), and transform it so that people still know it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from miad_cli.errors import UsageError

Bytes = NDArray[np.uint8]

LARGEST_LOGO = 64_000_000
"""Pixels of a logo file beyond which it is refused."""

MOST_ROTATION = 90
"""Degrees either way that SIT may turn the logo. The paper gives no range; a logo on its side is
still recognised, one upside down looks like a mistake."""


@dataclass(frozen=True)
class Sit:
    """Semantically invariant transformation: rotation in degrees, hue shift n of 256, saturation
    and value in percent of what they were."""

    degrees: int = 0
    hue: int = 0
    saturation: int = 100
    value: int = 100


UNCHANGED = Sit()
"""No transformation."""


def draw_sit(generator: np.random.Generator) -> Sit:
    """A random SIT, each parameter uniform."""
    return Sit(
        degrees=int(generator.integers(-MOST_ROTATION, MOST_ROTATION + 1)),
        hue=int(generator.integers(0, 256)),
        saturation=int(generator.integers(60, 141)),
        value=int(generator.integers(60, 141)),
    )


def load_logo(path: Path) -> Bytes:
    """(rows, columns, 4) uint8 RGBA of a picture file.

    Raises:
        UsageError: there is no such file, it is no picture, or nothing in it is visible.
    """
    if not path.is_file():
        raise UsageError(f"{path}: there is no such logo file")
    try:
        with Image.open(path) as opened:
            if opened.width * opened.height > LARGEST_LOGO:
                raise UsageError(f"{path}: the logo is larger than any logo should be")
            logo = np.asarray(opened.convert("RGBA"))
    except UnidentifiedImageError:
        raise UsageError(
            f"{path}: not a picture that can be read",
            hint="Give the logo as PNG (an SVG must be exported first).",
        ) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise UsageError(f"{path}: the logo file is broken") from None
    if not (logo[..., 3] >= 128).any():
        raise UsageError(
            f"{path}: the logo has no opaque pixel, so nothing would be seen",
            hint="Export it with a visible foreground.",
        )
    return logo


def scaled_size(logo: Bytes, rows: int, columns: int, divisor: int) -> tuple[int, int]:
    """Eq. 5: height and width in pixels, [w', h'] = min(W / (sl w), H / (sl h)) [w, h]."""
    height, width = logo.shape[:2]
    factor = min(columns / (divisor * width), rows / (divisor * height))
    return max(1, int(height * factor + 1e-9)), max(1, int(width * factor + 1e-9))


def resize(logo: Bytes, height: int, width: int) -> Bytes:
    """The logo at height x width pixels.

    Colours are weighted by alpha while resampling, so that transparent pixels lend no colour.
    """
    if logo.shape[:2] == (height, width):
        return logo
    weighted = Image.fromarray(logo).convert("RGBa")
    return np.asarray(weighted.resize((width, height), Image.Resampling.BILINEAR).convert("RGBA"))


def transform(logo: Bytes, sit: Sit) -> Bytes:
    """The logo after `sit`; rotation enlarges its rectangle to `transformed_size`."""
    picture = Image.fromarray(logo)
    if sit.degrees:
        turned = picture.convert("RGBa").rotate(sit.degrees, Image.Resampling.BILINEAR, expand=True)
        picture = turned.convert("RGBA")
    if replace(sit, degrees=0) == UNCHANGED:
        return np.asarray(picture)
    return _recoloured(picture, sit)


def transformed_size(height: int, width: int, sit: Sit) -> tuple[int, int]:
    """Height and width of a logo of height x width after `sit`."""
    turned = Image.new("1", (width, height)).rotate(sit.degrees, expand=True)
    return turned.height, turned.width


def _recoloured(picture: Any, sit: Sit) -> Bytes:
    rgba = np.array(picture)
    hsv = np.asarray(Image.fromarray(rgba[..., :3]).convert("HSV")).astype(np.int32)
    hsv[..., 0] = (hsv[..., 0] + sit.hue) % 256
    hsv[..., 1] = np.minimum(hsv[..., 1] * sit.saturation // 100, 255)
    hsv[..., 2] = np.minimum(hsv[..., 2] * sit.value // 100, 255)
    rgba[..., :3] = np.asarray(Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB"))
    return rgba
