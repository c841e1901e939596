"""Eq. 6 on integers, against the formula in floating point and numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import noisy_logo, opaque_logo

from miad_cli.watermark.blend import (
    Mark,
    Tone,
    blend,
    blend_patch,
    corrections,
    estimate_patch,
    ink,
    tone_for,
    unblend,
)

WHITE_ON_BLACK = Tone(0, 255)


def patch_of(samples: int, low: int, high: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (2, 9, 11, samples), endpoint=True)


@pytest.mark.parametrize("alpha", [1, 64, 128, 200, 255])
@pytest.mark.parametrize("bounds", [(0, 255), (-1024, 3071), (0, 65535)])
def test_colour_follows_eq_6_within_rounding(alpha: int, bounds: tuple[int, int]) -> None:
    logo = noisy_logo(9, 11)
    original = patch_of(3, *bounds)
    blended = blend_patch(original, Mark(0, 0, alpha, logo), Tone(*bounds))
    weight = alpha / 255 * logo[..., 3:] / 255
    painted = bounds[0] + logo[..., :3] / 255 * (bounds[1] - bounds[0])
    expected = weight * painted + (1 - weight) * original
    assert np.abs(blended - expected).max() <= 1.0  # half a unit for the ink, half for the mix


@pytest.mark.parametrize("inverted", [False, True])
def test_grey_ink_is_luminance_between_black_and_white(inverted: bool) -> None:
    colours = np.zeros((1, 4, 4), np.uint8)
    colours[0, :, :3] = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 0, 255)]
    painted = ink(colours, Tone(-100, 410, inverted), samples=1)
    luminance = [0, 255, 76, 29]  # 0.299 x 255 and 0.114 x 255, rounded
    shown = [255 - one for one in luminance] if inverted else luminance
    assert painted.reshape(-1).tolist() == [-100 + 2 * one for one in shown]


def test_half_opaque_logo_at_half_weight_takes_a_quarter() -> None:
    logo = np.array([[[255, 255, 255, 51]]], np.uint8)  # a fifth
    patch = np.zeros((1, 1, 1, 1), np.int32)
    blended = blend_patch(patch, Mark(0, 0, 204, logo), Tone(0, 1000))  # four fifths
    assert blended.item() == 160


def test_opaque_logo_at_full_weight_leaves_only_the_logo() -> None:
    mark = Mark(0, 0, 255, opaque_logo(9, 11, (255, 255, 255)))
    assert set(blend_patch(patch_of(1, 0, 255), mark, Tone(3, 250)).reshape(-1).tolist()) == {250}


def test_logo_lands_at_its_corner_on_every_frame() -> None:
    stored = np.zeros((2, 6, 8, 1), np.int32)
    marked = blend(stored, Mark(5, 1, 255, opaque_logo(2, 3, (255, 255, 255))), WHITE_ON_BLACK)
    expected = np.zeros((6, 8), np.int32)
    expected[1:3, 5:8] = 255
    np.testing.assert_array_equal(marked[..., 0], np.stack([expected, expected]))
    assert not stored.any()


def test_estimate_is_off_by_no_more_than_rounding_allows() -> None:
    original = patch_of(1, 0, 4095)
    mark = Mark(0, 0, 128, opaque_logo(9, 11))
    blended = blend_patch(original, mark, Tone(0, 4095))
    missed = original - estimate_patch(blended, mark, Tone(0, 4095))
    assert np.abs(missed).max() == 1  # half a unit over 1 - 128/255, rounded


def test_moderate_alpha_needs_one_byte_a_pixel() -> None:
    stored = patch_of(1, 0, 65535)
    mark = Mark(2, 1, 200, opaque_logo(4, 5))
    tone = Tone(0, 65535)
    stream = corrections(stored, blend(stored, mark, tone), mark, tone)
    assert len(stream) == 1 + 2 * 4 * 5


def test_opaque_logo_needs_as_many_bytes_as_the_values() -> None:
    stored = patch_of(1, 60000, 65535)
    mark = Mark(2, 1, 255, opaque_logo(4, 5))
    tone = Tone(0, 65535)
    stream = corrections(stored, blend(stored, mark, tone), mark, tone)
    assert len(stream) == 1 + 3 * 2 * 4 * 5  # twice the value, for the sign, takes 17 bits


@pytest.mark.parametrize(
    "damage",
    [
        lambda stream: b"",
        lambda stream: stream[:-1],
        lambda stream: stream + b"\0",
        lambda stream: b"\0" + stream[1:],
        lambda stream: b"\x09" + stream[1:],
    ],
    ids=["empty", "cut", "longer", "no planes", "nine planes"],
)
def test_stream_that_does_not_fit_is_refused(damage: object) -> None:
    stored = patch_of(1, 0, 255)
    mark = Mark(0, 0, 90, opaque_logo(3, 3))
    marked = blend(stored, mark, WHITE_ON_BLACK)
    stream = corrections(stored, marked, mark, WHITE_ON_BLACK)
    with pytest.raises(ValueError, match="does not fit"):
        unblend(marked, mark, WHITE_ON_BLACK, damage(stream))


@pytest.mark.parametrize(
    ("padding", "beside"),
    [((0, 0), 1), ((255, 255), 254), ((10, 20), 21), ((200, 255), 199)],
)
def test_value_beside_the_padding_is_storable_and_none(
    padding: tuple[int, int], beside: int
) -> None:
    assert tone_for((0, 255), (0, 255), False, padding).beside == beside


def test_white_logo_beside_padding_at_the_top_is_one_less_than_white() -> None:
    tone = tone_for((0, 255), (0, 255), False, (255, 255))
    stored = np.array([[[[10], [255]]]], np.int32)
    marked = blend(stored, Mark(0, 0, 255, opaque_logo(1, 2, (255, 255, 255))), tone)
    assert marked.reshape(-1).tolist() == [254, 255]


def test_window_wider_than_the_file_is_cut_to_what_it_holds() -> None:
    tone = tone_for((-5000, 90000), (-2048, 2047), False, None)
    assert (tone.low, tone.high) == (-2048, 2047)
