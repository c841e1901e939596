"""Logos: loaded with care, resampled without fringes, turned without losing a corner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import opaque_logo
from PIL import Image

from miad_cli.errors import UsageError
from miad_cli.watermark.logo import (
    MOST_ROTATION,
    UNCHANGED,
    Sit,
    draw_sit,
    load_logo,
    resize,
    transform,
)


def saved(folder: Path, logo: np.ndarray) -> Path:
    path = folder / "logo.png"
    Image.fromarray(logo).save(path)
    return path


def test_logo_is_loaded_as_rgba(tmp_path: Path) -> None:
    path = tmp_path / "logo.png"
    Image.new("RGB", (7, 3), (1, 2, 3)).save(path)
    logo = load_logo(path)
    assert logo.shape == (3, 7, 4)
    assert logo[0, 0].tolist() == [1, 2, 3, 255]


def test_missing_logo_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such logo"):
        load_logo(tmp_path / "logo.png")


def test_text_is_no_logo(tmp_path: Path) -> None:
    path = tmp_path / "logo.svg"
    path.write_text("<svg/>")
    with pytest.raises(UsageError, match="not a picture"):
        load_logo(path)


def test_broken_logo_is_said(tmp_path: Path) -> None:
    path = saved(tmp_path, np.random.default_rng(0).integers(0, 256, (90, 90, 4), np.uint8))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UsageError, match="broken"):
        load_logo(path)


def test_invisible_logo_is_refused(tmp_path: Path) -> None:
    logo = opaque_logo(8, 8)
    logo[..., 3] = 127
    with pytest.raises(UsageError, match="no opaque pixel"):
        load_logo(saved(tmp_path, logo))


def test_transparent_pixels_lend_no_colour_when_the_logo_shrinks() -> None:
    logo = np.zeros((40, 40, 4), np.uint8)
    logo[..., 1] = 255  # green, but transparent
    logo[10:30, 10:30] = (255, 0, 0, 255)
    small = transform(resize(logo, 7, 7), UNCHANGED)
    seen = small[small[..., 3] > 16]
    assert len(seen)
    assert seen[:, 1].max() <= 8


def test_logo_at_its_own_size_is_not_touched() -> None:
    logo = opaque_logo(9, 5, (12, 34, 56))
    np.testing.assert_array_equal(transform(resize(logo, 9, 5), UNCHANGED), logo)


def test_rotation_enlarges_the_rectangle_and_keeps_the_area() -> None:
    turned = transform(resize(opaque_logo(60, 60), 60, 60), Sit(degrees=30))
    side = 60 * (np.cos(np.pi / 6) + np.sin(np.pi / 6))
    assert np.abs(np.array(turned.shape[:2]) - side).max() <= 2
    assert turned[..., 3].sum() / 255 == pytest.approx(3600, rel=0.02)


def test_hue_shift_turns_red_into_cyan() -> None:
    recoloured = transform(resize(opaque_logo(4, 4), 4, 4), Sit(hue=128))
    red, green, blue = recoloured[0, 0, :3].tolist()
    assert red < 10
    assert green > 245
    assert blue > 245


def test_value_darkens_and_leaves_alpha() -> None:
    logo = opaque_logo(4, 4, (200, 200, 200))
    logo[0, 0, 3] = 9
    dark = transform(resize(logo, 4, 4), Sit(value=50))
    assert dark[1, 1, :3].tolist() == [100, 100, 100]
    np.testing.assert_array_equal(dark[..., 3], logo[..., 3])


def test_saturation_at_nothing_is_grey() -> None:
    assert (
        len(set(transform(resize(opaque_logo(4, 4), 4, 4), Sit(saturation=0))[0, 0, :3].tolist()))
        == 1
    )


def test_drawn_transformations_stay_within_their_ranges() -> None:
    generator = np.random.default_rng(0)
    drawn = [draw_sit(generator) for _ in range(3000)]
    assert {abs(one.degrees) for one in drawn} == set(range(MOST_ROTATION + 1))
    assert all(0 <= one.hue <= 255 for one in drawn)
    assert all(60 <= one.saturation <= 140 and 60 <= one.value <= 140 for one in drawn)
