"""How stored values are shown: windows, tables, frames of Enhanced objects, pixels not square."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import build_dataset, picture_of, ramp
from pydicom import Dataset

from miad_cli.imaging.image import MedicalImage, Window, percentile_window


def image_of(words: np.ndarray | None = None, **settings: Any) -> MedicalImage:
    words = ramp() if words is None else words
    return picture_of(build_dataset(words, **{"bits_stored": 12, **settings})).image


def item(**attributes: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def close(window: Window, low: float, high: float, within: float) -> bool:
    return abs(window.low - low) <= within and abs(window.high - high) <= within


# --- Windows ----------------------------------------------------------------------------------


def test_exact_window_has_no_half_values() -> None:
    """PS3.3 C.11.2.1.3.2: black up to c - w/2, white above c + w/2."""
    settings = {"WindowCenter": 1000, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT"}
    assert image_of(**settings).window == Window(800, 1200)


def test_exact_window_may_be_narrower_than_one() -> None:
    settings = {"WindowCenter": 0.5, "WindowWidth": 0.5, "VOILUTFunction": "LINEAR_EXACT"}
    window = image_of(RescaleSlope=0.001, RescaleIntercept=0, **settings).window
    assert window == Window(250, 750)


def test_sigmoid_is_taken_for_the_line_through_5_and_95_percent() -> None:
    settings = {"WindowCenter": 2000, "WindowWidth": 600, "VOILUTFunction": "SIGMOID"}
    image = image_of(**settings)

    def shown(value: float) -> float:
        """PS3.3 C.11.2.1.3.1."""
        return float(1 / (1 + np.exp(-4 * (value - 2000) / 600)))

    for share in (0.05, 0.5, 0.95):
        value = image.window.low + share * (image.window.high - image.window.low)
        assert shown(value) == pytest.approx(share, abs=0.01)


def test_window_that_cannot_be_used_gives_way_to_the_next() -> None:
    assert image_of(WindowCenter=[5, 1000], WindowWidth=[0, 401]).window == Window(800, 1200)


# --- Tables -----------------------------------------------------------------------------------


def table(values: np.ndarray, first: int, bits: int = 16) -> Dataset:
    return item(
        LUTDescriptor=[len(values) % 65536, first, bits], LUTData=values.astype("<u2").tobytes()
    )


def with_table(keyword: str, lut: Dataset, **settings: Any) -> MedicalImage:
    dataset = build_dataset(ramp(), bits_stored=12, **settings)
    lut["LUTDescriptor"].VR, lut["LUTData"].VR = "US", "OW"
    setattr(dataset, keyword, [lut])
    return picture_of(dataset).image


def test_voi_table_is_taken_for_its_transition() -> None:
    values = np.clip((np.arange(4096) - 1000) * 65535 / 1000, 0, 65535)
    image = with_table("VOILUTSequence", table(values, 0))
    assert close(image.window, 1000, 2000, 3)
    assert not image.inverted


def test_voi_table_that_falls_inverts() -> None:
    values = 65535 - np.clip((np.arange(4096) - 1000) * 65535 / 1000, 0, 65535)
    image = with_table("VOILUTSequence", table(values, 0))
    assert close(image.window, 1000, 2000, 3)
    assert image.inverted
    assert not with_table("VOILUTSequence", table(values, 0), photometric="MONOCHROME1").inverted


def test_voi_table_is_asked_in_modality_units() -> None:
    values = np.clip(np.arange(1001) * 65.535, 0, 65535)
    image = with_table("VOILUTSequence", table(values, 500), RescaleSlope=2, RescaleIntercept=-100)
    assert close(image.window, (500 + 100) / 2, (1500 + 100) / 2, 3)


def test_window_comes_before_voi_table() -> None:
    image = with_table(
        "VOILUTSequence", table(np.arange(4096), 0), WindowCenter=100, WindowWidth=51
    )
    assert image.window == Window(74, 124)


def test_window_reaches_through_a_modality_table() -> None:
    """Output is 10 times the stored value: a window of 10,000 to 20,000 is 1000 to 2000."""
    image = with_table(
        "ModalityLUTSequence", table(np.minimum(np.arange(4096) * 10, 65535), 0),
        WindowCenter=15000, WindowWidth=10001,
    )  # fmt: skip
    assert close(image.window, 1000, 2000, 3)


def test_modality_table_that_falls_inverts() -> None:
    image = with_table("ModalityLUTSequence", table(4095 - np.arange(4096), 0))
    assert image.inverted
    assert image.window == percentile_window(image.stored, None)


def test_broken_table_does_not_count() -> None:
    image = with_table("VOILUTSequence", table(np.arange(10), 0))
    lut = table(np.arange(10), 0)
    lut.LUTDescriptor = [4096, 0, 16]
    assert with_table("VOILUTSequence", lut).window == percentile_window(image.stored, None)


# --- Enhanced objects -------------------------------------------------------------------------


def enhanced(shared: dict[str, Any], frames: list[dict[str, Any]], **settings: Any) -> MedicalImage:
    words = np.repeat(ramp(), max(len(frames), 3), axis=0)
    dataset = build_dataset(words, bits_stored=12, **settings)
    dataset.SharedFunctionalGroupsSequence = [groups(**shared)]
    if frames:
        dataset.PerFrameFunctionalGroupsSequence = [groups(**one) for one in frames]
    return picture_of(dataset).image


def groups(**macros: dict[str, Any]) -> Dataset:
    return item(**{keyword: [item(**values)] for keyword, values in macros.items()})


def voi(centre: float, width: float) -> dict[str, Any]:
    return {"FrameVOILUTSequence": {"WindowCenter": centre, "WindowWidth": width}}


def rescale(slope: float, intercept: float) -> dict[str, Any]:
    values = {"RescaleSlope": slope, "RescaleIntercept": intercept, "RescaleType": "HU"}
    return {"PixelValueTransformationSequence": values}


def test_shared_window_and_rescale_count() -> None:
    image = enhanced({**voi(40, 401), **rescale(1, -1024)}, [])
    assert image.window == Window(864, 1264)


def test_key_frame_decides_where_frames_differ() -> None:
    frames = [voi(100, 51), voi(1000, 51), voi(3000, 51)]
    assert enhanced({}, frames).window == Window(974, 1024)


def test_frames_own_rescale_is_used_for_its_window() -> None:
    frames = [rescale(1, 0), rescale(2, 0), rescale(4, 0)]
    assert close(enhanced(voi(1000, 201), frames).window, 450, 550, 1)


def test_groups_come_before_the_data_set() -> None:
    image = enhanced(voi(1000, 51), [], WindowCenter=7, WindowWidth=9)
    assert image.window == Window(974, 1024)


def test_negative_slope_in_groups_inverts() -> None:
    assert enhanced({**voi(-1000, 51), **rescale(-1, 0)}, []).inverted


# --- Padding ----------------------------------------------------------------------------------


def test_padding_written_with_the_wrong_sign_is_understood() -> None:
    dataset = build_dataset(ramp(top=2000), signed=True)
    dataset.add_new("PixelPaddingValue", "US", 63536)
    assert picture_of(dataset).image.padding == (-2000, -2000)


# --- Pixels that are not square ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "aspect"),
    [
        ({}, 1),
        ({"PixelSpacing": [2, 1]}, 2),
        ({"ImagerPixelSpacing": [0.5, 1]}, 0.5),
        ({"PixelAspectRatio": [4, 3]}, 4 / 3),
        ({"PixelSpacing": [1, 1], "PixelAspectRatio": [4, 3]}, 1),
        ({"PixelSpacing": [1, 0]}, 1),
        ({"PixelAspectRatio": [100, 1]}, 1),
    ],
    ids=str,
)
def test_height_of_a_pixel_over_its_width(attributes: dict[str, Any], aspect: float) -> None:
    assert image_of(**attributes).pixel_aspect == pytest.approx(aspect)


def test_spacing_of_an_enhanced_object_counts() -> None:
    measures = {"PixelMeasuresSequence": {"PixelSpacing": [3, 1]}}
    assert enhanced(measures, []).pixel_aspect == 3
